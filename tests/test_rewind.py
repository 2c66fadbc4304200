"""Rewinding: survivors as they were bit by bit, pruned entries zero, the optimizer cleared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training_nets import X, Y, engine, net
from torch import Tensor, nn

import secateur as sc
from secateur.errors import InputError, PlanError
from secateur.schedules.rewind import Rewind


class TestRewind:
    @pytest.mark.parametrize("at", [0, 2])
    def test_survivors_are_what_they_were_bit_by_bit(self, at: int) -> None:
        model = net()
        optimizer = engine(model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        rewind = Rewind(model, optimizer, scheduler, at=at)
        early: dict[str, torch.Tensor] = {}
        for step in range(5):
            if step == at:
                early = {key: value.clone() for key, value in model.state_dict().items()}
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            scheduler.step()
            rewind.step()
        masks = {"0.weight": model[0].weight.detach().abs() > 0.1}
        rewind.weights(masks)
        for key, value in model.state_dict().items():
            wanted = early[key].masked_fill(~masks[key], 0.0) if key in masks else early[key]
            assert torch.equal(value, wanted)
        assert not optimizer.state
        assert optimizer.param_groups[0]["lr"] == 0.05 * 0.5**at
        assert scheduler.last_epoch == at

    def test_the_learning_rate_alone(self) -> None:
        model = net()
        optimizer = engine(model)
        rewind = Rewind(model, optimizer)
        model(X).sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.001
        after = model[0].weight.clone()
        rewind.learning_rate()
        assert torch.equal(model[0].weight, after)
        assert optimizer.param_groups[0]["lr"] == 0.05
        assert not optimizer.state

    def test_misuse_is_told(self) -> None:
        model = net()
        rewind = Rewind(model, at=3)
        with pytest.raises(InputError, match="has not come yet"):
            rewind.weights({})
        rewind.remember()
        with pytest.raises(PlanError, match="does not fit"):
            rewind.weights({"0.weight": torch.ones(2, dtype=torch.bool)})
        again = Rewind(net(1), at=3)
        again.load_state_dict(rewind.state_dict())
        again.weights({})
        assert torch.equal(again.model[0].weight, model[0].weight)

    def test_what_changed_its_shape_is_told(self) -> None:
        model = net()
        rewind = Rewind(model)
        sc.prune(model, X, budget={"macs": 0.5})
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(PlanError, match="before surgery"):
            rewind.weights()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def train(model: nn.Module, optimizer: Any, scheduler: Any, rewind: Rewind, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        scheduler.step()
        rewind.step()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("at", [0, 2])
def test_the_lottery_ticket_loop(at: int, kind: str) -> None:
    """Train, prune 20 % of the survivors by magnitude, rewind, repeat: against plain PyTorch."""
    model, rounds, steps = net(), 4, 5
    optimizer = engine(model, kind)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    rewind = sc.Rewind(model, optimizer, scheduler, at=at)
    train(model, optimizer, scheduler, rewind, at)
    early = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, optimizer, scheduler, rewind, steps)
    pruner = sc.Pruner(model, X, granularity="element", steps=rounds,
                       budget={"sparsity": 1 - 0.8**rounds})  # fmt: skip
    weights = ("0.weight", "3.weight", "8.weight")
    total = sum(early[name].numel() for name in weights)
    alive = torch.ones(total, dtype=torch.bool)
    iterator = iter(pruner)
    for at_round in range(1, rounds + 1):
        trained = torch.cat([model.get_parameter(n).detach().flatten() for n in weights]).abs()
        trained[~alive] = -1.0
        alive[trained.argsort(stable=True)[: int((1 - 0.8**at_round) * total + 1e-9)]] = False
        next(iterator)
        rewind.weights()
        found = torch.cat([sc.masks_of(model)[name].flatten() for name in weights])
        assert torch.equal(found, alive)
        masks = dict(zip(weights, alive.split([early[n].numel() for n in weights]), strict=True))
        for key, value in model.state_dict().items():
            wanted = early[key]
            if key in masks:
                wanted = wanted.masked_fill(~masks[key].view_as(wanted), 0.0)
            assert torch.equal(value, wanted), key
        assert not optimizer.state
        assert scheduler.last_epoch == at
        rate = {"sgd": 0.05, "adam": 0.01}[kind]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate * 0.5 ** (at // 2))
        train(model, optimizer, scheduler, rewind, steps)
        for name, mask in masks.items():
            assert not model.get_parameter(name).flatten()[~mask].any()
    # Without its masks, the ticket is the whole network of step k again where it was pruned.
    rewind.weights()
    sc.remove_masks(model)
    assert all(torch.equal(value, early[key]) for key, value in model.state_dict().items())


def test_learning_rate_rewinding_keeps_the_weights_and_the_masks() -> None:
    model = net()
    optimizer = engine(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    rewind = sc.Rewind(model, optimizer, scheduler, at=1)
    rates: list[list[float]] = []
    for sparsity in (0.2, 0.36):
        rates.append([])
        for _ in range(4 if not rates[1:] else 3):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            train(model, optimizer, scheduler, rewind, 1)
        sc.prune(model, X, granularity="element", budget={"sparsity": sparsity})
        before = {key: value.clone() for key, value in model.state_dict().items()}
        rewind.learning_rate()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not optimizer.state
    # The second run replays the schedule from step 1.
    assert rates[1] == rates[0][1:]
    zeros = sum(int((~mask).sum()) for mask in sc.masks_of(model).values())
    assert zeros == int(0.36 * sum(m.numel() for m in sc.masks_of(model).values()))


def test_weights_that_are_computed_rewind_under_their_masks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    rewind = sc.Rewind(model)
    early = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def steps() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()

    steps()
    result = sc.prune(model, torch.ones(1, 4), granularity="element", budget={"sparsity": 0.5})
    masks: dict[str, Tensor] = sc.masks_of(model)
    assert "0.weight" in masks
    steps()
    rewind.weights(result.plan)
    for key, value in model.state_dict().items():
        wanted = early[key].masked_fill(~masks[key], 0.0) if key in masks else early[key]
        assert torch.equal(value, wanted), key
    assert not model[0].weight[~masks["0.weight"]].any()
