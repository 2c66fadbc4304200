"""Files of other runtimes, with inputs made up to fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.bench.subjects import Call, Subject, hint, only_float32
from secateur.errors import InputError, require
from secateur.latency.runtimes import OnnxRuntime, OpenVino, Runtime, openvino_core

__all__ = ["OnnxFile", "OpenVinoFile"]


@dataclasses.dataclass
class OnnxFile(Subject):
    """An ONNX file.

    Parameters
    ----------
    path : pathlib.Path
    shapes : sequence of tuple of int
        Of its inputs, where the file leaves more than the batch size open.
    """

    path: Path
    shapes: Sequence[tuple[int, ...]] = ()

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.name

    def ready(self, runtime: Runtime, dtype: str, batch: int) -> Call:
        onnx = require("onnx", "export")
        try:
            graph = onnx.load(self.path, load_external_data=False).graph
        except Exception as error:
            raise InputError(f"{self.path} is no ONNX file ({type(error).__name__})") from error
        weights = {each.name for each in graph.initializer}
        entries = []
        for each in graph.input:
            if each.name not in weights:
                kind = each.type.tensor_type
                dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
                entries.append(
                    (each.name, dims, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
                )
        feeds = _feeds(entries, self.shapes, batch)
        if isinstance(runtime, OpenVino):
            return runtime.load(str(self.path), feeds, hint(dtype))
        if isinstance(runtime, OnnxRuntime):
            only_float32(dtype)
            return runtime.load(str(self.path), feeds)
        raise InputError(f"{runtime.name} does not run ONNX files")


@dataclasses.dataclass
class OpenVinoFile(Subject):
    """OpenVINO's own format: an ``.xml`` with its ``.bin``.

    Parameters
    ----------
    path : pathlib.Path
    shapes : sequence of tuple of int
        Of its inputs, where the file leaves more than the batch size open.
    """

    path: Path
    shapes: Sequence[tuple[int, ...]] = ()

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.name

    def ready(self, runtime: Runtime, dtype: str, batch: int) -> Call:
        if not isinstance(runtime, OpenVino):
            raise InputError(f"{runtime.name} does not run OpenVINO's files")
        try:
            model = openvino_core().read_model(str(self.path))
        except Exception as error:
            raise InputError(f"{self.path} is no OpenVINO model") from error
        entries = []
        for each in model.inputs:
            dims = [None if d.is_dynamic else d.get_length() for d in each.get_partial_shape()]
            entries.append(
                (each.get_any_name(), dims, np.dtype(each.get_element_type().to_dtype()))
            )
        return runtime.load(str(self.path), _feeds(entries, self.shapes, batch), hint(dtype))


def _feeds(
    entries: Sequence[tuple[str, list[int | None], np.dtype[Any]]],
    shapes: Sequence[tuple[int, ...]],
    batch: int,
) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of a file: random numbers, and ones where whole numbers are wanted."""
    random = np.random.default_rng(0)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for number, (name, dims, kind) in enumerate(entries):
        wanted = shapes[number] if number < len(shapes) else [None] * len(dims)
        if len(wanted) != len(dims):
            raise InputError(f"{name!r} has {len(dims)} dimensions, and its shape {len(wanted)}")
        open_sizes = [batch, *wanted[1:]]
        sizes = [s if s is not None else w for s, w in zip(dims, open_sizes, strict=False)]
        if number == 0 and sizes and sizes[0] != batch:
            raise InputError(f"its batch size is fixed at {sizes[0]}")
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            raise InputError(
                f"it leaves the shape of {name!r} open; pass --input-shape for each of its inputs"
            )
        if np.issubdtype(kind, np.floating):
            feeds[name] = random.standard_normal(known).astype(kind)
        else:
            feeds[name] = np.ones(known, kind)
    return feeds
