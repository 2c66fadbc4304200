"""Export to ONNX with a free batch size, checked against ONNX Runtime before the file appears."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.errors import ExportError, InputError, SecateurError, first_line, require
from secateur.export.check import OnnxSession, allowed, difference, random_like
from secateur.export.signature import FlatInputs, FlatModel, output_names
from secateur.files import replacing
from secateur.inputs import ExampleInputs, as_inputs, evaluating, run
from secateur.quiet import quiet

__all__ = ["Exported", "export_onnx", "reason_of"]

LONGEST_REASON = 160


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    size : int
        Bytes on disk, with the weights in ``<path>.data`` that a model over 2 GB needs.
    error : float or None
        Largest difference between the runtime's outputs and the model's, relative to the largest
        output; ``None`` with ``check=False``.
    opset : int or None
        Version of the ONNX operator set, where that was on the way.
    dynamic : bool
        Whether the batch size is free.
    inputs, outputs : tuple of str
        Names, in the graph's order.
    target : str
    command : str or None
        What is left to do elsewhere, as a command line.
    """

    path: Path
    size: int
    error: float | None
    opset: int | None
    dynamic: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    target: str = "onnx"
    command: str | None = None


class _BatchIsFixed(Exception):
    """The model cannot be exported with a free batch size; the message says why."""


def export_onnx(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Export to ONNX; see `secateur.export`."""
    for module in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
        require(module, "export")
    path = Path(path)
    inputs = as_inputs(example_inputs)
    job = _Export(model, FlatInputs(model, inputs), path, opset, check, tolerance)
    with evaluating(model):
        job.outputs = output_names(run(model, inputs), job.inputs.names)
        if not job.outputs:
            raise InputError("the model returns no tensor; an ONNX graph needs at least one")
        if not dynamic_batch:
            return job.write(dynamic=False)
        try:
            return job.write(dynamic=True)
        except _BatchIsFixed as reason:
            exported = job.write(dynamic=False)
            warnings.warn(
                f"the batch size is fixed at {job.inputs.batch} in {path.name}: {reason}",
                stacklevel=3,
            )
            return exported


@dataclass
class _Export:
    model: nn.Module
    inputs: FlatInputs
    path: Path
    opset: int | None
    check: bool
    tolerance: float
    outputs: Sequence[str] = ()

    def write(self, dynamic: bool) -> Exported:
        flat = FlatModel(self.model, self.inputs)
        batches = self._other_batches(flat) if dynamic else []
        with replacing(self.path) as draft:
            program = self._capture(flat, dynamic)
            _restore_names(program.model.graph, "model.")
            with quiet():
                program.save(draft, external_data=False)
            error = self._error(flat, draft, batches) if self.check else None
            size = sum(file.stat().st_size for file in draft.parent.iterdir())
        return Exported(
            path=self.path,
            size=size,
            error=error,
            opset=int(program.model.opset_imports[""]),
            dynamic=dynamic,
            inputs=tuple(self.inputs.names),
            outputs=tuple(self.outputs),
        )

    def _other_batches(self, flat: FlatModel) -> list[int]:
        """Batch sizes beside the examples' own that the model must take, and does."""
        batch = self.inputs.batch
        if batch is None:
            raise _BatchIsFixed("no input has a batch dimension")
        if batch == 0:
            raise _BatchIsFixed("the example batch is empty")
        # A size of 1 is traced as a constant, so that such a model is traced at 2.
        others = [2, 3] if batch == 1 else [batch + 1]
        for size in others:
            try:
                flat(*self.inputs.at_batch(size))
            except Exception as error:  # the model's code may raise anything
                raise _BatchIsFixed(
                    f"the model rejects a batch of {size} ({reason_of(error)})"
                ) from error
        return others

    def _capture(self, flat: FlatModel, dynamic: bool) -> Any:
        tensors, shapes = tuple(self.inputs.tensors), None
        if dynamic:
            if self.inputs.batch == 1:
                tensors = tuple(self.inputs.at_batch(2))
            free = {0: torch.export.Dim("batch")}
            shapes = {"tensors": tuple(free if each else None for each in self.inputs.batched)}
        try:
            with quiet():
                program = torch.onnx.export(
                    flat,
                    tensors,
                    dynamo=True,
                    dynamic_shapes=shapes,
                    input_names=self.inputs.names,
                    output_names=list(self.outputs),
                    opset_version=self.opset,
                    verbose=False,
                )
        except Exception as error:  # torch.onnx raises what its passes raise
            if dynamic:
                raise _BatchIsFixed(
                    f"torch.export cannot leave it free ({reason_of(error)})"
                ) from error
            raise ExportError(
                f"the model cannot be expressed in ONNX ({reason_of(error)}); "
                "change the operation that it names, or opset="
            ) from error
        return program

    def _error(self, flat: FlatModel, draft: Path, batches: list[int]) -> float:
        """Run the draft at the examples' batch size and at others; raise where it differs."""
        session = OnnxSession(draft)
        worst = 0.0
        random = random_like(self.inputs.tensors)
        given = [(None, self.inputs.tensors), (None, random)]
        for size, tensors in [*given, *((size, self.inputs.at_batch(size)) for size in batches)]:
            expected = flat(*tensors)
            try:
                actual = session(self.inputs.names, tensors)
            except SecateurError as error:
                if size is None:
                    raise
                raise _BatchIsFixed(
                    f"the graph fails at a batch of {size} ({reason_of(error)})"
                ) from error
            found = max(
                difference(mine, theirs) for mine, theirs in zip(expected, actual, strict=True)
            )
            limit = allowed(self.tolerance, expected)
            if not found <= limit:
                where = f"at a batch of {size}" if size is not None else "on the example inputs"
                message = (
                    f"ONNX Runtime's outputs differ from the model's by {found:.2g} {where}, "
                    f"more than the tolerance of {limit:.2g}"
                )
                if size is None:
                    raise ExportError(f"{message}; nothing was written")
                raise _BatchIsFixed(message)
            worst = max(worst, found)
        return worst


def _restore_names(graph: Any, prefix: str) -> None:
    """Give the weights the names that they have in the model."""
    taken = {value.name for value in graph.inputs} | {value.name for value in graph.outputs}
    taken |= {output.name for node in graph for output in node.outputs}
    for name in list(graph.initializers):
        short = name.removeprefix(prefix)
        if short != name and short not in taken and short not in graph.initializers:
            value = graph.initializers.pop(name)
            value.name = short
            graph.initializers[short] = value


def reason_of(error: BaseException) -> str:
    """The first line of the error at the bottom: the exporter wraps its own in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = first_line(error).rstrip(".:")
    kind = type(error).__name__
    text = kind if line == kind else f"{kind}: {line}"
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
