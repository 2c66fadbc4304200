"""Criteria on gradients and curvature against closed forms and autograd, sample by sample."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import WIDE, clear_error, make_data, make_net, score
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.criteria import score_classes
from secateur.errors import CriterionError, InputError
from secateur.sparsity import SparseGranularity, as_sparse, prunable_weights
from secateur.sparsity.scoring import SparseScorer


def small() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return net.double()


def batches(count: int = 2, size: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size + at, 4, generator=generator).double(),
            torch.randint(3, (size + at,), generator=generator),
        )
        for at in range(count)
    ]


def elements(
    net: nn.Module, criterion: str, data: Any = None, grid: str = "element", **kwargs: Any
) -> dict[str, Tensor]:
    granularity: SparseGranularity = as_sparse(grid)
    units = [(weight, granularity.tiling(weight)) for weight in prunable_weights(net)]
    made = sc.criteria.as_criterion(criterion)
    scorer = SparseScorer(net, made, units, data, **kwargs)
    return {weight.name: scorer.scores(weight) for weight, _ in units}


def gradients(net: nn.Module, inputs: Tensor, targets: Tensor, **kwargs: Any) -> dict[str, Tensor]:
    loss = functional.cross_entropy(net(inputs), targets)
    found = torch.autograd.grad(loss, list(net.parameters()), **kwargs)
    return {name: g for (name, _), g in zip(net.named_parameters(), found, strict=True)}


def close(found: Tensor, expected: Tensor) -> None:
    np.testing.assert_allclose(found.double(), expected.detach(), rtol=1e-5, atol=1e-9)


def test_gradient_is_the_mean_absolute_gradient_of_batches() -> None:
    net, data = small(), batches()
    expected = torch.stack([gradients(net, *batch)["0.weight"].abs() for batch in data]).mean(0)
    close(elements(net, "gradient", data)["0.weight"], expected)


def test_snip_averages_before_the_absolute_value() -> None:
    net, data = small(), batches()
    mean = torch.stack([gradients(net, *batch)["0.weight"] for batch in data]).mean(0)
    close(elements(net, "snip", data)["0.weight"], (mean * net[0].weight).abs())


def test_snip_is_the_slope_of_a_gate() -> None:
    net, (batch,) = small(), batches(1)
    gate = torch.ones(5, 4, dtype=torch.float64, requires_grad=True)
    hidden = torch.tanh(functional.linear(batch[0], net[0].weight * gate, net[0].bias))
    (slope,) = torch.autograd.grad(functional.cross_entropy(net[2](hidden), batch[1]), gate)
    close(elements(net, "snip", [batch])["0.weight"], slope.abs())


@pytest.mark.parametrize("slope", [False, True])
def test_fisher_squares_the_gradient_of_every_sample(slope: bool) -> None:
    net, data = small(), batches()
    each = [
        gradients(net, inputs[at : at + 1], targets[at : at + 1])["0.weight"]
        for inputs, targets in data
        for at in range(len(inputs))
    ]
    weight = net[0].weight
    expected = torch.stack(each).square().mean(0) * weight.square() / 2
    if slope:
        expected = expected - torch.stack(each).mean(0) * weight
    close(elements(net, f"obd:gradient={slope}", data)["0.weight"], expected)


def test_fisher_of_dict_batches_and_keyword_inputs() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.inner(x)
            if labels is None:
                return logits
            return {"logits": logits, "loss": functional.cross_entropy(logits, labels)}

    expected = elements(small(), "obd", batches())["0.weight"]
    dicts = [{"x": x, "labels": y} for x, y in batches()]
    close(elements(Keyed(), "obd", dicts)["inner.0.weight"], expected.double())
    keyed = [({"x": x}, y) for x, y in batches()]
    close(elements(Keyed(), "obd", keyed)["inner.0.weight"], expected.double())


class Quadratic(nn.Module):
    """A loss ½ wᵀ H w over one row of weights."""

    def __init__(self, hessian: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.row = nn.Linear(len(weight), 1, bias=False, dtype=torch.float64)
        self.register_buffer("root", torch.linalg.cholesky(hessian))
        with torch.no_grad():
            self.row.weight.copy_(weight[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.row.weight @ self.root * x.mean()


def half_square(outputs: Tensor, targets: Any) -> Tensor:
    return outputs.square().sum() / 2


HESSIAN = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 1.5], dtype=torch.float64)


def test_obd_of_a_quadratic() -> None:
    """The oracle of Hassibi's comparison: H = [[2, 1], [1, 2]], w = (1, 1.5) gives (1, 2.25)."""
    data = [(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1))] * 4000
    found = elements(
        Quadratic(HESSIAN, WEIGHT), "obd:curvature=hutchinson", data, loss=half_square
    )["row.weight"]
    np.testing.assert_allclose(found[0], [1.0, 2.25], rtol=0.05)


