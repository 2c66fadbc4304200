"""Regularizers against closed forms, brute force and what the papers say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.attached import as_units
from secateur.attached.units import BOXES
from secateur.errors import InputError
from secateur.regularizers import GReg1, GReg2, regularizer
from secateur.sparsity import nm_mask, prunable_weights


def layer(*values: float) -> nn.Linear:
    made = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([values]))
    return made


@pytest.mark.parametrize("name", ["l1", "slimming"])
def test_sgd_on_l1_makes_no_exact_zeros_and_the_proximal_map_does(name: str) -> None:
    zeros = []
    for proximal in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Linear(64, 1))
        nn.init.uniform_(model[1].weight, 0.05, 0.5)
        reg = regularizer(f"{name}:strength=0.1,proximal={proximal}", model)
        weight = model[1].weight if name == "slimming" else model[0].weight
        # The data term pulls on nothing, so that only the regularizer moves.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.07)
        for _ in range(120):
            optimizer.zero_grad()
            (0.0 * model(torch.ones(2, 32))).sum().backward()
            reg.add_gradients()
            optimizer.step()
            reg.after_step(0.07)
        zeros.append(int((weight == 0).sum()))
    assert zeros == [0, weight.numel()]


def test_slimming_adds_the_sign() -> None:
    norm = nn.BatchNorm1d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.3, -2.0, 0.0]))
    norm.weight.grad = torch.ones(3)
    regularizer("slimming:strength=0.01", norm).add_gradients()
    assert torch.allclose(norm.weight.grad, torch.tensor([1.01, 0.99, 1.0]))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_proximal_maps_minimise_what_they_should(name: str) -> None:
    """x = argmin ½(x − w)² + ηλ r(x), searched on a fine grid."""
    grid = torch.linspace(-3, 3, 600001, dtype=torch.float64)
    weights, step = (1.3, -0.04, 0.0, -2.0, 0.31), 0.3
    model = layer(*weights)
    regularizer(f"{name}:strength=0.6,proximal=True", model).after_step(0.5)
    for got, weight in zip(model.weight[0].tolist(), weights, strict=True):
        term = grid.abs() if name == "l1" else grid.square()
        best = grid[(0.5 * (grid - weight).square() + step * term).argmin()]
        assert got == pytest.approx(float(best), abs=2e-5)


def test_the_group_proximal_map_minimises_what_it_should() -> None:
    grid = torch.linspace(-1.5, 1.5, 601, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="ij")
    step = 0.2
    for weights in [(1.0, -0.5), (0.1, 0.2), (0.0, 0.0), (0.0, 1.2)]:
        model = layer(*weights)
        regularizer("group_lasso:strength=0.4,proximal=True", model).after_step(0.5)
        cost = (
            0.5 * ((x - weights[0]) ** 2 + (y - weights[1]) ** 2)
            + step * math.sqrt(2) * (x**2 + y**2).sqrt()
        )
        at = int(cost.argmin())
        best = [float(x.flatten()[at]), float(y.flatten()[at])]
        assert model.weight[0].tolist() == pytest.approx(best, abs=5e-3)


@pytest.mark.parametrize("name", ["filter", "channel", *BOXES])
@pytest.mark.parametrize(
    "module", [nn.Conv2d(8, 17, 3), nn.ConvTranspose2d(8, 20, 3, groups=2), nn.Conv1d(6, 9, 3)]
)
def test_group_lasso_at_any_granularity(name: str, module: nn.Module) -> None:
    units = as_units(name)
    weight = next(iter(prunable_weights(module)))
    if units.misfit(weight):
        pytest.skip("larger than the weight")
    tiling = units.tiling(weight)
    groups = tiling.spread(torch.arange(tiling.count).reshape(tiling.grid))
    values = weight.canonical(module.weight.detach())
    expected = 0.0
    for group in range(tiling.count):
        entries = values[groups == group]
        expected += math.sqrt(len(entries)) * float(entries.norm())
    reg = regularizer(f"group_lasso:granularity={name},strength=1.0", module)
    assert float(reg.penalty().detach()) == pytest.approx(expected, rel=1e-4)


def test_group_lasso_of_zero_units_has_finite_gradients() -> None:
    model = layer(0.0, 0.0)
    regularizer("group_lasso", model).add_gradients()
    assert model.weight.grad.tolist() == [[0.0, 0.0]]


def test_greg_counts_exactly_and_presses_only_on_the_chosen() -> None:
    model = nn.Linear(3, 10, bias=False)
    nn.init.ones_(model.weight)
    for share, count in [(0.1, 1), (0.3, 3), (1.0, 9)]:
        reg = GReg1(sparsity=share, delta=0.25, every=2, ceiling=0.5).attach(model)
        assert reg.chosen["weight"].flatten().nonzero()[:, 0].tolist() == list(range(count))
        seen = []
        for _ in range(8):
            reg.after_step()
            seen.append(float(reg.coefficients["weight"].max()))
        assert seen == [0.0, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5]
        assert reg.done
        assert int((~reg.plan().masks["weight"]).sum()) == 3 * count
        assert float(reg.coefficients["weight"].sum()) == 0.5 * count


def test_greg2_parts_units_then_chooses() -> None:
    """Two weights under the same growing penalty, of curvature 1 and 10: the flat one shrinks."""
    model = layer(1.0, 1.0)
    start = model.weight.detach().clone()
    reg = GReg2(
        "element", sparsity=0.5, every=1, pick_delta=0.05, pick_ceiling=2.0, delta=0.2
    ).attach(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * torch.tensor([10.0, 1.0]) * (model.weight - start) ** 2).sum().backward()
        reg.add_gradients()
        optimizer.step()
        reg.after_step()
    assert reg.done
    assert reg.chosen["weight"].tolist() == [[False, True]]
    assert float(reg.coefficients["weight"][0, 0]) == pytest.approx(-1e-4)


def test_group_sparsity_spans_makers_and_readers_and_equal_units_get_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 1, bias=False))
    x = torch.zeros(1, 1, 2, 2)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.fill_(0.5)
    regularizer("group_sparsity:strength=1.0", model, x).add_gradients()
    assert model[0].weight.grad.flatten().tolist() == [1.0, 1.0]
    assert model[0].bias.grad is None
    with torch.no_grad():
        model[2].weight[:, :4] = 0.0  # channel 0 owns the first 2 × 2 columns
    model.zero_grad()
    regularizer("group_sparsity:strength=1.0", model, x).add_gradients()
    assert model[0].weight.grad.flatten().tolist() == [16.0, 1.0]
    assert model[2].weight.grad[0].tolist() == [0.0] * 4 + [0.5] * 4


def test_polarization_is_the_formula() -> None:
    norm = nn.BatchNorm1d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.1, 0.2, 0.9, 1.2]))
    reg = regularizer("polarization:strength=1.0,t=1.5", norm)
    assert reg.penalty().item() == pytest.approx(1.5 * 2.4 - 1.8)
    reg.add_gradients()
    # mean 0.6: two below, two above, so the gradient of the mean cancels.
    assert norm.weight.grad.tolist() == pytest.approx([2.5, 2.5, 0.5, 0.5])
    assert reg.threshold() == pytest.approx(0.55)


def test_polarization_holds_scales_in_bounds() -> None:
    for line, wanted in (
        ("polarization", [0.0, 0.3, 1.0]),
        ("polarization:ceiling=2", [0.0, 0.3, 1.7]),
        ("polarization:ceiling=None", [-0.2, 0.3, 1.7]),
    ):
        norm = nn.BatchNorm1d(3)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([-0.2, 0.3, 1.7]))
        reg = regularizer(line, norm)
        reg.after_step()
        assert norm.weight.tolist() == pytest.approx(wanted)
        assert regularizer(reg.spec, nn.BatchNorm1d(3)).ceiling == reg.ceiling


def test_l0_gates_are_distributed_as_in_the_paper() -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 20000, bias=False)
    nn.init.ones_(model.weight)
    reg = regularizer("l0:strength=1.0,droprate=0.4", model)
    shares = (model.weight == 0).float().mean(), (model.weight == 1).float().mean()
    alpha = math.log(0.6) - math.log(0.4)

    def above(cut: float) -> float:
        """P(s > cut) of the binary concrete."""
        logit = math.log(cut) - math.log(1 - cut)
        return 1 / (1 + math.exp(logit * 2 / 3 - alpha))

    assert float(shares[0]) == pytest.approx(1 - above(0.1 / 1.2), abs=0.01)
    assert float(shares[1]) == pytest.approx(above(1.1 / 1.2), abs=0.01)
    assert reg.penalty().item() == pytest.approx(20000 * above(0.1 / 1.2), rel=1e-4)
    model.eval()
    assert model.weight[0].item() == pytest.approx(0.6 * 1.2 - 0.1)
    with torch.no_grad():
        reg.parameters()[0][:5] = -10.0
    reg.finish()
    assert int((model.weight == 0).sum()) == 5


def test_sr_ste_leaves_n_of_m_along_the_inputs_of_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    reg = regularizer("sr_ste", model)
    assert reg.skipped == [("0.weight", "its 3 inputs do not divide by 4")]
    plain = reg.computed[0].plain
    dense = plain.detach().clone()
    mask = nm_mask(dense.abs(), 2, 4)
    weight = model[2].weight
    weight.sum().backward()
    assert torch.allclose(plain.grad, 1 + 2e-4 * dense * ~mask)
    reg.finish()
    assert torch.equal(model[2].weight, dense * mask)
    runs = (model[2].weight != 0).permute(0, 2, 3, 1).reshape(-1, 4).sum(1)
    assert runs.unique().tolist() == [2]


def test_what_oto_zeroes_can_be_taken_out_without_a_change() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 2)
    )
    nn.init.uniform_(model[1].weight, 0.1, 1.0)
    x = torch.randn(8, 2, 6, 6)
    reg = regularizer("oto:strength=0.5,epsilon=0.9", model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 2).backward()
        reg.add_gradients()
        optimizer.step()
        reg.after_step()
        (gone,) = reg.zeros().values()
        if len(gone) >= 4 or step == 59:
            break
    assert 0 < len(gone) < 12
    for tensor in (model[0].weight, model[0].bias, model[1].weight, model[1].bias):
        rows = tensor.detach().reshape(12, -1).abs().sum(1)
        assert (rows == 0).nonzero()[:, 0].tolist() == gone
    model.eval()
    full = model(x).detach()
    dense = sc.profile(model, x).params
    one = 2 * 9 + 1 + 2 + 16 * 2
    left = (dense - one * len(gone)) / dense
    result = sc.prune(model, x, criterion="l1:view=producer", budget={"params": left})
    assert result.model[0].out_channels == 12 - len(gone)
    assert torch.allclose(model(x), full, atol=1e-6)


@pytest.mark.parametrize("name", ["2:4", "2:4:transposable", "vector:2/2:4", "pattern"])
def test_a_choice_among_entries_is_no_group(name: str) -> None:
    with pytest.raises(InputError, match="choice among entries"):
        regularizer(f"group_lasso:granularity={name},strength=1.0", nn.Conv2d(8, 8, 3))
