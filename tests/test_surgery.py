"""What goes with the weights: gradients, optimizer state, averaged copies, dtypes, steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import secateur as sc
from parity import assert_same, outputs, randomise, snapshot, tensors
from secateur.errors import ParityError, PlanError
from zoo import ZOO

X = torch.randn(4, 3, 8, 6, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 3, 9, 1])


def net(name: str = "res_net_projection") -> nn.Module:
    return randomise(ZOO[name].build(), 5)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()


def sliced(tensor: Tensor, dims: dict[int, list[int]]) -> Tensor:
    for dim, gone in dims.items():
        keep = [i for i in range(tensor.shape[dim]) if i not in set(gone)]
        tensor = tensor.index_select(dim, torch.tensor(keep))
    return tensor


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=1e-3),
    "plain": lambda p: torch.optim.SGD(p, 0.01),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(
        [{"params": p[:4], "lr": 1e-4}, {"params": p[4:], "weight_decay": 0.0}], 1e-3
    ),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.5, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, 1e-3),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizer_state_loses_the_same_indices(kind: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    learn(model, optimizer)
    names = {parameter: name for name, parameter in model.named_parameters()}
    before = {
        names[parameter]: {key: copy.deepcopy(value) for key, value in state.items()}
        for parameter, state in optimizer.state.items()
    }
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    plan = sc.prune(model, X, budget={"macs": 0.5}, optimizer=optimizer).plan

    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == groups
    for parameter, state in optimizer.state.items():
        name = names[parameter]
        for key, old in before[name].items():
            if isinstance(old, Tensor) and old.dim() > 0:
                assert torch.equal(state[key], sliced(old, plan.removed.get(name, {}))), name
            else:
                assert state[key] == old
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learn(model, optimizer, 1)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, weights[name]), f"{name} no longer trains"


def test_gradients_lose_the_same_indices() -> None:
    model = net()
    F.cross_entropy(model(X), Y).backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    plan = sc.prune(model, X, budget={"macs": 0.5}).plan
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, sliced(before[name], plan.removed.get(name, {})))


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = net(), net()
    optimizer = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    learn(other, optimizer, 1)
    here, there = snapshot(model), snapshot(other)
    with pytest.raises((PlanError, ValueError)):
        sc.prune(model, X, budget={"macs": 0.5}, optimizer=optimizer)
    assert_same(model, here)
    assert_same(other, there)


@pytest.mark.parametrize("wrap", [copy.deepcopy, AveragedModel])
def test_an_averaged_copy_is_cut_alike(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = net()
    average = wrap(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.9)
    inner = average.module if isinstance(average, AveragedModel) else average
    before = {name: tensor.clone() for name, tensor in tensors(inner).items()}
    plan = sc.prune(model, X, budget={"macs": 0.5}, ema=inner).plan
    for name, tensor in tensors(inner).items():
        assert torch.equal(tensor, sliced(before[name], plan.removed.get(name, {}))), name
    assert outputs(average, X)["output"].shape == (4, 10)
    if isinstance(average, AveragedModel):
        average.update_parameters(model)


def test_a_copy_that_does_not_match_is_refused() -> None:
    model, other = net(), net("mobile_net")
    before = snapshot(model), snapshot(other)
    with pytest.raises(PlanError):
        sc.prune(model, X, budget={"macs": 0.5}, ema=other)
    assert_same(model, before[0])
    assert_same(other, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["res_net_projection", "conv_next", "vision_transformer"])
def test_other_precisions_stay(name: str, dtype: torch.dtype) -> None:
    model = net(name).to(dtype)
    result = sc.prune(model, X.to(dtype), budget={"params": 0.6})
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert result.error is not None
    assert result.after.params <= 0.6 * result.before.params


def test_channels_last_stays() -> None:
    model = net().to(memory_format=torch.channels_last)
    sc.prune(model, X.to(memory_format=torch.channels_last), budget={"macs": 0.5})
    weight = model.layers[2][1].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


class Restless(nn.Module):
    """A model whose output differs from call to call, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)) + torch.rand(x.shape[0], 1))


def test_what_cannot_be_verified_is_put_back() -> None:
    model = Restless()
    before = snapshot(model)
    with pytest.raises(ParityError, match="restored"):
        sc.prune(model, torch.randn(3, 6), budget={"macs": 0.5})
    assert_same(model, before)
    assert sc.history(model) == []
    assert sc.prune(model, torch.randn(3, 6), budget={"macs": 0.5}, verify=False).error is None


@pytest.mark.parametrize("budget", [0.9, 0.73, 0.5, 0.31, 0.1])
def test_the_budget_is_met_and_not_overshot_by_more_than_a_unit(budget: float) -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    result = sc.prune(model, torch.randn(2, 8), budget={"params": budget})
    unit = 8 + 1 + 4
    assert result.after.params <= budget * result.before.params < result.after.params + unit


def test_several_budgets_at_once_are_all_met() -> None:
    result = sc.prune(net(), X, budget={"macs": 0.6, "params": 0.4, "bytes": 0.5})
    before, after = result.before, result.after
    assert after.macs <= 0.6 * before.macs
    assert after.params <= 0.4 * before.params
    assert after.bytes <= 0.5 * before.bytes


@pytest.mark.parametrize("schedule", ["iterative", "agp", "one_shot"])
def test_steps_with_training_in_between(schedule: str) -> None:
    model = net()
    dense = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    params = sum(parameter.numel() for parameter in model.parameters())
    sizes = []
    pruner = sc.Pruner(
        model, X, schedule=schedule, steps=4, budget={"params": 0.4}, optimizer=optimizer
    )
    for _ in pruner:
        learn(model, optimizer, 1)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 0.4 * params
    for plan in sc.history(model):
        plan.apply(dense)
    assert {n: p.shape for n, p in dense.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }


def test_a_step_that_is_met_already_changes_nothing() -> None:
    model = net("c2f")
    sizes = [
        result.after.params
        for result in sc.Pruner(model, X, steps=12, schedule="agp", budget={"params": 0.5})
    ]
    assert len(sizes) == 12
    assert sizes == sorted(sizes, reverse=True)


def test_a_frozen_model_is_pruned_like_any_other() -> None:
    model, frozen = net(), net().requires_grad_(False)
    plans = [sc.prune(m, X, budget={"macs": 0.5}).plan for m in (model, frozen)]
    assert plans[0].removed == plans[1].removed
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
