"""Write tests/architectures.json: which architectures coverage runs on, how big, at which input.

For timm it takes the smallest member of every family (the module that defines it), up to 60
million parameters. Families whose smallest member is larger are built shallower or narrower, by
the keyword arguments in ``SMALLER``. Input images are reduced where the model still runs on them.

Run it again when torchvision or timm are updated; it takes about fifteen minutes on two cores:

    python benchmarks/architecture_table.py
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import architectures  # noqa: E402
from secateur.profiling.profile import profile  # noqa: E402

LARGEST = 60_000_000
# What makes families of large models small; an empty row takes the model as it is.
SMALLER: dict[str, dict[str, Any]] = {
    "beit": {"depth": 4, "embed_dim": 192, "num_heads": 3},
    "deepseek_vit": {"depth": 4, "embed_dim": 256, "num_heads": 4},
    "gemma4_vit": {"depth": 4, "embed_dim": 256, "num_heads": 4},
    "mobilenetv5": {"channel_multiplier": 0.5},
    "naflexvit": {"depth": 4, "embed_dim": 192, "num_heads": 3},
    "nasnet": {},
    "pnasnet": {},
    "qwen3_vit": {"depth": 4, "embed_dim": 256, "num_heads": 4},
    "vgg": {},
    "vision_transformer_sam": {"depth": 4, "embed_dim": 192, "num_heads": 3},
}
# Reduced image sizes, tried in this order; the model's own comes last.
SIZES = (128, 144, 160, 168, 192, 224)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, inputs: Any) -> int:
    """Return the multiply-accumulates of one example of the batch."""
    return profile(model.eval(), inputs).macs // architectures.BATCH


def timm_choice(cache: Path | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return family -> (smallest model, builder's keyword arguments)."""
    import timm

    sizes: dict[str, dict[str, int | str]] = {}
    if cache is not None and cache.exists():
        sizes = json.loads(cache.read_text())
    for family in timm.list_modules():
        if family in sizes:
            continue
        sizes[family] = {}
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    sizes[family][name] = parameters(timm.create_model(name))
            except Exception as error:
                sizes[family][name] = f"{type(error).__name__}: {error}"
        print(family, len(sizes[family]), flush=True)
        if cache is not None:
            cache.write_text(json.dumps(sizes))
    chosen = {}
    for family, members in sizes.items():
        # timm's own test models are a few thousand parameters: no architecture anyone uses.
        real = {
            n: p for n, p in members.items() if isinstance(p, int) and not n.startswith("test_")
        }
        name = min(real, key=lambda n: (real[n], n))
        if real[name] <= LARGEST:
            chosen[family] = (name, {})
        elif family in SMALLER:
            chosen[family] = (name, SMALLER[family])
        else:
            print(
                f"{family}: smallest is {name} with {real[name] / 1e6:.0f} M parameters: left out"
            )
    return chosen


def _runs(build: Callable[..., nn.Module], options: dict[str, Any], shape: list[int]) -> Any:
    """Return (model, MACs) where the model builds, runs and trains on this shape, or None."""
    try:
        torch.manual_seed(0)
        model = build(**options)
        x = torch.randn(architectures.BATCH, *shape)
        macs = count_macs(model, x)
        # Training catches maps shrunk to one pixel, which batch norm cannot normalise.
        with torch.no_grad():
            model.train()(x)
        return model, macs
    except Exception as error:
        print("    ", shape, options, type(error).__name__, str(error)[:90].replace("\n", " "))
        return None


def row(
    build: Callable[..., nn.Module],
    own: list[int],
    options: dict[str, Any],
    resizable: bool,
    sized_by: str | None = None,
) -> dict[str, Any]:
    """Find the smallest shape that works, and measure the model there."""
    channels, size, _ = own
    smaller = [s for s in SIZES if s < size] if resizable or sized_by else []
    for candidate in [*smaller, size]:
        named = {} if resizable or candidate == size else {sized_by: candidate}
        found = _runs(build, options | named, [channels, candidate, candidate])
        if found is None:
            continue
        model, macs = found
        out = {
            "parameters": parameters(model),
            "input": [channels, candidate, candidate],
            "macs": macs,
        }
        return out | ({"options": options | named} if options | named else {})
    raise RuntimeError("it runs on no input size")


