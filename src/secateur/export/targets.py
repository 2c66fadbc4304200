"""Export for any runtime: which writer a target has, by its name or by the file's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.export.executorch import export_executorch
from secateur.export.onnx import Exported, export_onnx
from secateur.export.openvino import export_openvino
from secateur.export.tensorrt import export_tensorrt
from secateur.export.torch_programs import export_aoti, export_torch
from secateur.inputs import ExampleInputs

__all__ = ["TARGETS", "export"]

TARGETS: dict[str, Callable[..., Exported]] = {
    "onnx": export_onnx,
    "openvino": export_openvino,
    "torch": export_torch,
    "aoti": export_aoti,
    "executorch": export_executorch,
    "tensorrt": export_tensorrt,
}
"""Every writer by the name of its target."""

SUFFIXES = {
    ".onnx": "onnx", ".xml": "openvino", ".pt2": "torch", ".pte": "executorch",
    ".engine": "tensorrt",
}  # fmt: skip
WITH_OPSET = ("onnx", "openvino", "tensorrt")


def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Export a model and prove that the runtime computes the same outputs.

    The model is exported in eval mode and left in the mode it was in. Nothing appears under the
    file's name unless every check passes.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that `torch.export` can trace, pruned or not.
    example_inputs : Tensor, tuple or dict
        What the model is called with. Tensors become inputs, under the names that ``forward`` gives
        them where the target has names; everything else becomes a constant.
    path : path-like
        Where to write; its folder is created.
    target : str, optional
        What it is for; by default what the file's name ends in says:

        - ``"onnx"`` (``.onnx``; the default of any other name): checked in ONNX Runtime.
        - ``"openvino"`` (``.xml``, with the weights in a ``.bin`` beside it): OpenVINO's own.
        - ``"torch"`` (``.pt2``): an exported program, for `torch.export.load`.
        - ``"aoti"``: an exported program compiled ahead of time for this machine's processor, for
          ``torch._inductor.aoti_load_package``; needs a C++ compiler.
        - ``"executorch"`` (``.pte``): for phones and small devices, through XNNPACK.
        - ``"tensorrt"`` (``.engine``): an engine where tensorrt is installed. Elsewhere the ONNX
          file that it is built from, and the command line that builds it; with
          ``--sparsity=enable`` either way, which uses weights of 2:4.
    dynamic_batch : bool, default True
        Leave the first dimension of every input whose size is the batch size free. Where the
        model's code fixes it, a warning says why and the batch size is that of the examples.
    opset : int, optional
        Version of the ONNX operator set, where that is on the way; by default PyTorch's.
    check : bool, default True
        Run the file in its runtime on the example inputs and on random ones, and at another batch
        size where it is free.
    tolerance : float, default 1e-4
        Largest difference allowed, relative to the largest output. Outputs in half precision are
        allowed sixteen roundings, which is more.

    Returns
    -------
    Exported

    Raises
    ------
    ExportError
        Where the model cannot be expressed so, or the runtime computes something else.
    InputError
        Where the model rejects the inputs, or they hold no tensor; or for an opset of a target that
        has none.
    UnknownNameError
        For an unknown target.
    WriteError
        Where there is no room for the file.
    MissingExtraError
        Where a package of the target is not installed.

    Examples
    --------
    >>> import pytest, tempfile, torch
    >>> _ = [pytest.importorskip(name) for name in ("onnx", "onnxscript", "onnxruntime")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = export(nn.Linear(3, 2), torch.zeros(4, 3), f"{folder}/linear.onnx")
    >>> exported.dynamic, exported.inputs, exported.outputs, exported.error < 1e-4
    (True, ('input',), ('output',), True)
    """
    path = Path(path)
    name = SUFFIXES.get(path.suffix, "onnx") if target is None else target
    if name not in TARGETS:
        raise UnknownNameError(f"unknown target {name!r}{suggestion(name, TARGETS)}")
    options: dict[str, Any] = {
        "dynamic_batch": dynamic_batch, "check": check, "tolerance": tolerance
    }  # fmt: skip
    if name in WITH_OPSET:
        options["opset"] = opset
    elif opset is not None:
        raise InputError(f"target {name!r} has no ONNX operator set; leave opset out")
    return TARGETS[name](model, example_inputs, path, **options)