def test_hutchinson_is_exact_where_the_hessian_is_diagonal() -> None:
    diagonal = torch.diag(torch.tensor([3.0, 5.0], dtype=torch.float64))
    data = [(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1))]
    net = Quadratic(diagonal, WEIGHT)
    line = "obd:curvature=hutchinson"
    found = elements(net, line, data, loss=half_square)["row.weight"]
    np.testing.assert_allclose(found[0], [1.5, 5 * 2.25 / 2], rtol=1e-6)
    # On a quadratic the change of the loss is ½ h w² − g w, and g is h w here.
    found = elements(net, line + ",gradient=true", data, loss=half_square)["row.weight"]
    np.testing.assert_allclose(found[0], [-1.5, -5 * 2.25 / 2], rtol=1e-6)


def test_hutchinson_draws_by_the_seed() -> None:
    net, data = small(), batches()
    line = "obd:curvature=hutchinson,samples=2"
    same = [elements(net, line, data, seed=seed)["0.weight"] for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


def test_hutchinson_converges_to_the_diagonal() -> None:
    net, (batch,) = small(), batches(1)
    weight = net[0].weight.detach()

    def loss(given: Tensor) -> Tensor:
        hidden = torch.tanh(functional.linear(batch[0], given.view(5, 4), net[0].bias))
        return functional.cross_entropy(net[2](hidden), batch[1])

    hessian = torch.autograd.functional.hessian(loss, weight.flatten())
    expected = hessian.diagonal().view(5, 4) * weight.square() / 2
    found = elements(net, "obd:curvature=hutchinson,samples=2000", [batch])["0.weight"]
    np.testing.assert_allclose(found, expected, atol=0.1 * float(expected.abs().max()))


def test_grasp_is_the_slope_of_the_gradient_norm() -> None:
    """w · (H g) is half the slope of |g|² along w, with g over all batches."""
    net, data = small(), batches()
    total: dict[str, Tensor] = {}
    for inputs, targets in data:
        for name, g in gradients(net, inputs, targets, create_graph=True).items():
            total[name] = total.get(name, torch.zeros(())) + g / len(data)
    norm = sum(g.square().sum() for g in total.values())
    (slope,) = torch.autograd.grad(norm / 2, net[0].weight)
    close(elements(net, "grasp", data)["0.weight"], net[0].weight * slope)


def test_grasp_of_a_quadratic() -> None:
    data = [(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1))]
    found = elements(Quadratic(HESSIAN, WEIGHT), "grasp", data, loss=half_square)["row.weight"]
    np.testing.assert_allclose(found[0], WEIGHT * (HESSIAN @ HESSIAN @ WEIGHT), rtol=1e-6)


def test_synflow_of_a_chain_is_the_sum_over_paths() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3))).double()
    first, second, third = (layer.weight.detach().abs() for layer in chain)
    found = elements(chain, "synflow", inputs=sc.inputs.as_inputs(torch.randn(1, 3).double()))
    into, out = first.sum(1), third.sum(0)
    close(found["1.weight"], out[:, None] * second * into)
    totals = [float(each.double().sum()) for each in found.values()]
    # What flows in flows out: every layer carries the same sum.
    np.testing.assert_allclose(totals, totals[0] * np.array([1.0, 1.0, 1.0]), rtol=1e-6)