def timm_rows(cache: Path | None, known: dict[str, Any]) -> dict[str, Any]:
    import timm

    rows = {}
    for family, (name, options) in sorted(timm_choice(cache).items()):
        if name in known:
            rows[name] = known[name]
            continue
        defaults = timm.models.get_pretrained_cfg(name)

        def build(name: str = name, **options: Any) -> nn.Module:
            return timm.create_model(name, **options)

        own = list(defaults.input_size)
        fixed = bool(defaults.fixed_input_size)
        # Fixed sizes up to 256 stay: window and pooling layouts are chosen for them.
        sized_by = "img_size" if fixed and own[1] > 256 else None
        rows[name] = row(build, own, options, not fixed, sized_by) | {"family": family}
        print(family, name, rows[name], flush=True)
    return rows


def torchvision_rows(known: dict[str, Any]) -> dict[str, Any]:
    import torchvision

    rows = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        if name in known:
            rows[name] = known[name]
            continue

        def build(name: str = name, **options: Any) -> nn.Module:
            return architectures._torchvision(name, **options)

        windowed = name.startswith(("swin", "maxvit"))
        patches = name.startswith("vit_")
        large = name.startswith(("vit_l", "vit_h"))
        if patches and large:
            patch = int(name.split("_")[-1])
            rows[name] = row(build, [3, 8 * patch, 8 * patch], {"image_size": 8 * patch}, False)
        else:
            own = 299 if name == "inception_v3" else 224
            rows[name] = row(build, [3, own, own], {}, not (windowed or patches))
        print(name, rows[name], flush=True)
    return rows


def segmentation_rows() -> dict[str, Any]:
    import torchvision

    rows = {}
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):

        def build(name: str = name, **options: Any) -> nn.Module:
            return architectures._segmentation(name, **options)

        options = {} if name.startswith("lraspp") else {"aux_loss": True}
        rows[name] = row(build, [3, 224, 224], options, True)
        print(name, rows[name], flush=True)
    return rows


def hugging_face_rows() -> dict[str, Any]:
    from hf_architectures import HF_ARCHITECTURES

    rows = {}
    for name, (build, inputs) in HF_ARCHITECTURES.items():
        model = build()
        rows[name] = {"parameters": parameters(model), "macs": count_macs(model, inputs())}
    return rows


def yolo_rows() -> dict[str, Any]:
    from detectors import DETECTORS

    return {
        name: row(lambda build=build, **_: build(), [3, 128, 128], {}, False)
        for name, build in DETECTORS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=architectures.SETS, help="only this set; keep the others")
    parser.add_argument("--keep", action="store_true", help="measure only what is not listed")
    parser.add_argument("--cache", type=Path, help="keep the sizes of all timm models here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    architectures.import_torchvision()
    import timm
    import torchvision
    import transformers

    path = architectures.TABLE
    table = json.loads(path.read_text()) if path.exists() else {}
    known = table if options.keep else {}
    makers = {
        "torchvision": lambda: torchvision_rows(known.get("torchvision", {})),
        "segmentation": segmentation_rows,
        "timm": lambda: timm_rows(options.cache, known.get("timm", {})),
        "hf": hugging_face_rows,
        "yolo": yolo_rows,
    }
    table["versions"] = {
        module.__name__: module.__version__.split("+")[0]
        for module in (torchvision, timm, transformers)
    }
    for kind, make in makers.items():
        if options.set in (None, kind):
            table[kind] = make()
    lines = []
    for kind in ("versions", *(k for k in architectures.SETS if k in table)):
        rows = ",\n".join(f"  {json.dumps(n)}: {json.dumps(r)}" for n, r in table[kind].items())
        lines.append(f'"{kind}": {{\n{rows}\n}}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
