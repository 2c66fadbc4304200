"""Export to ExecuTorch, for phones and small devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import ExportError, require
from secateur.export.onnx import Exported, reason_of
from secateur.export.torch_programs import Function, capture, written
from secateur.inputs import ExampleInputs, named_tensors
from secateur.quiet import quiet

__all__ = ["export_executorch"]


def export_executorch(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: Path,
    *,
    dynamic_batch: bool = False,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write a program that runs through XNNPACK; see `secateur.export`.

    Memory is planned before it runs, so that the batch size is that of the examples.
    """
    exir = require("executorch.exir", "executorch")
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    captured = capture(model, example_inputs, dynamic_batch=False)

    def write(draft: Path) -> Function:
        try:
            with quiet():
                edge = exir.to_edge_transform_and_lower(
                    captured.program, partitioner=[xnnpack.XnnpackPartitioner()]
                )
                draft.write_bytes(edge.to_executorch().buffer)
        except Exception as error:
            raise ExportError(
                f"ExecuTorch cannot express the model ({reason_of(error)})"
            ) from error
        runtime = require("executorch.runtime", "executorch").Runtime.get()
        program = runtime.load_program(str(draft))
        method = program.load_method("forward")

        def call(*args: Any, **kwargs: Any) -> Any:
            # A method lives as long as its program does.
            assert program is not None
            return method.execute([tensor for _, tensor in named_tensors((args, kwargs))])

        return call

    return written(model, captured, path, write, check, tolerance, "executorch", "ExecuTorch")
