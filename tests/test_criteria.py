"""Criteria: a contract that every registered one is held to, and oracles for each."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.criteria import (
    CRITERIA,
    Criterion,
    Random,
    Scorer,
    Taylor,
    as_criterion,
    score_classes,
    score_units,
)
from secateur.criteria import elementwise as elementwise_module
from secateur.criteria.batches import batch_loss, read_batch
from secateur.criteria.elementwise import sums_along
from secateur.criteria.fpgm import summed_distances
from secateur.criteria.gradients import stream_gradients
from secateur.criteria.weights import effective_weight
from secateur.errors import CriterionError, InputError, UnknownNameError
from secateur.graph import trace
from secateur.specs import catalogue, options

# ------------------------------------------------------------------ a graph written by hand


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
    """Every registered criterion, with every value of its view and reduction."""
    lines = []
    for entry in catalogue(CRITERIA):
        name = entry.names[0]
        views = ["producer", "consumer", "group"] if "view" in entry.options else [None]
        reductions = ["sum_of_squares", "square_of_sum"] if "reduction" in entry.options else [None]
        for view in views:
            for reduction in reductions:
                given = [f"view={view}"] * bool(view) + [f"reduction={reduction}"] * bool(reduction)
                lines.append(name + (":" + ",".join(given) if given else ""))
    return lines


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


# ------------------------------------------------------------------ the contract of every member


@pytest.mark.parametrize("criterion", variants())
class TestContract:
    def test_one_finite_score_for_every_open_class(self, criterion: str) -> None:
        scores = score(criterion)
        assert scores.values.shape == scores.judged.shape == (make_graph().n_classes,)
        assert scores.values.dtype == np.float64
        assert scores.judged.dtype == bool
        assert np.isfinite(scores.values).all()
        assert scores.judged[:WIDE].all()
        assert not scores.judged[OPEN:].any()
        assert (scores.values[~scores.judged] == 0).all()

    def test_the_same_seed_gives_the_same_scores(self, criterion: str) -> None:
        first, second = score(criterion, seed=3), score(criterion, seed=3)
        assert (first.values == second.values).all()

    def test_the_global_random_state_is_left_alone(self, criterion: str) -> None:
        net, data = make_net(), make_data()
        state, other = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        score(criterion, net, data=data)
        assert torch.equal(state, torch.get_rng_state())
        assert (other == np.random.get_state()[1]).all()  # noqa: NPY002

    def test_permuting_channels_permutes_scores(self, criterion: str) -> None:
        if criterion == "random":
            pytest.skip("random numbers belong to places, not to weights")
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        net = make_net(dtype=torch.float64)
        before = score(criterion, net).values
        after = score(criterion, permuted(net, order)).values
        np.testing.assert_allclose(after[:WIDE], before[:WIDE][order.numpy()], rtol=1e-9)
        np.testing.assert_allclose(after[WIDE:], before[WIDE:], rtol=1e-9)

    def test_class_ids_carry_no_meaning(self, criterion: str) -> None:
        if criterion == "random":
            pytest.skip("random numbers belong to places, not to weights")
        order = np.array([3, 0, 5, 1, 4, 2])
        net = make_net(dtype=torch.float64)
        plain, renamed = score(criterion, net), score(criterion, net, make_graph(order))
        np.testing.assert_allclose(renamed.values[order], plain.values[:WIDE], rtol=1e-9)

    def test_signs_do_not_matter(self, criterion: str) -> None:
        made = as_criterion(criterion)
        torch.manual_seed(0)
        weight, grad = torch.randn(7, 9), torch.randn(7, 9)
        member = Member("conv.weight", 0, "producer", np.arange(7))
        plus = made.member_scores(member, weight, grad, "conv")
        minus = made.member_scores(member, -weight, -grad, "conv")
        assert torch.allclose(plus, minus)

    def test_constant_weights_tie(self, criterion: str) -> None:
        if criterion == "random":
            pytest.skip("random numbers do not tie")
        net = make_net(dtype=torch.float64)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(0.01)
            for module in (net.bn1, net.bn2):
                module.running_mean.zero_()
                module.running_var.fill_(1)
        values = score(criterion, net).values
        for group in make_graph().groups[:2]:
            spread = np.ptp(values[group.classes])
            assert spread <= 1e-12 * max(1.0, np.abs(values[group.classes]).max())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions(self, criterion: str, dtype: torch.dtype) -> None:
        exact = score(criterion, make_net(dtype=dtype).double())
        scores = score(criterion, make_net(dtype=dtype))
        loose = as_criterion(criterion).needs_data and dtype != torch.float64
        np.testing.assert_allclose(
            scores.values, exact.values, rtol=0.5 if loose else 1e-5, atol=0.05 if loose else 1e-7
        )

    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_is_not_touched(self, criterion: str, training: bool) -> None:
        net = make_net().train(training)
        net.bn2.eval()
        fired = []
        net.conv1.weight.register_post_accumulate_grad_hook(lambda p: fired.append(p))
        net(make_data()[0][0]).sum().backward()
        fired.clear()
        net.conv2.requires_grad_(False)
        net.conv2.weight.grad = None
        before = {
            n: (t, t.data_ptr(), t.clone()) for n, t in net.state_dict(keep_vars=True).items()
        }
        grads = {
            n: (p.grad, p.grad if p.grad is None else p.grad.clone(), p.requires_grad)
            for n, p in net.named_parameters()
        }
        modes = [module.training for module in net.modules()]
        score(criterion, net)
        for name, tensor in net.state_dict(keep_vars=True).items():
            same, pointer, value = before[name]
            assert tensor is same and tensor.data_ptr() == pointer and torch.equal(tensor, value)
        for name, parameter in net.named_parameters():
            grad, value, requires = grads[name]
            assert parameter.grad is grad and parameter.requires_grad is requires
            assert grad is None or torch.equal(grad, value)
        assert modes == [module.training for module in net.modules()]
        assert not fired

    def test_frozen_models_score_the_same(self, criterion: str) -> None:
        frozen = make_net().requires_grad_(False)
        assert (score(criterion, frozen).values == score(criterion).values).all()
        assert all(not p.requires_grad and p.grad is None for p in frozen.parameters())

    def test_nan_weights_are_one_clear_error(self, criterion: str) -> None:
        if not as_criterion(criterion).reads_weights:
            pytest.skip("does not read weights")
        net = make_net()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.view(-1)[0] = float("nan")
        with pytest.raises((InputError, CriterionError), match=r"NaN|nan") as caught:
            score(criterion, net)
        assert "\n" not in str(caught.value)

    def test_works_without_gradients_and_in_inference_mode(self, criterion: str) -> None:
        expected = score(criterion).values
        net = make_net()
        with torch.no_grad():
            assert (score(criterion, net).values == expected).all()
        with torch.inference_mode():
            assert (score(criterion, net).values == expected).all()
            assert (score(criterion, make_net()).values == expected).all()

    def test_the_spec_builds_it_again(self, criterion: str) -> None:
        made = as_criterion(criterion)
        again = as_criterion(made.spec)
        assert type(again) is type(made)
        assert vars(again) == vars(made)

    def test_layouts_do_not_matter(self, criterion: str) -> None:
        net = make_net(dtype=torch.float64)
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        with torch.no_grad():
            strided = torch.empty(24, HIDDEN, dtype=torch.float64).T
            last.fc1.weight.data = strided.copy_(net.fc1.weight)
        np.testing.assert_allclose(
            score(criterion, last).values, score(criterion, net).values, rtol=1e-9
        )

    def test_chunks_do_not_matter(self, criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
        net = make_net(dtype=torch.float64)
        expected = score(criterion, net).values
        monkeypatch.setattr(elementwise_module, "CHUNK_CPU", 7)
        monkeypatch.setattr("secateur.criteria.fpgm.CHUNK", 7)
        np.testing.assert_allclose(score(criterion, net).values, expected, rtol=1e-9)

    def test_no_units_at_all(self, criterion: str) -> None:
        if as_criterion(criterion).needs_data:
            pytest.skip("nothing to differentiate")
        scores = score_units(make_graph(), make_net(), criterion, [])
        assert scores.values.shape == scores.judged.shape == (0,)

    def test_traced_graphs_give_the_same_scores(self, criterion: str) -> None:
        if criterion == "random":
            pytest.skip("random numbers belong to places, not to weights")
        net = make_net(dtype=torch.float64)
        traced = trace(net, make_data(dtype=torch.float64)[0][0])
        found, expected = score(criterion, net, traced), score(criterion, net)
        groups = {group.name: np.sort(group.classes) for group in traced.groups}
        for name, classes in (("conv1.weight", slice(WIDE)), ("fc1.weight", slice(WIDE, OPEN))):
            np.testing.assert_allclose(found.values[groups[name]], expected.values[classes])
            assert (found.judged[groups[name]] == expected.judged[classes]).all()

    def test_documented(self, criterion: str) -> None:
        made = type(as_criterion(criterion))
        text = inspect.getdoc(made) or ""
        assert len(text.splitlines()[0]) > 10
        assert all(option in text for option in options(made))


# ------------------------------------------------------------------ oracles


def slices(net: Net, view: str) -> dict[int, list[Tensor]]:
    """The weights of every class, cut out one by one."""
    found: dict[int, list[Tensor]] = {c: [] for c in range(OPEN)}
    for member in make_graph().members:
        tensor = net.get_parameter(member.name) if "running" not in member.name else None
        if tensor is None or tensor.ndim < 2 or view not in ("group", member.role):
            continue
        for position, c in enumerate(member.classes):
            if c < OPEN:
                found[int(c)].append(tensor.select(member.dim, position).detach())
    return found


@pytest.mark.parametrize("view", ["producer", "consumer", "group"])
@pytest.mark.parametrize("name, order", [("l1", 1), ("l2", 2), ("magnitude", 2)])
def test_norms_against_brute_force(name: str, order: int, view: str) -> None:
    net = make_net()
    expected = [
        torch.cat([piece.flatten() for piece in pieces]).double().norm(order).item()
        for pieces in slices(net, view).values()
    ]
    values = score(f"{name}:view={view}", net).values
    np.testing.assert_allclose(values[:OPEN], expected, rtol=1e-5)


def test_magnitude_of_a_single_layer_is_the_filter_norm() -> None:
    net = make_net()
    graph = make_graph()
    graph.members = [m for m in graph.members if m.name == "conv1.weight"]
    scores = score_classes(graph, net, "l1:view=producer")
    expected = net.conv1.weight.detach().abs().sum(dim=(1, 2, 3))
    np.testing.assert_allclose(scores.values[:WIDE], expected, rtol=1e-5)
    assert not scores.judged[WIDE:OPEN].any()


def test_fpgm_oracle() -> None:
    assert summed_distances(torch.tensor([[0.0], [1.0], [10.0]])).tolist() == [11, 10, 19]


def test_fpgm_tells_a_filter_from_its_negative() -> None:
    filters = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0]])
    assert torch.allclose(summed_distances(filters), 20**0.5 * torch.tensor([1.0, 2.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fpgm_against_brute_force(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    filters = 5 + torch.randn(23, 31, dtype=dtype)
    filters[4] = filters[11]
    rows = filters.double().numpy()
    expected = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1)).sum(1)
    np.testing.assert_allclose(summed_distances(filters), expected, rtol=1e-6)
    monkeypatch.setattr("secateur.criteria.fpgm.DOUBLE", 0)
    monkeypatch.setattr("secateur.criteria.fpgm.CHUNK", 100)
    np.testing.assert_allclose(summed_distances(filters), expected, rtol=1e-4)


def test_fpgm_does_not_change_under_translation() -> None:
    torch.manual_seed(0)
    filters = torch.randn(9, 14)
    moved = filters + 3 * torch.randn(14)
    assert torch.allclose(summed_distances(filters), summed_distances(moved), rtol=1e-5)


@pytest.mark.parametrize("view", ["producer", "consumer", "group"])
def test_fpgm_of_a_net_adds_the_layers(view: str) -> None:
    net = make_net()
    conv1, conv2 = net.conv1.weight.detach(), net.conv2.weight.detach()
    fc1 = net.fc1.weight.detach()
    producers = [conv1.flatten(1), conv2.flatten(1)]
    consumers = [
        conv2.transpose(0, 1).flatten(1),
        fc1.view(HIDDEN, WIDE, 4).transpose(0, 1).flatten(1),
    ]
    chosen = {"producer": producers, "consumer": consumers, "group": producers + consumers}[view]
    expected = sum(torch.cdist(rows.double(), rows.double()).sum(1) for rows in chosen)
    values = score(f"fpgm:view={view}", net).values
    np.testing.assert_allclose(values[:WIDE], expected, rtol=1e-5)


def test_fpgm_compares_within_a_group_only() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 5)
    holder = nn.Module()
    holder.weight = nn.Parameter(weight)
    member = Member("weight", 1, "consumer", np.array([0, 3, 1, 4, -1]))
    groups = [Group("a", np.array([0, 1]), []), Group("b", np.array([3, 4]), [])]
    scores = score_classes(Graph([member], groups, 5), holder, "fpgm:view=consumer")
    a, b = (weight[:, 0] - weight[:, 2]).norm().item(), (weight[:, 1] - weight[:, 3]).norm().item()
    np.testing.assert_allclose(scores.values, [a, a, 0, b, b], rtol=1e-6)


def test_bn_scale_is_the_mean_absolute_scale() -> None:
    net = make_net()
    with torch.no_grad():
        net.bn1.weight[2] = -3.0
    scores = score("bn_scale", net)
    expected = (net.bn1.weight.abs() + net.bn2.weight.abs()).detach() / 2
    np.testing.assert_allclose(scores.values[:WIDE], expected, rtol=1e-6)


def test_bn_scale_cannot_judge_channels_without_batch_norm() -> None:
    scores = score("bn_scale")
    assert not scores.judged[WIDE:].any()
    assert "batch norm" in scores.reason


def test_bn_scale_without_affine_judges_nothing() -> None:
    net = make_net()
    net.bn1 = nn.BatchNorm2d(6, affine=False)
    net.bn2 = nn.BatchNorm2d(6, affine=False)
    assert not score("bn_scale", net).judged.any()


def taylor_by_hand(net: Net, reduction: str, view: str, data: list[Any]) -> np.ndarray:
    total = np.zeros(OPEN)
    names = [name for name, _ in net.named_parameters()]
    net.eval()
    for inputs, targets in data:
        loss = nn.functional.cross_entropy(net(inputs), targets)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        products = {
            n: (p * g).detach().double()
            for n, p, g in zip(names, net.parameters(), grads, strict=True)
        }
        pieces: dict[int, list[Tensor]] = {c: [] for c in range(OPEN)}
        for member in make_graph().members:
            if member.name not in products or view not in ("group", member.role):
                continue
            for position, c in enumerate(member.classes):
                if c < OPEN:
                    piece = products[member.name].select(member.dim, position)
                    pieces[int(c)].append(piece.flatten())
        for c, found in pieces.items():
            one = torch.cat(found)
            value = one.square().sum() if reduction == "sum_of_squares" else one.sum().square()
            total[c] += value.item() / len(data)
    return total


@pytest.mark.parametrize("view", ["producer", "consumer", "group"])
@pytest.mark.parametrize("reduction", ["sum_of_squares", "square_of_sum"])
def test_taylor_against_autograd(reduction: str, view: str) -> None:
    net, data = make_net(dtype=torch.float64), make_data(3, torch.float64)
    expected = taylor_by_hand(net, reduction, view, data)
    values = score(Taylor(reduction, view), net, data=data).values  # type: ignore[arg-type]
    np.testing.assert_allclose(values[:OPEN], expected, rtol=1e-9)


def test_the_two_taylor_reductions_rank_differently() -> None:
    first = score("taylor:reduction=sum_of_squares").values[:WIDE]
    second = score("taylor:reduction=square_of_sum").values[:WIDE]
    assert list(np.argsort(first)) != list(np.argsort(second))


def test_taylor_predicts_the_change_of_the_loss() -> None:
    """Scaling a layer's filter and bias by 1 - e changes the loss by e times the score's root."""
    net, (batch,) = make_net(dtype=torch.float64).eval(), make_data(1, torch.float64)
    graph = make_graph()
    graph.members = [m for m in graph.members if m.name.startswith("fc1") and m.dim == 0]
    values = score_classes(graph, net, "taylor:reduction=square_of_sum", data=[batch]).values

    def loss() -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(net(batch[0]), batch[1]).item()

    step = 1e-6
    for unit in range(HIDDEN):
        before = loss()
        with torch.no_grad():
            net.fc1.weight[unit] *= 1 - step
            net.fc1.bias[unit] *= 1 - step
        change = (loss() - before) / step
        with torch.no_grad():
            net.fc1.weight[unit] /= 1 - step
            net.fc1.bias[unit] /= 1 - step
        assert change**2 == pytest.approx(values[WIDE + unit], rel=1e-3, abs=1e-10)


def test_units_add_up_before_the_root() -> None:
    net, graph = make_net(), make_graph()
    units = [np.array([0, 1]), np.array([2, 5]), np.array([3, 4])]
    pairs = score_units(graph, net, "l2", units).values
    single = score_classes(graph, net, "l2").values
    np.testing.assert_allclose(pairs, [np.hypot(*single[unit]) for unit in units], rtol=1e-6)


def test_tied_weights_count_once() -> None:
    holder = nn.ModuleList([nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)])
    holder[1].weight = holder[0].weight
    members = [Member(f"{i}.weight", 0, "producer", np.arange(4)) for i in range(2)]
    graph = Graph(members, [Group("0.weight", np.arange(4), members)], 4)
    expected = holder[0].weight.detach().norm(dim=1)
    np.testing.assert_allclose(score_classes(graph, holder, "l2").values, expected, rtol=1e-6)


def test_random_depends_on_the_seed_only() -> None:
    a, b = score(Random(), make_net(0), seed=1).values, score(Random(), make_net(9), seed=1).values
    assert (a == b).all()
    assert (a != score(Random(), seed=2).values)[:OPEN].all()
    assert len(set(a[:OPEN])) == OPEN


# ------------------------------------------------------------------ weights that are computed


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
)
def test_parametrised_weights_are_scored_as_they_act(wrap: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[3.0], [1.0], [0.1], [2.0], [0.5]]))
    net = nn.Sequential(wrap(layer)).eval()
    net(torch.zeros(1, 6))
    raw = [n for n, p in net.named_parameters() if p.ndim == 2]
    members = [Member(name, 0, "producer", np.arange(5)) for name in raw]
    graph = Graph(members, [Group("0", np.arange(5), members)], 5)
    expected = net[0].weight.detach().norm(dim=1)
    np.testing.assert_allclose(score_classes(graph, net, "l2").values, expected, rtol=1e-5)


def test_plain_weights_are_themselves() -> None:
    net = make_net()
    weight = net.fc1.weight
    assert effective_weight(net.fc1, "weight", weight) is weight


def test_taylor_reaches_recurrent_and_parametrised_weights() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True)
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    net = Reader()
    members = [
        Member("lstm.weight_hh_l0", 1, "consumer", np.arange(5)),
        Member("lstm.weight_ih_l0", 0, "producer", np.tile(np.arange(5), 4)),
        Member("head.parametrizations.weight.original1", 1, "consumer", np.arange(5)),
    ]
    graph = Graph(members, [Group("lstm", np.arange(5), members)], 5)
    data = [(torch.randn(6, 7, 3), torch.randint(4, (6,)))]
    for member in members:
        alone = Graph([member], graph.groups, 5)
        assert (score_classes(alone, net, "taylor", data=data).values > 0).all()


# ------------------------------------------------------------------ data, losses, progress


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


def test_dict_batches_use_the_models_own_loss() -> None:
    dicts = [{"pixels": x, "labels": y} for x, y in make_data()]
    own = score_classes(labelled_graph(), Labelled(), "taylor", data=dicts)
    np.testing.assert_allclose(own.values, score("taylor").values, rtol=1e-6)
    doubled = score_classes(
        labelled_graph(),
        Labelled(),
        "taylor",
        data=dicts,
        loss=lambda outputs, batch: (
            2 * nn.functional.cross_entropy(outputs["logits"], batch["labels"])
        ),
    )
    np.testing.assert_allclose(doubled.values, 4 * own.values, rtol=1e-5)


def test_inputs_of_a_batch_may_be_keywords() -> None:
    data = [({"pixels": x}, y) for x, y in make_data()]
    scores = score_classes(labelled_graph(), Labelled(), "taylor", data=data)
    np.testing.assert_allclose(scores.values, score("taylor").values, rtol=1e-6)


def test_a_loss_of_ones_own() -> None:
    data = [(x, torch.zeros(len(x), 4)) for x, _ in make_data()]
    scores = score("taylor", data=data, loss=nn.functional.mse_loss)
    assert (scores.values[:WIDE] > 0).all()


def test_data_is_streamed_and_progress_told() -> None:
    told: list[tuple[int, int | None]] = []
    made = 0

    def batches() -> Any:
        nonlocal made
        for batch in make_data(4):
            assert len(told) == made
            made += 1
            yield batch

    score("taylor", data=batches(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, None), (2, None), (3, None), (4, None)]
    told.clear()
    score("taylor:max_batches=2", data=make_data(4), progress=lambda *pair: told.append(pair))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("criterion", variants())
def test_an_amended_graph_is_scored_without_reading_again(criterion: str) -> None:
    net, data, graph = make_net(), make_data(), make_graph()
    scorer = Scorer(net, criterion, iter(data))
    first = scorer.classes(graph)
    graph.groups[1].protected = True
    with Largest() as largest:
        second = scorer.classes(graph)
    assert largest.elements <= sum(len(member.classes) for member in graph.members)
    assert (second.values[:WIDE] == first.values[:WIDE]).all() or criterion == "random"
    assert not second.judged[WIDE:].any()
    joined = copy.deepcopy(graph)
    for member in joined.members:
        member.classes = np.where(member.classes == 1, 0, member.classes)
    joined.groups[0].classes = np.array([0, 2, 3, 4, 5])
    fresh = score(criterion, net, joined, data=data)
    np.testing.assert_allclose(scorer.classes(joined).values, fresh.values)


def test_max_batches_takes_the_first() -> None:
    few = score("taylor:max_batches=2", data=make_data(4)).values
    assert (few == score("taylor", data=make_data(2)).values).all()


def test_gradients_are_taken_in_eval_mode() -> None:
    assert (
        score("taylor", make_net().train()).values == score("taylor", make_net().eval()).values
    ).all()


def test_parameters_that_the_loss_ignores_score_zero() -> None:
    class Spare(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.bn1(self.conv1(x)))
            return x.mean(dim=(2, 3))[:, :4]

    torch.manual_seed(0)
    scores = score("taylor", Spare())
    assert scores.judged[WIDE:OPEN].all()
    assert (scores.values[WIDE:OPEN] == 0).all()
    assert (scores.values[:4] > 0).all()


@pytest.mark.parametrize(
    "logits, targets",
    [((5, 4), (5,)), ((5, 4, 3, 3), (5, 3, 3)), ((5, 7, 4), (5, 7))],
)
def test_the_default_loss_is_cross_entropy(
    logits: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    scores, wanted = torch.randn(logits, requires_grad=True), torch.randint(4, targets)
    classes_last = scores if logits[-1] == 4 else scores.movedim(1, -1)
    expected = -classes_last.log_softmax(-1).gather(-1, wanted[..., None]).mean()
    assert torch.allclose(batch_loss(scores, wanted, None), expected)


# ------------------------------------------------------------------ one clear error each


def clear_error(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match=".*".join(words))


def test_taylor_without_data() -> None:
    with clear_error(InputError, "'taylor' needs gradients", "data=") as caught:
        score("taylor", data=None)
    assert "\n" not in str(caught.value)


def test_data_without_a_batch() -> None:
    with clear_error(InputError, "data has no batch"):
        score("taylor", data=iter([]))


@pytest.mark.parametrize("batch", [torch.zeros(2), (1, 2, 3), "text", None])
def test_batches_of_the_wrong_form(batch: Any) -> None:
    with clear_error(InputError, r"\(inputs, targets\)"):
        read_batch(batch)


def test_a_batch_that_the_model_rejects() -> None:
    with clear_error(InputError, "rejects a batch"):
        score("taylor", data=[(torch.zeros(2, 5, 6, 6), torch.zeros(2).long())])


def test_targets_without_a_default_loss() -> None:
    with clear_error(InputError, "integer targets", "loss="):
        score("taylor", data=[(x, y.float()) for x, y in make_data()])


def test_outputs_without_a_default_loss() -> None:
    with clear_error(InputError, "loss="):
        score_classes(labelled_graph(), Labelled(), "taylor", data=[{"pixels": make_data()[0][0]}])


@pytest.mark.parametrize(
    "loss, words",
    [
        (lambda out, y: out, "one number"),
        (lambda out, y: 3.0, "one number"),
        (lambda out, y: out.detach().sum(), "does not depend"),
    ],
)
def test_losses_that_cannot_be_used(loss: Any, words: str) -> None:
    with clear_error(InputError, words):
        score("taylor", loss=loss)


def test_a_loss_that_is_not_finite() -> None:
    with clear_error(CriterionError, "loss of batch 0 is nan"):
        score("taylor", loss=lambda out, y: out.sum() * float("nan"))


def test_the_model_is_restored_when_a_batch_fails() -> None:
    net = make_net().train()
    with pytest.raises(InputError):
        score("taylor", net, data=[*make_data(1), "nonsense"])
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())


def test_functions_are_criteria() -> None:
    net = make_net()
    values = score(lambda weight: weight.abs().sum(dim=1), net).values
    np.testing.assert_allclose(values, score("l1", net).values, rtol=1e-5)
    values = score(lambda weight: weight.abs().sum(dim=1).numpy(), net).values
    np.testing.assert_allclose(values, score("l1", net).values, rtol=1e-5)


@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda w: w, "shape"),
        (lambda w: w.sum(), "shape"),
        (lambda w: w[:-1, 0], "shape"),
        (lambda w: w[:, 0] * float("nan"), "NaN"),
        (lambda w: w[:, 0] + float("inf"), "infinity"),
    ],
)
def test_functions_that_return_the_wrong_thing(returned: Any, words: str) -> None:
    def odd(weight: Tensor) -> Tensor:
        return returned(weight)

    with clear_error(CriterionError, "'odd'", words, "'conv1.weight'|.*'conv1.weight'"):
        score(odd)


def test_finish_is_checked_too() -> None:
    class Bad(Criterion):
        """Divides by zero."""

        name = "bad"

        def member_scores(self, member: Any, weight: Any, grad: Any, kind: Any) -> Tensor:
            return weight.sum(dim=1)

        def finish(self, sums: Any, counts: Any, rng: Any) -> Any:
            return sums * np.nan

    with clear_error(CriterionError, "'bad'", "NaN"):
        score(Bad())


def test_nan_weights_are_named() -> None:
    net = make_net()
    with torch.no_grad():
        net.conv2.weight[0, 0, 0, 0] = float("nan")
    with clear_error(InputError, "'conv2.weight' contains NaN"):
        score("l1", net)


def test_nan_weights_of_protected_classes_do_not_matter_here() -> None:
    net = make_net()
    with torch.no_grad():
        net.fc2.bias[0] = float("nan")
    assert score("l2", net).judged[:OPEN].all()


@pytest.mark.parametrize(
    "line, words",
    [
        ("magnitud", "did you mean 'magnitude'"),
        ("taylor:reductio=x", "did you mean 'reduction'"),
        ("random:view=group", "takes no options"),
    ],
)
def test_unknown_names_suggest_the_nearest(line: str, words: str) -> None:
    with clear_error(UnknownNameError, words):
        as_criterion(line)


@pytest.mark.parametrize(
    "line, words",
    [
        ("l1:view=producers", "did you mean 'producer'"),
        ("taylor:reduction=sum", "reduction"),
        ("taylor:max_batches=0", "at least 1"),
        ("l1:view", "name=value"),
    ],
)
def test_bad_option_values(line: str, words: str) -> None:
    with clear_error(InputError, words):
        as_criterion(line)


def test_other_things_are_no_criteria() -> None:
    with clear_error(InputError, "must be a name"):
        as_criterion(3)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the chunked sweep


@pytest.mark.parametrize("shape", [(5,), (4, 6), (1, 7, 3), (3, 4, 2, 2), (2, 1, 3, 1), (6, 1)])
def test_sums_along_every_dimension(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weight, grad = torch.randn(shape), torch.randn(shape)
    for chunk in (1, 4, 1 << 19):
        monkeypatch.setattr(elementwise_module, "CHUNK_CPU", chunk)
        dims = list(range(len(shape)))
        found = sums_along(lambda w, g: w * g, weight, grad, dims)
        for dim, vector in zip(dims, found, strict=True):
            others = [d for d in dims if d != dim]
            expected = (weight * grad).sum(dim=others) if others else weight * grad
            assert torch.allclose(vector, expected, atol=1e-5)


def test_half_precision_is_summed_in_single() -> None:
    weight = torch.full((4096, 8), 0.01, dtype=torch.bfloat16)
    expected = 4096 * float(weight[0, 0]) ** 2
    assert sums_along(lambda w, g: w.square(), weight, None, [1])[0].dtype == torch.float32
    (found,) = sums_along(lambda w, g: w.square(), weight, None, [1])
    assert found[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("criterion", ["magnitude", "l1", "random"])
def test_large_weights_are_never_copied_whole(criterion: str) -> None:
    layer = nn.Linear(1536, 2048, bias=False, dtype=torch.bfloat16)
    members = [
        Member("weight", 0, "producer", np.arange(2048)),
        Member("weight", 1, "consumer", 2048 + np.arange(1536)),
    ]
    groups = [Group("out", np.arange(2048), []), Group("in", 2048 + np.arange(1536), [])]
    with Largest() as largest:
        scores = score_classes(Graph(members, groups, 3584), layer, criterion)
    assert scores.judged.all()
    assert largest.elements <= elementwise_module.CHUNK_CPU < layer.weight.numel()


def test_distances_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.criteria.fpgm.CHUNK", 5_000)
    rows = torch.randn(500, 4)
    with Largest() as largest:
        summed_distances(rows)
    assert largest.elements <= 5_000


def test_only_one_gradient_is_alive_at_a_time() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def receive(name: str, weight: Tensor, gradient: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(gradient))
        most = max(most, sum(ref() is not None for ref in alive))

    net = make_net()
    names = [name for name, _ in net.named_parameters()]
    batches = stream_gradients(net, names, make_data(3), receive, after_batch=lambda: None)
    assert (batches, len(alive), most) == (3, 3 * len(names), 1)
