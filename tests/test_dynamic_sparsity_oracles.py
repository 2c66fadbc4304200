"""Dynamic methods against their papers: what goes, what comes back, and when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training_nets import attached, net, train
from torch import nn

from secateur.errors import InputError
from secateur.schedules import RigL, dynamic_sparsity


@pytest.mark.parametrize("name", ["rigl", "set"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_non_zeros_stay_constant_and_zeros_zero(name: str, kind: str) -> None:
    model = net()
    method, optimizer = attached(f"{name}:every=1,sparsity=0.8", model, kind)
    weights = [model[at].weight for at in (0, 3, 8)]
    kept = [w.numel() - int(0.8 * w.numel() + 1e-9) for w in weights]
    places = []
    for _ in range(4):
        train(model, method, optimizer, 1)
        assert [int((~zeros).sum()) for zeros in method.zeros.values()] == kept
        for target in method.targets:
            gone = target.each(method.zeros[target.name])
            assert not target.value[gone].any()
            state = optimizer.state[target.value]
            assert not state["momentum_buffer" if kind == "sgd" else "exp_avg"][gone].any()
        places.append(method.zeros["0.weight"].clone())
    assert not torch.equal(places[0], places[-1])


class Oracle(nn.Module):
    """Weights of the shapes whose densities are known: (16,3,3,3), (32,16,3,3), (10,32)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ["rigl", "set"])
@pytest.mark.parametrize("start", ["random", "magnitude"])
def test_erdos_renyi_kernel_densities(name: str, start: str) -> None:
    torch.manual_seed(0)
    model = Oracle()
    line = f"{name}:allocation=erk,sparsity=0.9,every=1,start={start}"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method = dynamic_sparsity(line, model, optimizer)
    wanted = {"first": 0.2564, "second": 0.0519, "head": 0.5814}
    for _ in range(4):
        for layer, density in wanted.items():
            mask = method.plan().masks[f"{layer}.weight"]
            assert int(mask.sum()) == pytest.approx(density * mask.numel(), abs=1.0)
            assert not model.get_parameter(f"{layer}.weight")[~mask].any()
        assert method.current == pytest.approx(0.9, abs=3 / 5360)
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        method.step()


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_what_an_allocation_leaves_dense_is_left_alone(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))
    method = dynamic_sparsity(f"{name}:allocation=erk,sparsity=0.5,every=1", model)
    assert not method.zeros["1.weight"].any() and method.zeros["0.weight"].any()
    before = model[1].weight.clone()
    model(torch.randn(4, 64)).sum().backward()
    method.step()
    assert torch.equal(model[1].weight, before)


