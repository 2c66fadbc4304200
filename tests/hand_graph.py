"""A small net, its coupling written by hand, and what the tests of criteria share."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.criteria import (
    CRITERIA,
    score_classes,
)
from secateur.specs import catalogue


@dataclasses.dataclass
class Member:
    name: str
    dim: int
    role: str
    classes: np.ndarray


@dataclasses.dataclass
class Group:
    name: str
    classes: np.ndarray
    members: list[Member]
    protected: bool = False
    reason: str = ""


@dataclasses.dataclass
class Graph:
    members: list[Member]
    groups: list[Group]
    n_classes: int


class Net(nn.Module):
    """conv - bn - relu - conv - bn - residual - flatten - linear - relu - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 4, 5)
        self.fc2 = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        x = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


WIDE, HIDDEN = 6, 5  # classes of the residual stream, classes of the hidden layer


def make_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    return net.to(dtype)


def make_graph(order: np.ndarray | None = None) -> Graph:
    """Couple the net's dimensions; `order` renames the residual stream's classes."""
    stream = np.arange(WIDE) if order is None else order
    hidden = np.arange(WIDE, WIDE + HIDDEN)
    outputs = np.arange(WIDE + HIDDEN, WIDE + HIDDEN + 4)
    members = [
        Member("conv1.weight", 0, "producer", stream),
        Member("conv1.bias", 0, "other", stream),
        *(Member(f"bn1.{leaf}", 0, "other", stream) for leaf in BATCH_NORM),
        Member("conv2.weight", 1, "consumer", stream),
        Member("conv2.weight", 0, "producer", stream),
        *(Member(f"bn2.{leaf}", 0, "other", stream) for leaf in BATCH_NORM),
        Member("fc1.weight", 1, "consumer", np.repeat(stream, 4)),
        Member("fc1.weight", 0, "producer", hidden),
        Member("fc1.bias", 0, "other", hidden),
        Member("fc2.weight", 1, "consumer", hidden),
        Member("fc2.weight", 0, "producer", outputs),
        Member("fc2.bias", 0, "other", outputs),
    ]
    groups = [
        Group("conv1.weight", np.arange(WIDE), members[:12]),
        Group("fc1.weight", hidden, members[12:15]),
        Group("fc2.weight", outputs, members[15:], protected=True, reason="an output"),
    ]
    return Graph(members, groups, int(outputs[-1]) + 1)


BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
OPEN = WIDE + HIDDEN


def make_data(batches: int = 2, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(5, 3, 6, 6, generator=generator).to(dtype),
            torch.randint(4, (5,), generator=generator),
        )
        for _ in range(batches)
    ]


def score(criterion: Any, net: Net | None = None, graph: Graph | None = None, **kwargs: Any) -> Any:
    net = make_net() if net is None else net
    dtype = net.fc2.weight.dtype
    kwargs.setdefault("data", make_data(dtype=dtype))
    kwargs.setdefault("inputs", make_data(dtype=dtype)[0][0])
    return score_classes(graph or make_graph(), net, criterion, **kwargs)


def permuted(net: Net, order: Tensor) -> Net:
    """Permute the channels of the residual stream: channel c becomes order[c]'s place."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in [*other.named_parameters(), *other.named_buffers()]:
            if name.startswith(("conv1.", "bn1.", "bn2.")) and parameter.ndim:
                parameter.copy_(parameter[order].clone())
        other.conv2.weight.copy_(net.conv2.weight[order][:, order])
        columns = net.fc1.weight.view(HIDDEN, WIDE, 4)[:, order].reshape(HIDDEN, -1)
        other.fc1.weight.copy_(columns)
    return other


def variants() -> list[str]:
    """Every registered criterion, with every value of its view and reduction; some options more."""
    lines = []
    for entry in catalogue(CRITERIA):
        name = entry.names[0]
        views = ["producer", "consumer", "group"] if "view" in entry.options else [None]
        reductions = ["sum_of_squares", "square_of_sum"] if "reduction" in entry.options else [None]
        for view in views:
            for reduction in reductions:
                given = [f"view={view}"] * bool(view) + [f"reduction={reduction}"] * bool(reduction)
                lines.append(name + (":" + ",".join(given) if given else ""))
    return [*lines, "obd:curvature=hutchinson,gradient=True", "fpgm:mix=0.4", "lp:p=3"]


def draws(criterion: str) -> bool:
    """Whether scores hold random numbers, which belong to places and not to weights."""
    return criterion == "random" or "hutchinson" in criterion


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation made in memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        shared = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in shared:
                self.elements = max(self.elements, result.numel())
        return results


def clear_error(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match=".*".join(words))


class Labelled(nn.Module):
    """Takes keyword inputs and returns its own loss, in the manner of Hugging Face models."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_net()

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.inner(pixels)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits, "loss": loss}


def labelled_graph() -> Graph:
    graph = make_graph()
    for member in graph.members:
        member.name = f"inner.{member.name}"
    return graph
