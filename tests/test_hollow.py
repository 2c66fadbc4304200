"""Recording without computing: the same operations and sizes as a pass in full."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from parity import prepared
from secateur.errors import InputError
from secateur.graph import hollow
from secateur.graph.hollow import Hollow, ValuesNeeded
from secateur.graph.trace import Trace, record
from secateur.inputs import as_inputs
from zoo import ZOO, Entry

INDEXING = {
    f"aten::{name}"
    for name in "index index_select gather scatter scatter_add embedding take index_add "
    "index_put masked_select masked_scatter nonzero repeat_interleave".split()
}

trace_module = importlib.import_module("secateur.graph.trace")


@pytest.fixture(autouse=True)
def everything_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hollow, "WORTHWHILE", 0)


def operations(recorded: Trace) -> list[object]:
    nodes = [*recorded.nodes, *recorded.training_only]
    return [
        (node.op, node.module, [recorded.values[i].shape for i in (*node.inputs, *node.outputs)])
        for node in nodes
    ]


@pytest.mark.parametrize("entry", ZOO.values(), ids=lambda entry: entry.name)
def test_same_operations_and_indices(entry: Entry) -> None:
    model, inputs = prepared(entry, 3)
    quick = record(model, as_inputs(inputs))
    full = trace_module._record(model, as_inputs(inputs), None)
    assert operations(quick) == operations(full)
    assert [name for name, _ in quick.outputs] == [name for name, _ in full.outputs]
    for a, b in zip(quick.values, full.values, strict=True):
        assert (a.kind, a.shape, a.dtype) == (b.kind, b.shape, b.dtype)
    # Integers that an operation takes for indices have to be the real ones.
    for node in quick.nodes:
        for index in node.inputs if node.op in INDEXING else ():
            a, b = quick.values[index].data, full.values[index].data
            if a is not None and b is not None:
                assert torch.equal(a, b)


class Counting(TorchDispatchMode):
    """Counts products and convolutions that really run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += func._schema.name in hollow.SHAPES
        return func(*args, **(kwargs or {}))


def test_products_are_left_out() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2),
        nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1, groups=2),
        nn.Flatten(1),
        nn.LazyLinear(5),
    )
    x = torch.randn(2, 3, 9, 11)
    net(x)
    with Counting() as counting:
        recorded = record(net, as_inputs(x))
    assert recorded.hollow
    assert counting.seen == 0
    assert recorded.values[recorded.outputs[0][1]].shape == (2, 5)


class Branches(nn.Module):
    """Looks at a value in a way of its own, after a product."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.other = nn.Linear(8, 4)
        nn.init.constant_(self.first.bias, 3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        if self.way == "item":
            positive = h.mean().item() > 0
        elif self.way == "bool":
            positive = bool((h > -100).all() and h.sum() > 0)
        elif self.way == "index":
            positive = int((h > 0).sum()) > 0
        elif self.way == "numpy":
            positive = bool(torch.from_numpy(h.detach().numpy()).mean() > 0)
        elif self.way == "written":
            box = torch.zeros(4, 2)
            box[:, 1] = h.sum(1)
            positive = bool(box.sum() > 0)
        else:
            try:
                positive = bool(h.sum() > 0)
            except Exception:
                positive = False
        return self.second(h) if positive else self.other(h)


@pytest.mark.parametrize("way", ["item", "bool", "index", "numpy", "written", "swallowed"])
def test_code_that_looks_at_values_sees_real_ones(way: str) -> None:
    torch.manual_seed(0)
    net, x = Branches(way), torch.randn(4, 6) * 0.1
    recorded = record(net, as_inputs(x))
    assert not recorded.hollow
    assert any(node.module == "second" for node in recorded.nodes)
    result = sc.prune(net, x, budget={"params": 0.7})
    assert "other.weight" in [name for name, _ in result.skipped]


def test_memory_that_is_used_again_counts_as_real() -> None:
    watcher = Hollow()
    a, b = torch.ones(64, 64), torch.ones(64, 64)
    stand_in = watcher.result("aten::mm", (a, b))
    assert stand_in is not None
    positive = stand_in.t()[3:] > 0
    watcher.follow("aten::gt", (stand_in.t()[3:], 0), {}, positive)
    watcher.follow("aten::where", (positive, a[3:], b[3:]), {}, a[3:] + 1)
    with pytest.raises(ValuesNeeded):
        watcher.follow("aten::index", (a, [positive[0]]), {}, a)
    with pytest.raises(ValuesNeeded):
        watcher.follow("aten::_local_scalar_dense", (stand_in[0, 0],), {}, 1.0)
    memory = np.ones((4, 4), dtype=np.float32)
    made = torch.from_numpy(memory)
    watcher.follow("aten::add", (stand_in, 1), {}, made)
    other = torch.from_numpy(memory)
    with pytest.raises(ValuesNeeded):
        watcher.follow("aten::_local_scalar_dense", (other[0, 0],), {}, 1.0)
    del made
    watcher.follow("aten::_local_scalar_dense", (other[0, 0],), {}, 1.0)


def test_operands_that_do_not_fit_fail_as_they_always_do() -> None:
    watcher = Hollow()
    assert watcher.result("aten::mm", (torch.ones(4, 5), torch.ones(6, 4))) is None
    with pytest.raises(InputError, match="rejects the example inputs"):
        sc.prune(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), torch.ones(2, 5))