def test_rigl_drops_the_smallest_and_grows_the_largest_gradient() -> None:
    layer = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.1, 0.1, 0.1, 0.1]]))
    method = RigL(sparsity=0.5, steps=10**9, every=1, alpha=0.5, start="magnitude").attach(layer)
    layer.weight.grad = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.5, -9.0, 3.0, 0.1]])
    method.step()  # two of four move: weights 2 and 1 go, the places of −9 and 3 come
    assert (~method.zeros["weight"]).nonzero()[:, 1].tolist() == [0, 1, 5, 6]
    assert layer.weight.tolist() == [[4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    layer.weight.grad = None
    with pytest.raises(InputError, match=r"before zero_grad\(\)"):
        method.step()


def test_rigl_cosine() -> None:
    method = RigL(steps=1000)
    shares = [method.fraction(step) for step in (0, 250, 500, 750, 999)]
    assert shares == pytest.approx([0.3, 0.225, 0.075, 0.0, 0.0])


@pytest.mark.parametrize(("n", "share", "count"), [(10, 0.1, 1), (10, 0.3, 3), (16, 0.4, 6)])
def test_soft_filters_are_exactly_so_many_and_grow_back(n: int, share: float, count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, n, 3), nn.BatchNorm2d(n), nn.Flatten(), nn.Linear(16 * n, 3))
    method, optimizer = attached(f"soft_filter:sparsity={share},every=2", model)
    method.targets = method.targets[:1]

    def zero_filters() -> int:
        return int((model[0].weight.flatten(1).abs().sum(1) == 0).sum())

    train(model, method, optimizer, 2)
    assert zero_filters() == count
    train(model, method, optimizer, 1)
    assert zero_filters() == 0
    train(model, method, optimizer, 1)
    assert zero_filters() == count


def test_soft_filters_break_ties_by_index() -> None:
    layer = nn.Linear(2, 10, bias=False)
    nn.init.ones_(layer.weight)
    dynamic_sparsity("soft_filter:sparsity=0.3,every=1", layer).step()
    assert (layer.weight[:, 0] == 0).nonzero()[:, 0].tolist() == [0, 1, 2]


def test_soft_filters_by_geometric_median() -> None:
    """1-D filters {0, 1, 10} have distances 11, 10, 19; the middle one goes, then comes back."""
    layer = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5], [1.0], [10.0]]))
    method = dynamic_sparsity("soft_filter:criterion=fpgm,sparsity=0.34,every=1", layer)
    method.step()
    assert layer.weight.tolist() == [[0.5], [0.0], [10.0]]
    with torch.no_grad():
        layer.weight[1] = 1.0
    method.step()
    assert method.plan().masks["weight"].flatten().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("criterion", "score"),
    [
        ("magnitude", lambda rows: rows.square().sum(1)),
        ("l1", lambda rows: rows.abs().sum(1)),
        ("lp:p=4", lambda rows: rows.abs().pow(4).sum(1)),
        ("fpgm", lambda rows: torch.cdist(rows, rows).sum(1)),
    ],
)
@pytest.mark.parametrize("granularity", ["filter", "channel"])
def test_soft_filters_go_by_their_criterion(criterion: str, score: Any, granularity: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(7, 9, 3).double()
    axis = ["filter", "channel"].index(granularity)
    rows = conv.weight.detach().movedim(axis, 0).flatten(1)
    wanted = set(score(rows).argsort()[: int(0.4 * len(rows))].tolist())
    method = dynamic_sparsity(
        f"soft_filter:criterion={criterion},sparsity=0.4,every=1,granularity={granularity}", conv
    )
    method.step()
    gone = conv.weight.detach().movedim(axis, 0).flatten(1).abs().sum(1) == 0
    assert set(gone.nonzero()[:, 0].tolist()) == wanted
    assert dynamic_sparsity(method.spec, nn.Conv2d(7, 9, 3)).spec == method.spec


@pytest.mark.parametrize("criterion", ["apoz", "mean_activation", "hrank", "taylor_activation",
                                       "taylor", "wanda", "synflow"])  # fmt: skip
def test_soft_filters_refuse_what_needs_data(criterion: str) -> None:
    with pytest.raises(InputError, match=f"'{criterion}' needs data.*take magnitude"):
        dynamic_sparsity(f"soft_filter:criterion={criterion}", net())


def test_network_surgery_splices_what_grows_above_the_upper_threshold() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.5, 1.0, -0.2]]))
    method = dynamic_sparsity("network_surgery:low=0.3,high=0.6,gamma=0.0", layer)
    plain = method.computed[0].plain

    def masks_after(values: list[float]) -> list[bool]:
        with torch.no_grad():
            plain.copy_(torch.tensor([values]))
        method.step()
        return (layer.weight[0] != 0).tolist()

    assert masks_after([0.1, 0.5, 1.0, -0.2]) == [False, True, True, False]
    # Gradients reach what is masked.
    layer(torch.ones(1, 4)).sum().backward()
    assert plain.grad.tolist() == [[1.0] * 4]
    # Between the thresholds nothing changes, in either direction.
    assert masks_after([0.5, 0.5, 0.5, -0.5]) == [False, True, True, False]
    assert masks_after([0.7, 0.5, 0.2, -0.7]) == [True, True, False, True]
    method.finish()
    assert layer.weight.tolist()[0] == pytest.approx([0.7, 0.5, 0.0, -0.7])