def test_synflow_needs_inputs_and_no_data() -> None:
    with clear_error(InputError, "'synflow'", "example inputs"):
        score_classes(*_graph_and_net(), "synflow")
    assert (score("synflow", data=None).values[:WIDE] > 0).all()


def _graph_and_net() -> tuple[Any, nn.Module]:
    net = small()
    return sc.trace(net, batches()[0][0]), net


def test_a_flow_that_overflows_is_one_clear_error() -> None:
    net = make_net()
    with torch.no_grad():
        net.conv1.weight.fill_(1e30)
        net.conv2.weight.fill_(1e30)
    with clear_error(CriterionError, "'synflow'", "double"):
        score("synflow", net)


@pytest.mark.parametrize("criterion", ["snip", "obd", "grasp", "obd:curvature=hutchinson"])
class TestErrors:
    def test_no_data(self, criterion: str) -> None:
        with clear_error(InputError, criterion.partition(":")[0], "needs gradients"):
            score(criterion, data=None)

    def test_empty_data(self, criterion: str) -> None:
        with clear_error(InputError, "data has no batch"):
            score(criterion, data=[])

    def test_a_loss_that_is_no_scalar(self, criterion: str) -> None:
        with clear_error(InputError, "one number"):
            score(criterion, loss=lambda outputs, targets: outputs)

    def test_a_loss_that_is_not_finite(self, criterion: str) -> None:
        with clear_error(CriterionError, "loss of batch 0 is nan"):
            score(criterion, loss=lambda outputs, targets: outputs.sum() * float("nan"))

    def test_the_model_is_restored(self, criterion: str) -> None:
        net = make_net().train()
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(InputError):
            score(criterion, net, data=[*make_data(1), "nonsense"])
        assert net.training and all(p.grad is None for p in net.parameters())
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def test_progress(self, criterion: str) -> None:
        told: list[tuple[int, int | None]] = []
        score(criterion, data=make_data(3), progress=lambda *pair: told.append(pair))
        assert told[:3] == [(1, 3), (2, 3), (3, 3)]

    def test_max_batches(self, criterion: str) -> None:
        line = criterion + ("," if ":" in criterion else ":") + "max_batches=2"
        few, all_of_them = score(line, data=make_data(4)), score(criterion, data=make_data(2))
        np.testing.assert_allclose(few.values, all_of_them.values)


def test_grasp_refuses_data_that_ends() -> None:
    with clear_error(InputError, "'grasp'", "twice"):
        score("grasp", data=iter(make_data()))


def test_attention_is_differentiated_twice() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))
    data = [(torch.randn(2, 3, 8), torch.tensor([0, 1]))]
    for line in ("grasp", "obd:curvature=hutchinson", "obd"):
        found = elements(net, line, data)
        assert all(bool(scores.isfinite().all()) for scores in found.values())


@pytest.mark.parametrize("criterion", ["gradient", "snip", "obd", "grasp", "synflow", "taylor"])
@pytest.mark.parametrize("granularity", ["element", "block:2x2", "kernel"])
def test_sparse_granularities_count_exactly(criterion: str, granularity: str) -> None:
    net = make_net()
    result = sc.prune(
        net,
        make_data()[0][0],
        granularity=granularity,
        criterion=criterion,
        budget={"sparsity": 0.5},
        data=make_data(),
    )
    zeros = sum(int((~mask).sum()) for mask in result.plan.masks.values())
    total = sum(mask.numel() for mask in result.plan.masks.values())
    largest = {"element": 1, "block:2x2": 4, "kernel": 9}[granularity]
    assert 0 <= zeros - total // 2 < largest
