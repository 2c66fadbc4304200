"""Every architecture that coverage is measured on: name, set, builder, example inputs, size.

The names, sizes and input shapes come from ``architectures.json``, so listing them builds and
imports nothing; ``python benchmarks/architecture_table.py`` writes that file anew. A name is
``SET:MODEL`` (``"timm:resnet10t"``), and building gives random weights, never pretrained ones.

Examples
--------
>>> len(names("torchvision"))
80
>>> architecture("torchvision:resnet18").parameters
11689512
"""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.inputs import as_inputs, run

__all__ = [
    "SETS",
    "Architecture",
    "architecture",
    "architectures",
    "images",
    "import_torchvision",
    "names",
    "settle",
]

SETS = ("torchvision", "segmentation", "timm", "hf", "yolo")
TABLE = Path(__file__).with_name("architectures.json")
BATCH = 2

# The operator declarations live only as long as their library object.
_LIBRARIES: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision, also where its compiled operators were built for another PyTorch.

    Its Python code registers fake kernels for two operators that the extension would declare;
    classification and segmentation models never call them.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
        import torchvision  # noqa: F401


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One model that can be built with random weights.

    Parameters
    ----------
    name : str
        ``SET:MODEL``.
    parameters : int
        Number of parameters.
    macs : int
        Multiply-accumulates of one example.
    input : list of int or None
        Shape of one example (channels, height, width); None where the inputs are a dict of
        several tensors.
    options : dict
        Keyword arguments of the builder, such as a smaller image size.
    family : str
        The module of timm that defines it, or the set.
    """

    name: str
    parameters: int
    macs: int
    input: list[int] | None
    options: dict[str, Any]
    family: str

    @property
    def set(self) -> str:
        return self.name.split(":")[0]

    @property
    def model(self) -> str:
        return self.name.split(":", 1)[1]

    def build(self, seed: int = 0) -> nn.Module:
        """Return the model with random weights, in eval mode."""
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _BUILDERS[self.set](self.model, **self.options).eval()

    def inputs(self, seed: int = 0) -> Tensor | dict[str, Any]:
        """Return example inputs: two images, or a dict of keyword inputs."""
        if self.input is None:
            from hf_architectures import HF_ARCHITECTURES

            return HF_ARCHITECTURES[self.model][1]()
        return images(self.input, seed)

    def prepared(self, seed: int = 0) -> tuple[nn.Module, Any]:
        """Return the model as it should be tested, nothing in it constant, and its inputs."""
        from parity import randomise

        model, inputs = self.build(seed), self.inputs(seed)
        randomise(model, seed)
        settle(model, inputs, seed)
        return model, inputs


def images(shape: list[int], seed: int = 0) -> Tensor:
    """Return two images of coarse patches, colour and noise; plain noise averages itself out."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(BATCH, channels, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    colour = torch.randn(BATCH, channels, 1, 1, generator=generator)
    return smooth + colour + 0.3 * torch.randn(BATCH, *shape, generator=generator)


@torch.no_grad()
def settle(model: nn.Module, inputs: Any, seed: int = 0) -> None:
    """Move running statistics near those of the example inputs.

    With statistics of pure chance the signal of a deep net dies out on the way, and then any
    pruned model agrees with any other.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats and m.running_var is not None]
    before = [(m, m.momentum, m.training) for m in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    try:
        run(model, as_inputs(inputs))
    finally:
        for norm, momentum, training in before:
            norm.momentum = momentum
            norm.train(training)
    for norm in norms:
        variance, mean = norm.running_var, norm.running_mean
        variance.mul_(torch.rand(variance.shape, generator=generator) + 0.5).add_(1e-6)
        mean.add_(0.3 * variance.sqrt() * torch.randn(mean.shape, generator=generator))


def _torchvision(name: str, **options: Any) -> nn.Module:
    import_torchvision()
    import torchvision

    # Inception and GoogLeNet otherwise spend half a minute on truncated normals.
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return torchvision.models.get_model(name, weights=None, **options)


def _segmentation(name: str, **options: Any) -> nn.Module:
    import_torchvision()
    import torchvision

    return torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)


def _timm(name: str, **options: Any) -> nn.Module:
    import_torchvision()
    import timm

    return timm.create_model(name, pretrained=False, **options)


def _hugging_face(name: str) -> nn.Module:
    # transformers imports torchvision for its image processors where it is installed.
    import_torchvision()
    from hf_architectures import HF_ARCHITECTURES

    return HF_ARCHITECTURES[name][0]()


def _yolo(name: str) -> nn.Module:
    from detectors import DETECTORS

    return DETECTORS[name]()


_BUILDERS = {
    "torchvision": _torchvision,
    "segmentation": _segmentation,
    "timm": _timm,
    "hf": _hugging_face,
    "yolo": _yolo,
}


@functools.cache
def architectures() -> dict[str, Architecture]:
    """Return every architecture by name, set after set, in the order of ``SETS``."""
    table = json.loads(TABLE.read_text())
    return {
        f"{kind}:{model}": Architecture(
            name=f"{kind}:{model}",
            parameters=row["parameters"],
            macs=row["macs"],
            input=row.get("input"),
            options=row.get("options", {}),
            family=row.get("family", kind),
        )
        for kind in SETS
        for model, row in table.get(kind, {}).items()
    }


def architecture(name: str) -> Architecture:
    """Return one architecture by its full name."""
    return architectures()[name]


def names(kind: str | None = None) -> list[str]:
    """Return the names of one set, or of all sets."""
    return [name for name, item in architectures().items() if kind in (None, item.set)]
