"""Export as a program of PyTorch's own: as it is, or compiled ahead of time."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import ExportError, InputError
from secateur.export.check import random_like, worst_difference
from secateur.export.onnx import Exported, reason_of
from secateur.export.signature import FlatInputs, FlatModel, output_names
from secateur.files import replacing
from secateur.inputs import ExampleInputs, Inputs, as_inputs, evaluating, named_tensors, run
from secateur.quiet import quiet

__all__ = ["Captured", "capture", "export_aoti", "export_torch", "written"]

Function = Callable[..., Any]


class Captured:
    """A model captured by `torch.export`.

    Attributes
    ----------
    program : torch.export.ExportedProgram
        Called as the model is.
    flat : FlatInputs
    dynamic : bool
        Whether the batch size is free.
    outputs : tuple of str
    """

    def __init__(
        self, program: Any, flat: FlatInputs, dynamic: bool, outputs: Sequence[str]
    ) -> None:
        self.program, self.flat, self.dynamic = program, flat, dynamic
        self.outputs = tuple(outputs)

    @property
    def cases(self) -> list[Sequence[Tensor]]:
        """Inputs to compare on: the examples, random ones, and those of another batch size."""
        cases: list[Sequence[Tensor]] = [self.flat.tensors, random_like(self.flat.tensors)]
        if self.dynamic and self.flat.batch:
            cases.append(self.flat.at_batch(self.flat.batch + 1))
        return cases

    def called(self, function: Function) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """A function with the model's signature, called on a flat list of tensors."""

        def call(tensors: Sequence[Tensor]) -> list[Tensor]:
            inputs = self.flat.rebuild(tensors)
            with torch.no_grad():
                output = function(*inputs.args, **inputs.kwargs)
            return [tensor for _, tensor in named_tensors(output)]

        return call


def capture(model: nn.Module, example_inputs: ExampleInputs, dynamic_batch: bool) -> Captured:
    """Capture a model in eval mode, with a free batch size where its code leaves that free.

    Raises
    ------
    ExportError
        Where torch.export cannot.
    InputError
        Where the model rejects the inputs, or returns no tensor.
    """
    inputs = as_inputs(example_inputs)
    flat = FlatInputs(model, inputs)
    with evaluating(model):
        outputs = output_names(run(model, inputs.fresh()), flat.names)
        if not outputs:
            raise InputError("the model returns no tensor; there is nothing to compute")
        if dynamic_batch and flat.batch:
            # A size of 1 would be taken for a constant.
            traced = flat.rebuild(flat.at_batch(max(flat.batch, 2)))
            try:
                return Captured(_captured(model, traced, flat), flat, True, outputs)
            except Exception as error:
                warnings.warn(
                    f"the batch size is fixed at {flat.batch}: torch.export cannot leave it free "
                    f"({reason_of(error)})",
                    stacklevel=4,
                )
        try:
            return Captured(_captured(model, inputs, None), flat, False, outputs)
        except Exception as error:
            raise ExportError(
                f"torch.export cannot capture the model ({reason_of(error)}); change the operation "
                "that it names"
            ) from error


def _captured(model: nn.Module, inputs: Inputs, free: FlatInputs | None) -> Any:
    shapes = None
    if free is not None:
        batch = torch.export.Dim("batch")
        bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)

        def spec(leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size
            return {0: batch} if batched else None

        size = next(t.shape[0] for _, t in inputs.tensors() if t.dim())
        shapes = pytree.tree_map(spec, dict(bound.arguments))
    with quiet():
        return torch.export.export(
            model, inputs.args, dict(inputs.kwargs), dynamic_shapes=shapes, strict=False
        )


def export_torch(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: Path,
    *,
    dynamic_batch: bool = True,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write an exported program; see `secateur.export`."""
    captured = capture(model, example_inputs, dynamic_batch)

    def write(draft: Path) -> Function:
        with quiet():
            torch.export.save(captured.program, draft)
            return torch.export.load(draft).module() if check else captured.program.module()

    return written(model, captured, path, write, check, tolerance, "torch", "PyTorch")


def export_aoti(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: Path,
    *,
    dynamic_batch: bool = True,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write a program that is compiled for this machine; see `secateur.export`."""
    captured = capture(model, example_inputs, dynamic_batch)

    def write(draft: Path) -> Function:
        from torch._inductor import aoti_compile_and_package, aoti_load_package

        try:
            with quiet(), torch.no_grad():
                aoti_compile_and_package(captured.program, package_path=str(draft))
        except Exception as error:
            raise ExportError(
                f"the model cannot be compiled ahead of time ({reason_of(error)}); it takes a C++ "
                "compiler, and target='torch' does without"
            ) from error
        return aoti_load_package(str(draft))

    path = path.with_suffix(".pt2")
    return written(model, captured, path, write, check, tolerance, "aoti", "AOTInductor")


def written(
    model: nn.Module,
    captured: Captured,
    path: Path,
    write: Callable[[Path], Function],
    check: bool,
    tolerance: float,
    target: str,
    runtime: str,
) -> Exported:
    """Write a file, compare what it computes with the model, and only then let it appear."""
    with replacing(path) as draft:
        function = captured.called(write(draft))
        error = None
        if check:
            with evaluating(model):
                flat = FlatModel(model, captured.flat)
                error = worst_difference(flat, function, captured.cases, tolerance, runtime)
        size = draft.stat().st_size
    return Exported(
        path=path, size=size, error=error, opset=None, dynamic=captured.dynamic,
        inputs=tuple(captured.flat.names), outputs=captured.outputs, target=target,
    )  # fmt: skip
