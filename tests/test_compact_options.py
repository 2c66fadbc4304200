"""Options of `compact`, what is left of the model, and models that it cannot judge by running."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from compacting import conv2d, outputs
from parity import assert_same, snapshot
from secateur.errors import InputError, NothingToPruneError


def idle_net() -> nn.Module:
    """Of whose twelve hidden units nothing reads seven."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        net[2].weight[:, 2:9] = 0
    return net


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, 5), ({"round_to": 4}, 8), ({"round_to": 8}, 8), ({"min_keep": 7}, 7)],
)
def test_sizes(options: dict[str, int], left: int) -> None:
    net, x = idle_net(), torch.randn(3, 4)
    before = outputs(net, x)
    result = sc.compact(net, x, **options)
    assert net[0].out_features == left
    torch.testing.assert_close(outputs(net, x), before)
    reasons = dict(result.skipped)
    if left == 5:
        assert "0.weight" not in reasons
    else:
        assert reasons["0.weight"].startswith(f"{left - 5} all-zero: sizes must keep it")


def test_a_unit_that_has_to_stay_keeps_what_it_reads() -> None:
    """A layer that nobody reads keeps one unit; what that one reads stays, too."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        net[4].weight.zero_()
        net[2].weight[4] = torch.tensor([0.0, 1, 0, 1, 0, 0])
    x = torch.randn(3, 4)
    result = sc.compact(net, x)
    assert result.plan.removed["2.weight"] == {0: [0, 1, 2, 3], 1: [0, 2, 4, 5]}


def test_optimizer_average_and_gradients_follow() -> None:
    net, x = idle_net(), torch.randn(3, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        net[2].weight[:, 2:9] = 0
    average = torch.optim.swa_utils.AveragedModel(net).module
    moments = optimizer.state[net[0].weight]["exp_avg"].clone()
    stay = [0, 1, 9, 10, 11]
    sc.compact(net, x, optimizer=optimizer, ema=average)
    assert torch.equal(optimizer.state[net[0].weight]["exp_avg"], moments[stay])
    assert average[0].out_features == 5
    assert torch.equal(outputs(average, x), outputs(net, x))
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def test_nothing_to_remove_is_an_error_that_says_why() -> None:
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2)), torch.randn(3, 4)
    held = snapshot(net)
    with pytest.raises(NothingToPruneError, match="no unit of the model is all-zero"):
        sc.compact(net, x)
    assert_same(net, held)
    with torch.no_grad():
        net[0].weight[[1, 2]] = 0
    held = snapshot(net)
    with pytest.raises(
        NothingToPruneError,
        match=r"none of 2 all-zero units may go \(0.weight: 2 all-zero: something",
    ):
        sc.compact(net, x)
    assert_same(net, held)
    with pytest.raises(NothingToPruneError, match="ignore"):
        sc.compact(idle_net(), x, ignore=["0"])
    with pytest.raises(InputError, match="round_to"):
        sc.compact(idle_net(), x, round_to=0)
    with pytest.raises(InputError, match="rejects the example inputs"):
        sc.compact(idle_net(), torch.randn(3, 5))


def test_half_precision() -> None:
    net, x = idle_net().bfloat16(), torch.randn(3, 4).bfloat16()
    before = outputs(net, x)
    sc.compact(net, x)
    assert net[0].out_features == 5
    torch.testing.assert_close(outputs(net, x), before)


def test_code_that_cannot_run_on_noise_is_judged_by_its_weights() -> None:
    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            if bool((x < 0).any()):
                raise ValueError("images are not negative")
            result: Tensor = self.out(F.relu(self.body(x)))
            return result

    net = Checks()
    with torch.no_grad():
        net.out.weight[:, 3] = 0
        net.body.weight[5] = 0
        net.body.bias[5] = 0
    assert sc.compact(net, torch.rand(3, 4)).plan.removed["body.weight"] == {0: [3]}


@pytest.mark.parametrize(
    ("decides", "mixes"),
    [
        (lambda h: torch.where(h > 0, h, 0.0), None),
        (lambda h: h * (h >= 0), None),
        (lambda h: h.nan_to_num(), None),
        (lambda h: h.round().long().float(), None),
        (lambda h: h.topk(8).values + h, "protected: body.weight: its positions become values"),
        (
            lambda h: h if bool((h == h).all()) else h[:, :0],
            "none of 1 all-zero.*all mixes it with others",
        ),
    ],
    ids=["where", "mask", "nan_to_num", "integers", "order", "branch"],
)
def test_code_that_decides_by_its_numbers(
    decides: Callable[[Tensor], Tensor], mixes: str | None
) -> None:
    """Nothing but numbers can stand for any number there; what compares all units keeps them."""

    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.out(decides(self.body(x)))
            return result

    torch.manual_seed(0)
    net, x = Decides(), torch.randn(3, 4)
    with torch.no_grad():
        net.body.weight[5] = 0
        net.body.bias[5] = 0
    before = outputs(net, x)
    if mixes is None:
        assert sc.compact(net, x).plan.removed["body.weight"] == {0: [5]}
    else:
        with pytest.raises(NothingToPruneError, match=mixes):
            sc.compact(net, x)
    torch.testing.assert_close(outputs(net, x), before)


def test_other_operations_each_time_are_an_error_that_says_what_helps() -> None:
    class Wavers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out, self.turn = nn.Linear(4, 8), nn.Linear(8, 2), iter(range(99))

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.body(x))
            for _ in range(next(self.turn)):
                h = torch.tanh(h)
            result: Tensor = self.out(h)
            return result

    for verify in (True, False):
        with pytest.raises(InputError, match=r"make its forward pass deterministic$"):
            sc.compact(Wavers(), torch.randn(3, 4), verify=verify)


def test_only_units_that_could_go_are_counted() -> None:
    """Of a model's inputs and outputs none could."""
    net, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(3, 4)
    with torch.no_grad():
        net[0].weight[:, 1] = 0
        net[2].weight[[0, 2]] = 0
    with pytest.raises(NothingToPruneError, match="no unit of the model is all-zero"):
        sc.compact(net, x)
    with torch.no_grad():
        net[0].weight[[2, 4]] = 0
        net[0].bias[:] = 1
    with pytest.raises(NothingToPruneError, match="none of 2 all-zero units may go"):
        sc.compact(net, x)


def test_how_often_the_model_runs_does_not_grow_with_what_goes() -> None:
    """Once more than for pruning on marks for any number, and twice to compare on noise."""
    runs = 0

    def count(module: nn.Module, given: Any) -> None:
        nonlocal runs
        runs += 1

    counts = []
    for zeros in (1, 4, 24):
        torch.manual_seed(0)
        net, x = conv2d(), torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            for at in range(zeros):
                layer = net[3] if at % 2 else net[0]
                layer.weight[at // 2] = 0
                layer.bias[at // 2] = 0
        twin = copy.deepcopy(net)
        for each, act in ((twin, sc.prune), (net, sc.compact)):
            handle = each.register_forward_pre_hook(count)
            runs = 0
            act(each, x)
            counts.append(runs)
            handle.remove()
    assert counts[::2] == [counts[0]] * 3
    assert counts[1::2] == [counts[0] + 3] * 3
