"""Criteria and allocations through the public call: the right channels go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.hand_graph import WIDE, make_data, make_net, variants
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import Taylor
from secateur.errors import CriterionError, InputError, NothingToPruneError


class Pair(nn.Module):
    """conv - bn - relu - conv: one group of channels."""

    def __init__(self, width: int = 10, inputs: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(x)))).mean(dim=(2, 3))


def make_pair(**kwargs: Any) -> Pair:
    torch.manual_seed(0)
    pair = Pair(**kwargs)
    with torch.no_grad():
        pair.norm.weight.uniform_(0.5, 1.5)
        pair.norm.bias.normal_()
        pair.norm.running_mean.normal_()
        pair.norm.running_var.uniform_(0.5, 1.5)
    return pair


def example() -> Tensor:
    return make_data()[0][0]


def removed(
    pair: nn.Module, inputs: Tensor, name: str = "first.weight", **kwargs: Any
) -> list[int]:
    kwargs.setdefault("budget", {"params": 0.7})
    return sc.prune(pair, inputs, **kwargs).plan.removed[name][0]


def lowest(scores: Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, stable=True)[:count].tolist())


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("criterion", variants())
def test_every_criterion_prunes_exactly(criterion: str, allocation: str) -> None:
    net = make_net()
    grads = [p.grad for p in net.parameters()]
    result = sc.prune(
        net,
        example(),
        criterion=criterion,
        allocation=allocation,
        budget={"macs": 0.7},
        data=make_data(),
    )
    assert result.error is not None and result.error < 1e-5
    assert result.after.macs <= 0.7 * result.before.macs
    assert result.plan.settings["criterion"].split(":")[0] == criterion.split(":")[0]
    assert {None} == set(grads) == {p.grad for p in net.parameters()}
    assert net(example()).shape == (5, 4)


ORACLES = {
    "l1:view=producer": lambda p: p.first.weight.abs().sum(dim=(1, 2, 3)),
    "l2:view=producer": lambda p: p.first.weight.square().sum(dim=(1, 2, 3)),
    "l1:view=consumer": lambda p: p.second.weight.abs().sum(dim=(0, 2, 3)),
    "magnitude": lambda p: (
        p.first.weight.square().sum(dim=(1, 2, 3)) + p.second.weight.square().sum(dim=(0, 2, 3))
    ),
    "bn_scale": lambda p: p.norm.weight.abs(),
    "fpgm": lambda p: torch.cdist(*[p.first.weight.flatten(1).double()] * 2).sum(dim=1),
}


@pytest.mark.parametrize("criterion", ORACLES)
def test_the_lowest_scores_go(criterion: str) -> None:
    pair = make_pair()
    scores = ORACLES[criterion](pair).detach()
    gone = removed(pair, example(), criterion=criterion)
    assert gone == lowest(scores, len(gone))
    assert 0 < len(gone) < 10


def test_taylor_removes_what_the_loss_needs_least() -> None:
    pair, data = make_pair(), make_data(3)
    pair.eval()
    scores = torch.zeros(10)
    for inputs, targets in data:
        loss = nn.functional.cross_entropy(pair(inputs), targets)
        grads = torch.autograd.grad(loss, list(pair.parameters()))
        tensors = zip(pair.named_parameters(), grads, strict=True)
        product = {name: (p * g).detach() for (name, p), g in tensors}
        each = product["first.weight"].sum(dim=(1, 2, 3)) + product["first.bias"]
        each += product["norm.weight"] + product["norm.bias"]
        each += product["second.weight"].sum(dim=(0, 2, 3))
        scores += each.square()
    gone = removed(pair, example(), criterion=Taylor("square_of_sum"), data=data)
    assert gone == lowest(scores, len(gone))


def test_geometric_median_oracle() -> None:
    pair = make_pair(width=3, inputs=1)
    with torch.no_grad():
        pair.first.weight.copy_(torch.tensor([0.0, 1.0, 10.0]).view(3, 1, 1, 1).expand(3, 1, 3, 3))
    gone = removed(pair, torch.randn(2, 1, 5, 5), criterion="fpgm", budget={"params": 0.8})
    assert gone == [1]


@pytest.mark.parametrize("criterion", ["magnitude", "l1", "fpgm", lambda weight: weight[:, 0] * 0])
def test_ties_go_by_index(criterion: Any) -> None:
    pair = make_pair()
    with torch.no_grad():
        pair.first.weight.fill_(0.5)
        pair.second.weight.fill_(0.5)
    gone = removed(pair, example(), criterion=criterion)
    assert gone == list(range(len(gone)))
    assert 0 < len(gone) < 10


def test_a_global_ranking_of_ties_empties_no_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    result = sc.prune(net, example(), criterion="bn_scale", budget={"macs": 0.5})
    kept = [group.after for group in result.groups]
    assert max(kept) - min(kept) <= 1


def test_channels_without_batch_norm_are_kept_and_listed() -> None:
    net = make_net()
    result = sc.prune(net, example(), criterion="bn_scale", budget={"macs": 0.7})
    assert net.fc1.out_features == 5
    assert net.conv1.out_channels < WIDE
    reasons = dict(result.skipped)
    assert "batch norm" in reasons["fc1.weight"]


def test_nothing_that_the_criterion_can_judge() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(NothingToPruneError, match="batch norm"):
        sc.prune(net, torch.zeros(2, 4), criterion="bn_scale")


def test_one_shot_data_is_enough() -> None:
    net = make_net()
    sc.prune(net, example(), criterion="taylor", data=iter(make_data()), budget={"macs": 0.7})
    assert net.conv1.out_channels < WIDE


@pytest.mark.parametrize("criterion", ["random", "taylor", "magnitude"])
def test_the_same_seed_gives_the_same_plan(criterion: str) -> None:
    plans = [
        sc.prune(make_net(), example(), criterion=criterion, data=make_data(), seed=3).plan
        for _ in range(2)
    ]
    assert plans[0].removed == plans[1].removed


def test_another_seed_gives_other_random_channels() -> None:
    gone = {tuple(removed(make_pair(), example(), criterion="random", seed=s)) for s in range(5)}
    assert len(gone) > 1


@pytest.mark.parametrize(
    "criterion, error, words",
    [
        (lambda weight: weight[:, 0] * float("nan"), CriterionError, "NaN"),
        (lambda weight: weight, CriterionError, "shape"),
        ("taylor", InputError, "data="),
    ],
)
def test_errors_leave_the_model_alone(criterion: Any, error: type[Exception], words: str) -> None:
    net = make_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(error, match=words):
        sc.prune(net, example(), criterion=criterion)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
