"""One operation by itself does the work that it does in its model, in PyTorch and in ONNX."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.graph.trace import Ref
from secateur.latency import as_runtime
from secateur.latency.calls import TimedCall, timed_calls
from secateur.latency.kinds import KINDS
from secateur.latency.layers import layer
from secateur.latency.onnx_layers import ONNX_KINDS, onnx_layer
from secateur.profiling import node_macs, profile

IMAGE = torch.randn(2, 6, 9, 7)


class Called(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*(tensor * self.scale for tensor in tensors))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


HEADS = (torch.randn(2, 3, 5, 4), torch.randn(2, 3, 8, 4), torch.randn(2, 3, 8, 4))
# The kind, its sizes, and a model that runs it.
CASES = [
    ("convolution", (1, 6, 8), nn.Conv2d(6, 8, 3, padding=1), IMAGE),
    ("convolution", (1, 6, 8), nn.Conv2d(6, 8, (3, 1), (2, 1), (1, 0), (1, 2)), IMAGE),
    ("convolution", (2, 3, 4), nn.Conv2d(6, 8, 3, groups=2, bias=False), IMAGE),
    ("convolution", (6, 1, 1), nn.Conv2d(6, 6, 3, groups=6), IMAGE),
    ("convolution", (1, 6, 8), nn.ConvTranspose2d(6, 8, 3, 2, 1, 1), IMAGE),
    ("convolution", (3, 2, 4), nn.ConvTranspose2d(6, 12, 3, groups=3), IMAGE),
    ("convolution", (1, 6, 4), nn.Conv1d(6, 4, 5, padding=2), torch.randn(3, 6, 11)),
    ("convolution", (1, 2, 3), nn.Conv3d(2, 3, 3), torch.randn(1, 2, 5, 4, 3)),
    ("product", (6, 5, 4), nn.Linear(5, 4), torch.randn(2, 3, 5)),
    ("product", (2, 5, 4), nn.Linear(5, 4, bias=False), torch.randn(2, 5)),
    ("batched product", (4, 3, 5, 2), Called(torch.bmm),
     (torch.randn(4, 3, 5), torch.randn(4, 5, 2))),
    ("attention", (3, 4), Called(attend), HEADS),
    ("layer norm", (5,), nn.LayerNorm(5), torch.randn(4, 3, 5)),
    ("softmax", (12, 5), Called(lambda x: x.softmax(-1)), torch.randn(4, 3, 5)),
    ("batch norm", (6,), nn.BatchNorm2d(6), IMAGE),
    ("batch norm", (6,), nn.BatchNorm1d(6), torch.randn(3, 6)),
    ("group norm", (6,), nn.GroupNorm(3, 6), IMAGE),
    ("pooling", (6,), Called(lambda x: functional.max_pool2d(x, 3, 2, 1)), IMAGE),
    ("pooling", (6,), Called(lambda x: x.mean((2, 3))), IMAGE),
    ("pooling", (6,), Called(lambda x: functional.adaptive_avg_pool2d(x, (3, 2))), IMAGE),
    ("elementwise", (756,), Called(functional.gelu), IMAGE),
    ("elementwise", (756,), Called(lambda x: functional.hardtanh(x, 0.0, 6.0)), IMAGE),
    ("elementwise", (756,), Called(lambda x: x.clamp(-1, 1)), IMAGE),
    ("elementwise", (756,), Called(lambda x: x.relu_()), IMAGE),
    ("elementwise", (756,), Called(lambda x: x + x), IMAGE),
    ("elementwise", (1512,), Called(lambda x: torch.cat([x, x])), IMAGE),
]  # fmt: skip
NAMES = [f"{case[0]}-{at}" for at, case in enumerate(CASES)]


def found(net: nn.Module, inputs: object) -> tuple[sc.Graph, list[TimedCall]]:
    graph = sc.trace(net, inputs)  # type: ignore[arg-type]
    return graph, timed_calls(graph, KINDS)


@pytest.mark.parametrize(("kind", "sizes", "net", "inputs"), CASES, ids=NAMES)
def test_alone_it_multiplies_as_often_as_in_its_model(
    kind: str, sizes: tuple[int, ...], net: nn.Module, inputs: object
) -> None:
    graph, calls = found(net, inputs)
    call = next(call for call in reversed(calls) if call.operation.kind == kind)
    assert call.sizes == sizes
    values, node = graph.trace.values, call.node
    shapes = [values[arg.index].shape if isinstance(arg, Ref) else None for arg in node.args]
    results = [values[index].shape for index in node.outputs]
    module, given = layer(call.operation, call.sizes)
    assert profile(module, given).macs == node_macs(node.op, shapes, results, node.args)
    with torch.no_grad():
        out = module(*given)
    first = out[0] if isinstance(out, tuple) else out
    assert first.numel() == torch.Size(results[0]).numel()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("kind", "sizes", "net", "inputs"), CASES, ids=NAMES)
def test_in_onnx_it_computes_the_same(
    kind: str, sizes: tuple[int, ...], net: nn.Module, inputs: object, runtime: str
) -> None:
    if kind not in ONNX_KINDS:
        assert KINDS[kind].fused
        return
    _, calls = found(net, inputs)
    call = next(call for call in calls if call.operation.kind == kind)
    model, feeds = onnx_layer(call.operation, call.sizes)
    onnx.checker.check_model(onnx.load_from_string(model))
    place = as_runtime(runtime)(torch.float32, torch.device("cpu"), 1)
    actual = place.load(model, feeds)()[0]  # type: ignore[attr-defined]
    weights = {
        entry.name: torch.tensor(onnx.numpy_helper.to_array(entry))
        for entry in onnx.load_from_string(model).graph.initializer
    }
    module, _ = layer(call.operation, call.sizes)
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, values in zip(("weight", "bias"), weights.values(), strict=False):
            own[name].copy_(values.t() if kind == "product" and name == "weight" else values)
        given = [torch.tensor(values) for values in feeds.values()]
        if kind == "attention":
            given[1] = given[1].transpose(2, 3)
            given[0] = given[0] * given[0].shape[-1] ** 0.5
        expected = module(*given).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


MEASURED_IN_TURN = """
import signal
import torch
import secateur as sc

told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
for width in (4, 5):
    net = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.Linear(64, 3))
    sc.LatencyTable.measure(
        net, torch.zeros(1, width), "openvino", threads=1, points=4, runs=1
    )
    signal.raise_signal(signal.SIGUSR1)
assert told == [1, 1], told
"""


def test_signals_after_openvino_find_their_handlers() -> None:
    """In a process of its own: what goes wrong here ends it."""
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", MEASURED_IN_TURN],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_only_what_can_change_varies() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )
    _, calls = found(net, torch.randn(1, 3, 4, 4))
    assert [call.vary for call in calls if not KINDS[call.operation.kind].fused] == [
        (False, False, True),
        (True, False, False),
        (False, True, True),
        (False, True, False),
    ]


def test_layers_that_differ_in_size_only_are_one_operation() -> None:
    net = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1))
    _, calls = found(net, IMAGE)
    assert calls[0].operation == calls[1].operation
    assert [call.sizes for call in calls] == [(1, 6, 8), (1, 8, 4)]
