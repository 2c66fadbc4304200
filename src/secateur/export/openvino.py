"""Export to OpenVINO's own format, by way of ONNX."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import ExportError, first_line, require
from secateur.export.check import random_like, worst_difference
from secateur.export.onnx import Exported, export_onnx
from secateur.export.signature import FlatInputs, FlatModel
from secateur.files import replacing
from secateur.inputs import ExampleInputs, as_inputs, evaluating
from secateur.latency.runtimes import openvino_core

__all__ = ["OpenVinoSession", "export_openvino", "to_openvino"]


def export_openvino(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: Path,
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write ``path`` and the weights beside it; see `secateur.export`."""
    require("openvino", "openvino")
    inputs = as_inputs(example_inputs)
    flat = FlatInputs(model, inputs)
    with tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
        made = export_onnx(
            model, inputs, Path(scratch) / "model.onnx",
            dynamic_batch=dynamic_batch, opset=opset, check=False,
        )  # fmt: skip
        cases: list[Sequence[Tensor]] = [flat.tensors, random_like(flat.tensors)]
        if made.dynamic and flat.batch:
            cases.append(flat.at_batch(flat.batch + 1))
        path = path.with_suffix(".xml")
        with replacing(path) as draft:
            to_openvino(made.path, draft)
            error = None
            if check:
                session = OpenVinoSession(draft)
                with evaluating(model):
                    error = worst_difference(
                        FlatModel(model, flat),
                        lambda tensors: session(made.inputs, tensors),
                        cases,
                        tolerance,
                        "OpenVINO",
                    )
            size = sum(file.stat().st_size for file in draft.parent.iterdir())
    return dataclasses.replace(made, path=path, size=size, error=error, target="openvino")


def to_openvino(onnx: Path, path: Path) -> None:
    """Convert an ONNX file, in float32 or in 8-bit integers.

    Raises
    ------
    ExportError
        Where OpenVINO cannot.
    """
    openvino = require("openvino", "openvino")
    try:
        # Halving weights is a choice of its own, and not exact.
        openvino.save_model(openvino_core().read_model(onnx), path, compress_to_fp16=False)
    except Exception as error:
        raise ExportError(f"OpenVINO cannot convert the model ({first_line(error)})") from error


class OpenVinoSession:
    """OpenVINO's file, or an ONNX file, compiled for this processor in the precision that it has.

    Raises
    ------
    ExportError
        Where OpenVINO cannot load the file, or cannot run it on given inputs.
    """

    def __init__(self, path: Path) -> None:
        core = openvino_core()
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            self.model: Any = core.compile_model(core.read_model(path), "CPU", hints)
        except Exception as error:
            raise ExportError(f"OpenVINO cannot load the model ({first_line(error)})") from error

    def __call__(self, names: Sequence[str], tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run on named inputs; return the outputs in the file's order."""
        wanted = {name for entry in self.model.inputs for name in entry.names}
        feeds = {
            name: tensor.detach().cpu().numpy()
            for name, tensor in zip(names, tensors, strict=True)
            if name in wanted
        }
        try:
            return [torch.from_numpy(value.copy()) for value in self.model(feeds).values()]
        except Exception as error:
            raise ExportError(f"OpenVINO cannot run the model ({first_line(error)})") from error
