"""Models of torchvision, timm and transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from secateur.errors import InputError
from secateur.models.sources import SOURCES, Loaded, Source, import_library, unknown_model, unusable

__all__: list[str] = []

_IMAGE = 224
_INCEPTION_IMAGE = 299
_TOKENS = 32


def _torchvision(name: str, pretrained: bool, given: Mapping[str, Any]) -> Loaded:
    models = import_library("torchvision.models")
    if name not in models.list_models():
        raise unknown_model("torchvision", name, models.list_models())
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained and name in _backboned(models):
        # These fetch a backbone of their own unless told not to.
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3") and not pretrained:
        options["init_weights"] = False
    model = _built(name, lambda: models.get_model(name, **{**options, **given}))
    size = _INCEPTION_IMAGE if name == "inception_v3" else getattr(model, "image_size", _IMAGE)
    return Loaded(name, model, torch.randn(1, 3, int(size), int(size)), random=not pretrained)


def _backboned(models: Any) -> list[str]:
    """Segmentation and detection models."""
    return [
        *models.list_models(module=models.segmentation),
        *models.list_models(module=models.detection),
    ]


def _torchvision_names() -> Iterable[str]:
    return import_library("torchvision.models").list_models()


def _timm(name: str, pretrained: bool, given: Mapping[str, Any]) -> Loaded:
    timm = import_library("timm", "timm")
    if not timm.is_model(name.split(".")[0]):
        raise unknown_model("timm", name, timm.list_models())
    model = _built(name, lambda: timm.create_model(name, pretrained=pretrained, **given))
    size = (getattr(model, "default_cfg", None) or {}).get("input_size", (3, _IMAGE, _IMAGE))
    return Loaded(name, model, torch.randn(1, *size), random=not pretrained)


def _timm_names() -> Iterable[str]:
    return import_library("timm", "timm").list_models()


def _hf(name: str, pretrained: bool, given: Mapping[str, Any]) -> Loaded:
    transformers = import_library("transformers", "hf")
    path = Path(name).expanduser()
    if not path.exists() and not pretrained:
        raise InputError(
            f"there is no file or folder {name!r}; pass a config.json, a folder with one, or "
            "--pretrained with the name of a model on the Hugging Face hub"
        )
    local = path.exists()
    folder = path.parent if path.is_file() else path
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path) if local else name,
            local_files_only=local,
            trust_remote_code=False,
            **given,
        )
    except Exception as error:  # a library's own errors, of any kind
        raise unusable(f"{name} cannot be built", error) from error
    kind = _built(name, lambda: _architecture(transformers, config))
    weights = not local or (path.is_dir() and any(folder.glob("*.safetensors")))
    if weights:
        model = _built(
            name,
            lambda: kind.from_pretrained(
                str(folder) if local else name,
                local_files_only=local,
                use_safetensors=True,
                trust_remote_code=False,
                config=config,
            ),
        )
    else:
        build = kind if kind.__name__ != "AutoModel" else kind.from_config
        model = _built(name, lambda: build(config))
    return Loaded(name, model, _hf_inputs(model, config), random=not weights)


def _architecture(transformers: Any, config: Any) -> Any:
    """The class that the configuration names, or the bare model of its family."""
    for name in getattr(config, "architectures", None) or []:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    return transformers.AutoModel


def _hf_inputs(model: Any, config: Any) -> dict[str, Any]:
    """One example by the name of the model's main input."""
    main = getattr(model, "main_input_name", "input_ids")
    inputs: dict[str, Any] = {}
    if main == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", _IMAGE)
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        inputs[main] = torch.randn(1, getattr(vision, "num_channels", 3), height, width)
    elif main == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 1500)
        inputs[main] = torch.randn(1, getattr(config, "num_mel_bins", 80), frames)
    elif main == "input_values":
        inputs[main] = torch.randn(1, 16_000)
    else:
        inputs[main] = _tokens(config)
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _tokens(config)
    if hasattr(model, "get_text_features") and "input_ids" not in inputs:
        inputs["input_ids"] = _tokens(config)
    return inputs


def _tokens(config: Any) -> torch.Tensor:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = int(getattr(text, "vocab_size", None) or 1000)
    longest = int(getattr(text, "max_position_embeddings", None) or _TOKENS)
    return torch.randint(vocabulary, (1, min(_TOKENS, longest)))


def _built(name: str, build: Any) -> Any:
    try:
        return build()
    except Exception as error:  # a library's own errors, of any kind
        raise unusable(f"{name} cannot be built", error) from error


SOURCES.register("torchvision")(
    Source("torchvision:NAME", "models of torchvision", _torchvision, _torchvision_names)
)
SOURCES.register("timm")(Source("timm:NAME", "models of timm", _timm, _timm_names))
SOURCES.register("hf")(
    Source(
        "hf:CONFIG-OR-FOLDER",
        "Hugging Face transformers, from a config.json or a folder with one",
        _hf,
    )
)
