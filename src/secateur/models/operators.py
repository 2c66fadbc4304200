"""torchvision beside a PyTorch that it was not built for: its models work, its operators do not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

__all__ = ["declare_torchvision_operators"]

_NAMES = ("nms", "qnms")
# A declaration lasts as long as its library object.
_declared: list[torch.library.Library] = []


def declare_torchvision_operators() -> None:
    """Declare the operators that torchvision describes on import, where its extension is unusable.

    A torchvision built for another accelerator cannot load its extension, and then fails to
    import although few models need it. Where the extension loads, nothing happens. A declared
    operator that is called still raises.
    """
    if hasattr(torch.ops.torchvision, _NAMES[0]):
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for extension in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _NAMES:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
