"""What can be timed."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.export.signature import FlatInputs
from secateur.inputs import ExampleInputs, Inputs, as_inputs
from secateur.latency.runtimes import OnnxRuntime, OpenVino, Runtime, exported

__all__ = ["DTYPES", "Call", "ModelSubject", "Subject", "hint", "only_float32"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Call = Callable[[], Any]


class Subject(ABC):
    """Something to time, under a name."""

    name: str

    @abstractmethod
    def ready(self, runtime: Runtime, dtype: str, batch: int) -> Call:
        """It on a batch of its inputs, as a function without arguments.

        Raises
        ------
        InputError
            Where it does not run so; the message says why.
        """


@dataclasses.dataclass
class ModelSubject(Subject):
    """A PyTorch model.

    Parameters
    ----------
    name : str
    model : torch.nn.Module
    example_inputs : Tensor, tuple or dict
        Repeated, or cut, to the batch sizes that are asked for.
    """

    name: str
    model: nn.Module
    example_inputs: ExampleInputs

    def ready(self, runtime: Runtime, dtype: str, batch: int) -> Call:
        model = copy.deepcopy(self.model).eval()
        flat = FlatInputs(model, as_inputs(self.example_inputs))
        if flat.batch is None and batch != 1:
            raise InputError("its inputs have no batch dimension")
        inputs = flat.rebuild(flat.at_batch(batch) if flat.batch is not None else flat.tensors)
        if isinstance(runtime, OpenVino):
            return runtime.load(*exported(model.float(), _cast(inputs, "float32")), hint(dtype))
        if isinstance(runtime, OnnxRuntime):
            only_float32(dtype)
            return runtime.load(*exported(model.float(), _cast(inputs, "float32")))
        call = runtime.model(model.to(DTYPES[dtype]), _cast(inputs, dtype))
        _try(call)
        return call


def hint(dtype: str) -> str:
    """What OpenVINO computes float32 models in."""
    return {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]


def only_float32(dtype: str) -> None:
    """Raise for a dtype that ONNX Runtime does not compute a float32 file in."""
    if dtype != "float32":
        raise InputError("onnxruntime computes on processors in the file's own dtype, float32")


def _cast(inputs: Inputs, dtype: str) -> Inputs:
    def change(name: str, tensor: Tensor) -> Tensor:
        return tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor

    return inputs.replaced(change)


def _try(call: Call) -> None:
    try:
        call()
    except Exception as error:
        raise InputError(f"it does not run so ({type(error).__name__}: {error})") from error
