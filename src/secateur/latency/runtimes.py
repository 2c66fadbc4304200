"""The runtimes that latency can be measured in."""

from __future__ import annotations

import functools
import importlib.metadata
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import nn

from secateur.errors import InputError, UnknownNameError, first_line, require, suggestion
from secateur.inputs import Inputs
from secateur.latency.kinds import KINDS
from secateur.latency.layers import layer
from secateur.latency.onnx_layers import ONNX_KINDS, onnx_layer
from secateur.latency.operations import Operation, Sizes

__all__ = ["RUNTIMES", "Runtime", "as_runtime", "exported", "openvino_core"]

Run: TypeAlias = Callable[[], Any]


class Runtime(ABC):
    """Where a model will run.

    Parameters
    ----------
    dtype : torch.dtype
    device : torch.device
    threads : int

    Attributes
    ----------
    name : str
    packages : tuple of str
        Whose versions matter.
    kinds : frozenset of str
        Operations that it runs by themselves.
    points : int
        How many steps of sizes to measure along each axis by default.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    kinds: ClassVar[frozenset[str]] = frozenset(KINDS)
    points: ClassVar[int] = 8

    def __init__(self, dtype: torch.dtype, device: torch.device, threads: int) -> None:
        self.dtype, self.device, self.threads = dtype, device, threads
        self.check()

    def check(self) -> None:
        """Raise where it cannot run here."""

    def versions(self) -> dict[str, str]:
        """What is installed of it."""
        return {name: importlib.metadata.version(name) for name in self.packages}

    def begin(self) -> None:
        """Forget what ran before: other layers follow."""

    @abstractmethod
    def operation(self, operation: Operation, sizes: Sizes) -> Run:
        """One operation, ready to run."""

    @abstractmethod
    def model(self, model: nn.Module, inputs: Inputs) -> Run:
        """A whole model, ready to run."""


class Eager(Runtime):
    """PyTorch as it is."""

    name = "torch"

    def operation(self, operation: Operation, sizes: Sizes) -> Run:
        module, tensors = layer(operation, sizes, self.dtype, self.device)
        return self.ready(module, Inputs(tensors))

    def model(self, model: nn.Module, inputs: Inputs) -> Run:
        return self.ready(model, inputs)

    def ready(self, module: Callable[..., Any], inputs: Inputs) -> Run:
        """The module as a function without arguments."""

        def call() -> Any:
            with torch.inference_mode():
                return module(*inputs.args, **inputs.kwargs)

        return call


class Compiled(Eager):
    """PyTorch through ``torch.compile``: what is element-wise joins what comes before it."""

    name = "torch.compile"
    kinds = frozenset(name for name, kind in KINDS.items() if not kind.fused)
    # Every size is a compilation of its own.
    points = 2

    def check(self) -> None:
        try:
            torch.compile(nn.Linear(2, 2), dynamic=False)(torch.zeros(1, 2))
        except Exception as error:  # compilers and linkers have errors of their own
            raise InputError(
                f"torch.compile does not work here ({first_line(error)}); take runtime='torch', "
                "or install what it names"
            ) from error

    def begin(self) -> None:
        # Beyond a few sizes of one layer it would go on without compiling.
        torch.compiler.reset()

    def ready(self, module: Callable[..., Any], inputs: Inputs) -> Run:
        return super().ready(torch.compile(module, dynamic=False), inputs)


class OnnxRuntime(Runtime):
    """ONNX Runtime on the processor."""

    name = "onnxruntime"
    packages = ("onnxruntime",)
    kinds = frozenset(ONNX_KINDS)

    def check(self) -> None:
        require("onnx", "export")
        require("onnxruntime", "export")
        _only_cpu(self)

    def operation(self, operation: Operation, sizes: Sizes) -> Run:
        return self.load(*onnx_layer(operation, sizes, _numpy(self.dtype)))

    def model(self, model: nn.Module, inputs: Inputs) -> Run:
        return self.load(*exported(model, inputs))

    def load(self, model: bytes | str, feeds: dict[str, np.ndarray]) -> Run:
        """A serialised model, or its file, with its inputs, as a function without arguments."""
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        wanted = {entry.name for entry in session.get_inputs()}
        given = {name: values for name, values in feeds.items() if name in wanted}
        return lambda: session.run(None, given)


class OpenVino(Runtime):
    """OpenVINO on the processor."""

    name = "openvino"
    packages = ("openvino",)
    kinds = frozenset(ONNX_KINDS)

    def check(self) -> None:
        require("onnx", "export")
        require("openvino", "openvino")
        _only_cpu(self)

    def operation(self, operation: Operation, sizes: Sizes) -> Run:
        return self.load(*onnx_layer(operation, sizes, _numpy(self.dtype)))

    def model(self, model: nn.Module, inputs: Inputs) -> Run:
        return self.load(*exported(model, inputs))

    def load(
        self, model: bytes | str, feeds: dict[str, np.ndarray], precision: str | None = None
    ) -> Run:
        """A serialised model, or its file, with its inputs, as a function without arguments.

        What is float32 in it is computed in ``precision``, such as ``"bf16"``; as it is by default.
        """
        core = openvino_core()
        settings = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision is not None or self.dtype == torch.float32:
            settings["INFERENCE_PRECISION_HINT"] = precision or "f32"
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        wanted = {name for entry in compiled.inputs for name in entry.names}
        given = {name: values for name, values in feeds.items() if name in wanted}
        request = compiled.create_infer_request()
        return lambda: list(request.infer(given).values())


@functools.cache
def openvino_core() -> Any:
    """One core for as long as the process lives.

    Every core puts a stack of its own in place for signal handlers, and back the one that it found
    there. When cores end in another order than the reverse, that is a stack of one that has ended
    already, and the next signal with a handler in Python (Ctrl-C, a child that exits) ends the
    process.
    """
    return require("openvino", "openvino").Core()


RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime for runtime in (Eager, Compiled, OnnxRuntime, OpenVino)
}
"""Every runtime by name."""


def as_runtime(name: object) -> type[Runtime]:
    """The runtime of a name.

    Raises
    ------
    UnknownNameError
        For an unknown name; the message suggests the nearest.

    Examples
    --------
    >>> as_runtime("onnxruntime").packages
    ('onnxruntime',)
    >>> as_runtime("onnx")
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: unknown runtime 'onnx'; choose from onnxruntime, openvino,
    torch, torch.compile
    """
    if not isinstance(name, str) or name not in RUNTIMES:
        raise UnknownNameError(f"unknown runtime {name!r}{suggestion(str(name), RUNTIMES)}")
    return RUNTIMES[name]


def _only_cpu(runtime: Runtime) -> None:
    if runtime.device.type != "cpu":
        raise InputError(
            f"runtime {runtime.name!r} measures on the processor, and the model is on "
            f"{runtime.device}; move it there first, or take runtime='torch'"
        )
    _numpy(runtime.dtype)


def _numpy(dtype: torch.dtype) -> type[np.floating[Any]]:
    known: dict[torch.dtype, type[np.floating[Any]]] = {
        torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64
    }  # fmt: skip
    if dtype not in known:
        raise InputError(f"a model in {dtype} is measured with runtime='torch' only; call .float()")
    return known[dtype]


def exported(model: nn.Module, inputs: Inputs) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model as ONNX for these inputs, and the inputs by their names in it."""
    from secateur.export import export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        done = export(model, inputs, path, dynamic_batch=False, check=False)
        tensors = [tensor.detach().cpu().numpy() for _, tensor in inputs.tensors()]
        return path.read_bytes(), dict(zip(done.inputs, tensors, strict=True))
