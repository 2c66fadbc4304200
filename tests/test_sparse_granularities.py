"""Sparse granularities: the contract that every row of the table is held to."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import secateur as sc
from secateur.errors import BudgetError, CriterionError, InputError, SecateurError
from secateur.sparsity import ROWS, as_sparse, prunable_weights

# Every row of the table, and sizes and options of those that take some.
TILED = [
    "element",
    "vector",
    "vector:4",
    "vector:5",
    "run",
    "run:3",
    "row",
    "block",
    "block:2x3",
    "kernel",
    "stripe",
    "shape",
]
FIXED = ["2:4", "1:4", "4:8", "3:5", "1:2", "2:4:skip", "2:4:transposable", "4:8:transposable"]
NESTED = ["vector:4/2:4", "block:4x4/2:4", "kernel/2:4", "stripe/1:2", "element/3:4"]
PATTERNS = ["pattern", "pattern:3"]
EVERY = [*TILED, *FIXED, *NESTED, *PATTERNS]


def test_the_table_is_covered() -> None:
    assert {as_sparse(name).row.name for name in EVERY} == set(ROWS)


class Net(nn.Module):
    """Every kind of weight, with sizes that most tiles do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.grouped = nn.Conv2d(18, 24, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(24, 10, 3, padding=1)
        self.point = nn.Conv2d(10, 17, 1)
        self.line = nn.Conv1d(17, 13, 5, padding=2)
        self.volume = nn.Conv3d(1, 6, 3, padding=1)
        self.recurrent = nn.LSTM(13, 7, batch_first=True)
        self.out = nn.Linear(42, 17)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.up(self.grouped(self.first(x).relu()).relu()).relu())
        x = self.line(x.flatten(2)).relu().transpose(1, 2)
        x, _ = self.recurrent(x)
        x = self.volume(x[:, None, :4, None, :]).relu()
        return self.out(x.mean(dim=(2, 3)).flatten(1))


def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return Net().to(dtype), torch.randn(2, 3, 4, 4, dtype=dtype)


def budget_of(name: str, sparsity: float = 0.8) -> dict[str, float] | None:
    return None if name in FIXED else {"sparsity": sparsity}


def pruned(name: str, model: nn.Module, x: Tensor, **options: object) -> sc.Result:
    options.setdefault("budget", budget_of(name))
    return sc.prune(model, x, granularity=name, **options)


