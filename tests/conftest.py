"""What every test shares: one thread a worker, torchvision's operators, the reference data."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch


def _define_torchvision_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision registers fakes for, where its extension is absent.

    A torchvision built for another accelerator imports only if these names exist.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for extension in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


# The declarations live only as long as this object.
_TORCHVISION = _define_torchvision_operators()

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data and trained models, or a skip that says it is absent."""
    named = os.environ.get("SECATEUR_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data: {folder} is absent (set SECATEUR_SHARED)")
    return folder