def test_movement_adds_up_minus_gradient_times_weight() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False)
    method = dynamic_sparsity("movement:sparsity=0.4,steps=4,warmup=0,cooldown=0.25", model)
    (scores,) = method.parameters()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain, expected = method.computed[0].plain, torch.zeros(3, 5)
    inputs, targets = torch.randn(7, 5), torch.randn(7, 3)
    for _ in range(6):
        optimizer.zero_grad()
        weight = model.weight
        weight.retain_grad()
        (inputs @ weight.T - targets).square().mean().backward()
        expected -= 0.1 * weight.grad * plain.detach()
        optimizer.step()
        method.step()
    assert torch.allclose(scores, expected, atol=1e-6)
    method.finish()
    assert int((model.weight == 0).sum()) == 6
    assert set(expected.flatten().argsort()[:6].tolist()) == set(
        (model.weight.flatten() == 0).nonzero()[:, 0].tolist()
    )


def test_soft_movement_presses_on_the_sigmoid_of_scores() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 2, bias=False))
    method = dynamic_sparsity(
        "movement:threshold=0.1,strength=7,steps=4,warmup=0,cooldown=0.25", model
    )
    first, second = method.parameters()
    with torch.no_grad():
        for scores in (first, second):
            scores.copy_(4 * torch.randn_like(scores))
    inputs = torch.randn(6, 5)
    for step in range(4):
        method.model.zero_grad()
        model(inputs).square().mean().backward()
        plain = [scores.grad.clone() for scores in (first, second)]
        method.add_gradients()
        # λ follows the cubic: nothing at first, all of it three quarters of the way.
        strength = 7 * (1 - (1 - min(step / 3, 1)) ** 3)
        term = strength * (first.sigmoid().mean() + second.sigmoid().mean()) / 2
        added = torch.autograd.grad(term, [first, second])
        for scores, before, extra in zip((first, second), plain, added, strict=True):
            assert torch.allclose(scores.grad, before + extra, atol=1e-7)
        method.step()
        level = 0.1 * (1 - (1 - min((step + 1) / 3, 1)) ** 3)
        gone = first.detach().sigmoid() <= level
        assert torch.equal(method.zeros["0.weight"], gone)
        assert torch.equal(model[0].weight == 0, gone)
    assert bool(method.zeros["0.weight"].any()) and not bool(method.zeros["0.weight"].all())


def test_soft_movement_learns_what_goes_and_leaves_a_unit() -> None:
    """Inputs that the target does not depend on lose their weights; the others keep them."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 2, bias=False)
    method = dynamic_sparsity("movement:threshold=0.1,strength=1,steps=300,warmup=0", layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    wanted = torch.zeros(2, 8)
    wanted[:, :3] = torch.tensor([[2.0, -1.5, 1.0], [1.0, 2.0, -2.0]])
    for _ in range(300):
        inputs = torch.randn(32, 8)
        optimizer.zero_grad()
        (layer(inputs) - inputs @ wanted.T).square().mean().backward()
        method.add_gradients()
        optimizer.step()
        method.step()
    with torch.no_grad():
        method.finish()
    assert torch.equal(layer.weight != 0, wanted != 0)

    layer = nn.Linear(4, 2, bias=False)
    method = dynamic_sparsity("movement:threshold=0.5,steps=1,warmup=0,cooldown=0", layer)
    with torch.no_grad():
        method.parameters()[0].fill_(-1.0)
        method.parameters()[0][1, 2] = -0.5
    method.step()
    assert (layer.weight != 0).nonzero().tolist() == [[1, 2]]


def test_admm_projects_exactly_and_draws_weights_there() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    start = layer.weight.detach().clone()
    method = dynamic_sparsity("admm:sparsity=0.5,rho=1.0,every=1", layer)
    order = start.flatten().abs().argsort()
    z = method.z["weight"].flatten()
    assert not z[order[:6]].any()
    assert torch.equal(z[order[6:]], start.flatten()[order[6:]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        method.add_gradients()
        optimizer.step()
        method.step()
    assert (layer.weight - method.z["weight"]).abs().max().item() < 1e-2
    method.finish()
    assert int((layer.weight == 0).sum()) == 6