def expected_kept(size: int, keep: int, of: int) -> int:
    return keep * (size // of) + min(keep, size % of)


@pytest.mark.parametrize("name", EVERY)
class TestContract:
    def test_masks_are_of_the_weights_and_the_model_is_masked(self, name: str) -> None:
        model, x = make()
        dense = copy.deepcopy(model)
        result = pruned(name, model, x)
        weights = {weight.name: weight for weight in prunable_weights(model)}
        assert {*result.plan.masks} | {entry for entry, _ in result.skipped} == {*weights}
        for key, mask in result.plan.masks.items():
            before, after = dense.get_parameter(key), model.get_parameter(key)
            assert mask.dtype == torch.bool and mask.shape == after.shape
            assert mask.device.type == "cpu"
            assert torch.equal(after, before * mask)
        for key, parameter in model.named_parameters():
            if key not in result.plan.masks:
                assert torch.equal(parameter, dense.get_parameter(key))
        assert all(reason for _, reason in result.skipped)

    def test_counts_are_exact(self, name: str) -> None:
        model, x = make()
        result = pruned(name, model, x)
        weights = {weight.name: weight for weight in prunable_weights(model)}
        masks = result.plan.masks
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        total = sum(mask.numel() for mask in masks.values())
        made = as_sparse(name)
        if name in FIXED:
            for key, mask in masks.items():
                canonical = weights[key].canonical(mask)
                outputs, inputs, *_ = canonical.shape
                if "transposable" in name:
                    keep, of = made.sizes
                    full = canonical[: outputs - outputs % of, : inputs - inputs % of]
                    assert int(full.sum()) == full.numel() * keep // of
                else:
                    kept = expected_kept(inputs, *made.sizes)
                    assert (canonical.sum(dim=1) == kept).all()
            return
        wanted = math.floor(0.8 * total + 1e-9)
        # The smallest sufficient start of the ranking: at most one unit above.
        largest = 9 if name in PATTERNS else max(_unit_sizes(made, weights, masks))
        assert wanted <= zeros < wanted + largest
        for group in result.groups:
            assert 0 < group.after <= group.before

    def test_the_plan_survives_json_and_gives_the_same_model(self, name: str) -> None:
        model, x = make()
        fresh = copy.deepcopy(model)
        result = pruned(name, model, x)
        again = sc.Plan.from_json(result.plan.to_json())
        assert again == result.plan and again.settings == result.plan.settings
        again.apply(fresh)
        assert all(
            torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True)
        )

    def test_the_same_seed_gives_the_same_plan(self, name: str) -> None:
        first, second = (pruned(name, *make()).plan for _ in range(2))
        assert first == second and first.settings == second.settings
        first, second = (pruned(name, *make(), criterion="random", seed=3).plan for _ in range(2))
        assert first == second

    def test_errors_leave_the_model_alone(self, name: str) -> None:
        model, x = make()
        before = {key: value.clone() for key, value in model.state_dict().items()}

        def unusable(rows: Tensor) -> Tensor:
            return torch.full((len(rows),), float("nan"))

        with pytest.raises(CriterionError, match="NaN"):
            pruned(name, model, x, criterion=unusable)
        with pytest.raises(BudgetError):
            pruned(name, model, x, budget={"sparsity": 1.0})
        with pytest.raises(BudgetError):
            pruned(name, model, x, budget={"macs": 0.5})
        if name not in FIXED:
            with pytest.raises(BudgetError, match="cannot be met"):
                pruned(name, model, x, budget={"sparsity": 0.99999})
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert sc.history(model) == []

    def test_nan_in_the_model_is_refused(self, name: str) -> None:
        model, x = make()
        with torch.no_grad():
            model.point.weight[0, 0] = float("nan")
        with pytest.raises(SecateurError, match="NaN"):
            pruned(name, model, x)

    def test_a_constant_model_loses_the_lowest_indices(self, name: str) -> None:
        """All scores are equal, edges included, so the first units of the first weights go."""
        model, x = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.1)
        made = as_sparse(name)
        result = pruned(name, model, x)
        if name in TILED:
            zeros = math.floor(
                0.8 * sum(mask.numel() for mask in result.plan.masks.values()) + 1e-9
            )
            for weight in prunable_weights(model):
                if weight.name not in result.plan.masks:
                    continue
                tiling = made.tiling(weight)
                gone = ~weight.canonical(result.plan.masks[weight.name])
                units = tiling.sums(gone.long()).flatten()
                sizes = tiling.sizes().flatten()
                removed = int((units > 0).sum())
                assert torch.equal(units[:removed], sizes[:removed]) and not units[removed:].any()
                zeros -= int(units.sum())
            assert zeros <= 0
        elif name in FIXED and "transposable" not in name:
            keep, of = made.sizes
            for weight in prunable_weights(model):
                if weight.name not in result.plan.masks:
                    continue
                canonical = weight.canonical(result.plan.masks[weight.name])
                for at, run in enumerate(canonical.split(of, dim=1)):
                    kept = run.movedim(1, -1).flatten(0, -2)
                    spare = max(run.shape[1] - keep, 0)
                    assert not kept[:, :spare].any() and kept[:, spare:].all(), at

    def test_half_precision(self, name: str) -> None:
        model, x = make(dtype=torch.bfloat16)
        result = pruned(name, model, x)
        assert result.error == 0.0
        assert all(p.dtype == torch.bfloat16 for p in model.parameters())

    def test_a_weight_of_one_output_by_one_input(self, name: str) -> None:
        """Too small for nearly everything: skipped with a reason, or pruned, never a crash."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 1), nn.Linear(1, 1), nn.Linear(1, 16))
        try:
            result = pruned(name, model, torch.randn(2, 16), budget=budget_of(name, 0.76))
        except SecateurError as error:
            assert str(error)
        else:
            listed = {*result.plan.masks} | {key for key, _ in result.skipped}
            assert listed == {"0.weight", "1.weight", "2.weight"}


def _unit_sizes(made: object, weights: dict[str, object], masks: dict[str, Tensor]) -> list[int]:
    return [math.prod(made.tiling(weights[key]).tile) for key in masks]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TILED)
class TestUnits:
    def test_units_are_all_zero_or_untouched(self, name: str) -> None:
        model, x = make()
        made = as_sparse(name)
        result = pruned(name, model, x, budget={"sparsity": 0.5})
        for weight in prunable_weights(model):
            if weight.name in result.plan.masks:
                tiling = made.tiling(weight)
                kept = tiling.sums(weight.canonical(result.plan.masks[weight.name]).long())
                assert ((kept == 0) | (kept == tiling.sizes())).all()

    def test_the_units_that_go_are_the_lowest_means(self, name: str) -> None:
        """Against slices of NumPy arrays, for every weight on its own."""
        model, x = make()
        made = as_sparse(name)
        dense = {key: p.detach().clone() for key, p in model.named_parameters()}
        result = pruned(name, model, x, allocation="uniform", budget={"sparsity": 0.6})
        for weight in prunable_weights(model):
            if weight.name not in result.plan.masks:
                continue
            squares = weight.canonical(dense[weight.name]).double().numpy() ** 2
            mask = weight.canonical(result.plan.masks[weight.name]).numpy()
            tile = made.tiling(weight).tile
            kept, gone = [], []
            for corner in itertools.product(
                *(range(0, size, step) for size, step in zip(squares.shape, tile, strict=True))
            ):
                box = tuple(slice(at, at + step) for at, step in zip(corner, tile, strict=True))
                (kept if mask[box].all() else gone).append(squares[box].mean())
            assert not gone or max(gone) <= min(kept) * (1 + 1e-6)

    def test_edges_are_normalised(self, name: str) -> None:
        model, _ = make()
        made = as_sparse(name)
        for weight in prunable_weights(model):
            if made.misfit(weight) is None:
                tiling = made.tiling(weight)
                means = tiling.means(torch.full(tiling.shape, 0.1))
                assert means.unique().numel() == 1

    def test_permuting_outputs_by_whole_tiles_permutes_the_mask(self, name: str) -> None:
        made = as_sparse(name)
        torch.manual_seed(1)
        conv = nn.Sequential(nn.Conv2d(30, 60, 3))
        x = torch.randn(1, 30, 4, 4)
        (weight,) = prunable_weights(conv)
        tile = made.tiling(weight).tile
        rows = torch.arange(60).split(tile[0])
        order = torch.cat(rows if len(rows[-1]) < tile[0] else rows[::-1])
        columns = torch.arange(30).split(tile[1])
        across = torch.cat(columns if len(columns[-1]) < tile[1] else columns[::-1])
        other = copy.deepcopy(conv)
        with torch.no_grad():
            other[0].weight.copy_(conv[0].weight[order][:, across])
        mask = pruned(name, conv, x).plan.masks["0.weight"]
        assert torch.equal(pruned(name, other, x).plan.masks["0.weight"], mask[order][:, across])


class TestNMEquivariance:
    @pytest.mark.parametrize("name", ["2:4", "4:8", "2:4:transposable"])
    def test_permuting_runs_and_outputs_permutes_the_mask(self, name: str) -> None:
        made = as_sparse(name)
        torch.manual_seed(1)
        linear = nn.Sequential(nn.Linear(32, 16))
        across = torch.cat(torch.arange(32).split(made.sizes[1])[::-1])
        order = torch.cat(torch.arange(16).split(made.sizes[1])[::-1])
        other = copy.deepcopy(linear)
        with torch.no_grad():
            other[0].weight.copy_(linear[0].weight[order][:, across])
        x = torch.randn(1, 32)
        mask = pruned(name, linear, x).plan.masks["0.weight"]
        assert torch.equal(pruned(name, other, x).plan.masks["0.weight"], mask[order][:, across])


class TestReferences:
    @pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.9])
    def test_element_is_l1_unstructured(self, sparsity: float) -> None:
        model, x = make()
        reference = copy.deepcopy(model)
        weights = list(prunable_weights(model))
        result = pruned("element", model, x, allocation="uniform", budget={"sparsity": sparsity})
        for weight in weights:
            module = reference.get_submodule(weight.module)
            amount = int((~result.plan.masks[weight.name]).sum())
            torch_prune.l1_unstructured(module, weight.leaf, amount=amount)
            mask = dict(module.named_buffers())[f"{weight.leaf}_mask"].bool()
            assert torch.equal(mask, result.plan.masks[weight.name])

    @pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
    def test_global_element_is_global_unstructured(self, sparsity: float) -> None:
        model, x = make()
        reference = copy.deepcopy(model)
        weights = list(prunable_weights(model))
        total = sum(weight.numel for weight in weights)
        result = pruned("element", model, x, budget={"sparsity": sparsity})
        pairs = [(reference.get_submodule(weight.module), weight.leaf) for weight in weights]
        torch_prune.global_unstructured(
            pairs, torch_prune.L1Unstructured, amount=math.floor(sparsity * total + 1e-9)
        )
        for weight, (module, leaf) in zip(weights, pairs, strict=True):
            mask = dict(module.named_buffers())[f"{leaf}_mask"].bool()
            assert torch.equal(mask, result.plan.masks[weight.name])

    def test_blocks_as_tall_as_a_filter_are_ln_structured(self) -> None:
        """A tile of one output by all inputs is a row of a linear layer, ranked by L2 norm."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 10))
        reference = copy.deepcopy(model)
        pruned("block:1x12", model, torch.randn(1, 12), budget={"sparsity": 0.4})
        torch_prune.ln_structured(reference[0], "weight", amount=4, n=2, dim=0)
        assert torch.equal(model[0].weight, reference[0].weight)

    def test_shape_wise_zeroes_im2col_columns(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 6, 3))
        dense = model[0].weight.detach().clone()
        pruned("shape", model, torch.randn(1, 4, 5, 5), budget={"sparsity": 0.5})
        columns = dense.flatten(1).norm(dim=0)
        gone = columns.argsort()[:18].sort().values
        found = (model[0].weight == 0).flatten(1).all(dim=0).nonzero()[:, 0]
        assert torch.equal(found, gone)

    def test_blocks_by_hand(self) -> None:
        model = nn.Sequential(nn.Linear(5, 3, bias=False))
        values = np.arange(1.0, 16.0).reshape(3, 5)
        with torch.no_grad():
            model[0].weight.copy_(torch.from_numpy(values))
        pruned("block:2x2", model, torch.randn(1, 5), budget={"sparsity": 0.6})
        # Means of squares ascend over the tiles; the first three hold 4 + 4 + 2 entries.
        expected = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [11, 12, 13, 14, 15.0]])
        assert torch.equal(model[0].weight, expected)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["4:2", "4:4", "0:4", "1:1", "2:4:maybe", "vector:0", "block:4", "kernel:3", "pattern:0",
         "pattern:200", "2:4/2:4", "pattern/2:4", "vector:4/2", "vector:4/2:4:transposable",
         "/2:4"],
    )  # fmt: skip
    def test_what_means_nothing_is_refused(self, name: str) -> None:
        with pytest.raises((InputError, LookupError), match="granularity"):
            as_sparse(name)

    def test_a_block_larger_than_a_weight_is_skipped_with_a_reason(self) -> None:
        model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3))
        result = pruned("block:4x4", model, torch.randn(1, 16))
        assert [key for key, _ in result.skipped] == ["1.weight"]
        assert "larger than the weight" in result.skipped[0][1]

    def test_every_row_is_listed(self) -> None:
        from typer.testing import CliRunner

        from secateur.cli import app

        listed = CliRunner().invoke(app, ["list", "granularities"]).output
        assert all(name in listed for name in ROWS)

    @pytest.mark.parametrize("name", EVERY)
    def test_a_row_builds_its_own_name_again(self, name: str) -> None:
        assert as_sparse(name).name == name
        assert as_sparse(as_sparse(name).name) == as_sparse(name)
