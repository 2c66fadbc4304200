"""Export to TensorRT: an engine where it is installed, and what builds one where it is not."""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import ExportError
from secateur.export.onnx import Exported, export_onnx
from secateur.export.signature import FlatInputs
from secateur.files import replacing
from secateur.inputs import ExampleInputs, as_inputs

__all__ = ["export_tensorrt", "trtexec_line"]

LARGEST = 8
"""How many times the example's batch an engine with a free batch size takes."""


def export_tensorrt(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: Path,
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
    check: bool = True,
    tolerance: float = 1e-4,
) -> Exported:
    """Write the ONNX file, and the engine where that can be built; see `secateur.export`.

    The ONNX file is checked in ONNX Runtime: what it computes is what the engine is built from.
    """
    onnx, engine = path.with_suffix(".onnx"), path.with_suffix(".engine")
    made = export_onnx(
        model, example_inputs, onnx,
        dynamic_batch=dynamic_batch, opset=opset, check=check, tolerance=tolerance,
    )  # fmt: skip
    flat = FlatInputs(model, as_inputs(example_inputs))
    command = trtexec_line(onnx, engine, flat if made.dynamic else None)
    made = dataclasses.replace(made, target="tensorrt", command=command)
    if importlib.util.find_spec("tensorrt") is None:
        warnings.warn(
            f"tensorrt is not installed: {onnx.name} was written; build the engine with: {command}",
            stacklevel=3,
        )
        return made
    with replacing(engine) as draft:
        draft.write_bytes(_engine(onnx, flat if made.dynamic else None))
        size = draft.stat().st_size
    return dataclasses.replace(made, path=engine, size=size)


def trtexec_line(onnx: Path, engine: Path, free: FlatInputs | None = None) -> str:
    """The command that builds an engine with TensorRT's own tool.

    Parameters
    ----------
    onnx, engine : pathlib.Path
        What is read, and what is written.
    free : FlatInputs, optional
        The inputs, where the batch size is free.

    Examples
    --------
    >>> trtexec_line(Path("m.onnx"), Path("m.engine"))
    'trtexec --onnx=m.onnx --saveEngine=m.engine --fp16 --sparsity=enable'
    """
    words = [
        "trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--fp16", "--sparsity=enable"
    ]  # fmt: skip
    for name, size in _sizes(free):
        shapes = ",".join(
            f"{given}:{'x'.join(map(str, _shape(tensor, batched, size)))}"
            for given, tensor, batched in _inputs(free)
        )
        words.append(f"--{name}Shapes={shapes}")
    return shlex.join(words)


def _sizes(free: FlatInputs | None) -> list[tuple[str, int]]:
    if free is None or free.batch is None:
        return []
    return [("min", 1), ("opt", free.batch), ("max", LARGEST * free.batch)]


def _inputs(free: FlatInputs | None) -> list[tuple[str, Any, bool]]:
    return [] if free is None else list(zip(free.names, free.tensors, free.batched, strict=True))


def _shape(tensor: Any, batched: bool, size: int) -> list[int]:
    return [size, *tensor.shape[1:]] if batched else list(tensor.shape)


def _engine(onnx: Path, free: FlatInputs | None) -> bytes:
    """Build an engine that may use half precision, and 2:4 where weights have it."""
    import tensorrt  # type: ignore[import-not-found, unused-ignore]

    log = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(log)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise ExportError(f"TensorRT cannot read the ONNX file ({parser.get_error(0)})")
    settings = builder.create_builder_config()
    for flag in ("FP16", "SPARSE_WEIGHTS"):
        # Later versions take half precision from the network alone.
        if hasattr(tensorrt.BuilderFlag, flag):
            settings.set_flag(getattr(tensorrt.BuilderFlag, flag))
    if free is not None:
        profile = builder.create_optimization_profile()
        for name, tensor, batched in _inputs(free):
            profile.set_shape(name, *(_shape(tensor, batched, size) for _, size in _sizes(free)))
        settings.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, settings)
    if built is None:
        raise ExportError("TensorRT cannot build an engine of this model; its log says why")
    return bytes(built)
