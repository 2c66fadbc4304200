"""Quantise an exported model: 8-bit integers in ONNX Runtime's QDQ form."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from secateur.errors import (
    ExportError,
    InputError,
    UnknownNameError,
    first_line,
    require,
    suggestion,
)
from secateur.export.check import OnnxSession, difference
from secateur.export.onnx import Exported, export_onnx
from secateur.export.openvino import OpenVinoSession, to_openvino
from secateur.files import replacing
from secateur.inputs import ExampleInputs, as_inputs, evaluating, named_tensors, run
from secateur.observing.batches import read_batch
from secateur.quiet import quiet

__all__ = ["Quantized", "quantize", "session_of"]

METHODS = ("static", "dynamic")
# ONNX Runtime has no dynamic convolution of signed weights.
LINEAR = ["MatMul", "Gemm", "Attention", "LSTM"]
CALIBRATIONS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


@dataclass(frozen=True)
class Quantized:
    """What was quantised.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    size, dense_size : int
        Bytes on disk, and those of the same model in float32.
    error : float
        Largest difference from the model's outputs over the example inputs, relative to the largest
        output. Quantisation rounds: this is a size to know, not a proof.
    inputs, outputs : tuple of str
        Names, in the graph's order.
    """

    path: Path
    size: int
    dense_size: int
    error: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def quantize(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    data: Iterable[Any] | None = None,
    *,
    method: Literal["static", "dynamic"] = "static",
    per_channel: bool = True,
    reduce_range: bool = True,
    calibration: str = "minmax",
    opset: int | None = None,
) -> Quantized:
    """Export a model with weights, and activations, in 8-bit integers.

    The model is exported in float32, checked against ONNX Runtime, and quantised there: weights to
    signed integers, symmetrically, in their own range for every output channel; activations to
    unsigned ones in the range that they have on the data, with QuantizeLinear and DequantizeLinear
    around every operation (Jacob et al. 2017, arXiv 1712.05877). Zero is an integer of both, so
    that pruned weights stay exactly zero; ranges are those of the weights that pruning left.
    OpenVINO reads the same form, and computes it in integers: for ``.xml`` it is converted.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is.
    example_inputs : Tensor, tuple or dict
    path : path-like
        Where to write; its folder is created. ONNX, or with ``.xml`` OpenVINO's own format.
    data : iterable, optional
        Batches to calibrate the activations on; static quantisation needs them.
    method : {"static", "dynamic"}
        Ranges of the activations from the data; or from each input as it runs, and then in linear
        and recurrent layers only.
    per_channel : bool
        A range for every output channel of a weight, instead of one for all of it.
    reduce_range : bool
        Weights of seven bits. Of eight, pairs of products overflow on x86 processors without VNNI,
        where ONNX Runtime adds them in 16 bits.
    calibration : {"minmax", "entropy", "percentile"}
        How a range follows from what was seen.
    opset : int, optional
        Version of the ONNX operator set; PyTorch's by default.

    Returns
    -------
    Quantized

    Raises
    ------
    InputError
        Without data for static quantisation.
    UnknownNameError
        For an unknown method or calibration.
    ExportError
        Where the model cannot be exported or quantised.
    WriteError
        Where there is no room for the file.
    MissingExtraError
        Where onnx, onnxscript or onnxruntime is not installed.

    Examples
    --------
    >>> import pytest
    >>> _ = [pytest.importorskip(name) for name in ("onnx", "onnxscript", "onnxruntime")]
    >>> x = torch.randn(8, 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = quantize(nn.Linear(64, 256), x, f"{folder}/small.onnx", [(x, None)])
    >>> made.size < 0.5 * made.dense_size, made.error < 0.05
    (True, True)
    """
    if method not in METHODS:
        raise UnknownNameError(f"unknown method {method!r}{suggestion(method, METHODS)}")
    if calibration not in CALIBRATIONS:
        raise UnknownNameError(
            f"unknown calibration {calibration!r}{suggestion(calibration, CALIBRATIONS)}"
        )
    if method == "static" and data is None:
        raise InputError("static quantisation measures activations on data: pass batches as data=")
    tools = require("onnxruntime.quantization", "export")
    inputs = as_inputs(example_inputs)
    converted = Path(path).suffix == ".xml"
    if converted:
        require("openvino", "openvino")
    with replacing(path) as final, tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
        draft = Path(scratch) / "integers.onnx" if converted else final
        dense = export_onnx(model, inputs, Path(scratch) / "dense.onnx", opset=opset)
        options: dict[str, Any] = {
            "per_channel": per_channel,
            "weight_type": tools.QuantType.QInt8,
            "reduce_range": reduce_range,
        }
        try:
            with quiet():
                if method == "static":
                    assert data is not None
                    reader = _reader(tools, dense, data)
                    kind = getattr(tools.CalibrationMethod, CALIBRATIONS[calibration])
                    tools.quantize_static(
                        str(dense.path),
                        str(draft),
                        reader,
                        quant_format=tools.QuantFormat.QDQ,
                        activation_type=tools.QuantType.QUInt8,
                        calibrate_method=kind,
                        **options,
                    )
                else:
                    _forget_shapes(dense.path)
                    tools.quantize_dynamic(
                        str(dense.path),
                        str(draft),
                        op_types_to_quantize=LINEAR,
                        **options,
                    )
        except (InputError, OSError):
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(
                f"ONNX Runtime cannot quantise this model ({type(error).__name__}: "
                f"{first_line(error)})"
            ) from error
        if converted:
            to_openvino(draft, final)
        off = _error(model, inputs, final, dense)
        size = sum(file.stat().st_size for file in final.parent.iterdir())
    return Quantized(Path(path), size, dense.size, off, dense.inputs, dense.outputs)


def _forget_shapes(path: Path) -> None:
    """Drop noted shapes: ONNX Runtime transposes weights, and trips over what was noted before."""
    onnx = require("onnx", "export")
    program = onnx.load(path)
    del program.graph.value_info[:]
    onnx.save(program, path)


def _reader(tools: Any, dense: Exported, data: Iterable[Any]) -> Any:
    """The batches, by the names of the graph's inputs."""

    class Reader(tools.CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = _feeds(dense, data)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    return Reader()


def _feeds(dense: Exported, data: Iterable[Any]) -> Iterator[dict[str, Any]]:
    read = 0
    for batch in data:
        given = batch if not isinstance(batch, torch.Tensor) else (batch, None)
        tensors = [tensor for _, tensor in read_batch(given)[0].tensors()]
        if len(tensors) < len(dense.inputs):
            raise InputError(
                f"the model takes {', '.join(dense.inputs)}; a batch of data has {len(tensors)}"
            )
        yield {
            name: tensor.detach().cpu().numpy()
            for name, tensor in zip(dense.inputs, tensors, strict=False)
        }
        read += 1
    if not read:
        raise InputError(
            "static quantisation measures activations on data: pass at least one batch"
        )


def session_of(file: Path) -> Callable[[Sequence[str], Sequence[torch.Tensor]], list[torch.Tensor]]:
    """An exported file, ready to run on named inputs in the runtime that it is for."""
    return OpenVinoSession(file) if file.suffix == ".xml" else OnnxSession(file)


def _error(model: nn.Module, inputs: Any, file: Path, dense: Exported) -> float:
    """How far the file is from the model over the example inputs."""
    with evaluating(model):
        expected = [tensor for _, tensor in named_tensors(run(model, inputs.fresh()))]
    tensors = [tensor for _, tensor in inputs.tensors()]
    actual = session_of(file)(dense.inputs, tensors)
    return max(difference(one, other) for one, other in zip(expected, actual, strict=True))
