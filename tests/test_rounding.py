"""Rules for the sizes of layers: which rule counts, and that every size keeps to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import InputError, SecateurError, UnknownNameError

X = torch.randn(2, 3, 8, 8)


def chain() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.stem = nn.Sequential(nn.Conv2d(3, 30, 3), nn.ReLU())
    net.body = nn.Sequential(nn.Conv2d(30, 48, 3), nn.ReLU(), nn.Conv2d(48, 20, 1), nn.ReLU())
    net.head = nn.Sequential(nn.Flatten(), nn.Linear(20 * 16, 5))
    return net


def sizes(net: nn.Module) -> list[int]:
    return [module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    ("rule", "multiples"),
    [
        (7, (7, 7, 7)),
        ({"body.*": 16, "*": 4}, (4, 16, 16)),
        ({"body.2": 5, "body.*": 12}, (1, 12, 5)),
        ({"*": 10, "body.*": 3}, (10, 10, 10)),
        ({"stem.0": 8}, (8, 1, 1)),
    ],
)
def test_every_layer_keeps_to_its_rule(rule: Any, multiples: Any, fraction: float) -> None:
    net = chain()
    dense = sizes(net)
    result = sc.prune(net, X, budget={"macs": fraction}, round_to=rule)
    assert result.after.macs <= fraction * result.before.macs
    for left, before, multiple in zip(sizes(net), dense, multiples, strict=True):
        # 30 and 20 are no multiples: what loses nothing stays as it is.
        assert left % multiple == 0 or left == before
    assert result.plan.settings["round_to"] == rule
    again = chain()
    sc.Plan.from_json(result.plan.to_json()).apply(again)
    assert sizes(again) == sizes(net)


def test_layers_that_shrink_together_keep_to_both_rules() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Conv2d(3, 48, 3)
            self.right = nn.Conv2d(3, 48, 3)
            self.last = nn.Conv2d(48, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.left(x) + self.right(x))

    net = Sum()
    sc.prune(net, X, budget={"macs": 0.6}, round_to={"left": 4, "right": 6})
    assert net.left.out_channels == net.right.out_channels == 24


def test_what_is_idle_goes_by_the_rule_of_its_layer() -> None:
    net = chain()
    with torch.no_grad():
        net.body[0].weight[:9] = 0
        net.body[0].bias[:9] = 0
    result = sc.compact(net, X, round_to={"body.*": 8})
    assert sizes(net) == [30, 40, 20]
    assert "round_to={'body.*': 8}" in dict(result.skipped)["body.0.weight"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"body.*": 0}, ["body.*", "at least 1"]),
        ({"body.*": True}, ["body.*"]),
        ({"body.*": 2.0}, ["body.*", "2.0"]),
        ({3: 8}, ["pattern", "3"]),
        ({}, ["empty"]),
        ([8], ["integer", "[8]"]),
        ("fast", ["auto", "fast"]),
        (None, ["None"]),
    ],
)
def test_what_is_no_rule(rule: Any, words: list[str]) -> None:
    net = chain()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        sc.prune(net, X, round_to=rule)
    assert all(word in str(caught.value) for word in words), caught.value
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_pattern_that_matches_nothing_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'boddy' matches no module; did you mean 'body'"):
        sc.prune(chain(), X, round_to={"boddy": 8, "*": 4})


def test_a_budget_that_the_rules_forbid_names_them() -> None:
    with pytest.raises(SecateurError, match=r"round_to=\{'stem.0': 30, 'body.\*': 20\}"):
        sc.prune(chain(), X, budget={"macs": 0.01}, round_to={"stem.0": 30, "body.*": 20})
