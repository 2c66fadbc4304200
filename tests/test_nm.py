"""N:M masks: exact, whatever the sizes, against brute force."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from secateur.errors import BudgetError, InputError, NothingToPruneError
from secateur.sparsity import nm_mask, transposable_mask
from secateur.sparsity.flow import assigned
from secateur.sparsity.hierarchical import nm_within
from secateur.sparsity.transposable import tile_patterns


def by_hand(scores: np.ndarray, keep: int, of: int) -> np.ndarray:
    """Run by run in plain Python: sort, and of equals the lowest index goes first."""
    mask = np.zeros(scores.shape, dtype=bool)
    for place in np.ndindex(scores.shape[0], *scores.shape[2:]):
        for start in range(0, scores.shape[1], of):
            at = range(start, min(start + of, scores.shape[1]))
            ranked = sorted(at, key=lambda i: (-scores[(place[0], i, *place[1:])], -i))
            for i in ranked[:keep]:
                mask[(place[0], i, *place[1:])] = True
    return mask


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    of = draw(st.integers(2, 20))
    keep = draw(st.integers(1, of))
    shape = draw(st.lists(st.integers(1, 3), min_size=0, max_size=2))
    shape = [draw(st.integers(1, 4)), draw(st.integers(1, 45)), *shape]
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    # Few values: many ties.
    return rng.integers(-3, 4, size=shape).astype(np.float32), keep, of


class TestMask:
    @given(problems())
    @settings(max_examples=60, deadline=None)
    def test_against_sorting_every_run(self, problem: tuple[np.ndarray, int, int]) -> None:
        scores, keep, of = problem
        found = nm_mask(torch.from_numpy(scores), keep, of)
        assert (found.numpy() == by_hand(scores, keep, of)).all()
        absolute = nm_mask(torch.from_numpy(scores), keep, of, magnitude=True)
        assert (absolute.numpy() == by_hand(np.abs(scores), keep, of)).all()

    def test_the_worked_example(self) -> None:
        """The format's own example: positions of the values in each run."""
        dense = torch.tensor([[1, 2, 0, 0], [0, 0, 3, 4], [0, 6, 7, 0], [0, 6, 0, 8.0]])
        mask = nm_mask(dense, 2, 4, magnitude=True)
        assert mask.nonzero()[:, 1].reshape(4, 2).tolist() == [[0, 1], [2, 3], [1, 2], [1, 3]]

    def test_conv_runs_go_along_inputs_not_along_the_kernel(self) -> None:
        scores = torch.rand(3, 8, 3, 3)
        columns = scores.permute(0, 2, 3, 1).reshape(-1, 4)
        kept = nm_mask(scores, 2, 4).permute(0, 2, 3, 1).reshape(-1, 4)
        assert (kept.sum(1) == 2).all()
        assert torch.allclose((columns * kept).sum(1), columns.topk(2).values.sum(1))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
    def test_any_dtype_and_layout(self, dtype: torch.dtype) -> None:
        scores = (torch.rand(4, 8, 3, 3) * 100).to(dtype)
        expected = by_hand(scores.double().numpy(), 2, 4)
        assert (nm_mask(scores, 2, 4).numpy() == expected).all()
        last = scores.contiguous(memory_format=torch.channels_last)
        assert (nm_mask(last, 2, 4).numpy() == expected).all()

    def test_many_rows_at_once_and_one_by_one_agree(self) -> None:
        scores = torch.rand(40_000, 6)
        assert torch.equal(nm_mask(scores, 2, 4)[35_000:], nm_mask(scores[35_000:], 2, 4))

    @pytest.mark.parametrize("function", [nm_mask, transposable_mask])
    def test_nan_is_refused(self, function: object) -> None:
        for at in (0, 5, 9):
            scores = torch.rand(4, 10)
            scores[2, at] = float("nan")
            with pytest.raises(InputError, match="NaN"):
                function(scores, 2, 4)  # type: ignore[operator]

    @pytest.mark.parametrize("function", [nm_mask, transposable_mask])
    @pytest.mark.parametrize(("keep", "of"), [(0, 4), (5, 4), (1, 1), (2, 0)])
    def test_numbers_that_mean_nothing(self, function: object, keep: int, of: int) -> None:
        with pytest.raises(InputError, match="must keep"):
            function(torch.rand(4, 4), keep, of)  # type: ignore[operator]
        with pytest.raises(InputError, match="outputs and inputs"):
            function(torch.rand(4), 2, 4)  # type: ignore[operator]

    def test_infinite_scores_and_empty_weights(self) -> None:
        scores = torch.tensor([[float("inf"), -float("inf"), 1.0, 2.0]])
        assert nm_mask(scores, 2, 4).tolist() == [[True, False, False, True]]
        assert nm_mask(torch.zeros(0, 8), 2, 4).shape == (0, 8)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu(self) -> None:
        scores = torch.randn(64, 100, 3, device="cuda")
        for function in (nm_mask, transposable_mask):
            mask = function(scores, 2, 4)
            assert mask.device == scores.device
            assert torch.equal(mask.cpu(), function(scores.cpu(), 2, 4))


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(18, 6), (2, 18)),
    "conv1d": (nn.Conv1d(10, 6, 3), (1, 10, 8)),
    "conv2d": (nn.Conv2d(10, 6, 3), (1, 10, 6, 6)),
    "conv3d": (nn.Conv3d(6, 4, 3), (1, 6, 4, 4, 4)),
    "grouped": (nn.Conv2d(12, 8, 3, groups=2), (1, 12, 6, 6)),
    "transposed": (nn.ConvTranspose2d(10, 6, 3), (1, 10, 6, 6)),
    "transposed grouped": (nn.ConvTranspose2d(12, 8, 3, groups=2), (1, 12, 6, 6)),
    "lstm": (nn.LSTM(10, 7), (4, 2, 10)),
}


def reduced(model: nn.Module, name: str, mask: Tensor) -> Tensor:
    """Inputs last, written out by hand for each kind of module."""
    if isinstance(model, nn.ConvTranspose2d):
        groups = mask.reshape(model.groups, -1, *mask.shape[1:])
        return groups.transpose(1, -1)
    return mask.transpose(1, -1)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["2:4", "1:4", "3:5"])
def test_every_kind_of_layer(kind: str, name: str) -> None:
    torch.manual_seed(0)
    layer, shape = copy.deepcopy(MODELS[kind])
    result = sc.prune(nn.Sequential(layer), torch.randn(shape), granularity=name)
    keep, of = map(int, name.split(":"))
    assert result.plan.masks
    for key, mask in result.plan.masks.items():
        last = reduced(layer, key, mask)
        for run in last.split(of, dim=-1):
            assert (run.sum(-1) == min(keep, run.shape[-1])).all()


class TestBudget:
    def test_none_is_needed_and_what_agrees_is_accepted(self) -> None:
        for budget in (None, {"sparsity": 0.75}):
            model = nn.Sequential(nn.Linear(16, 8))
            result = sc.prune(model, torch.randn(1, 16), granularity="1:4", budget=budget)
            assert result.plan.settings["budget"] == {"sparsity": 0.75}
            assert int((model[0].weight == 0).sum()) == 96

    def test_one_that_contradicts_is_an_error(self) -> None:
        model = nn.Sequential(nn.Linear(16, 8))
        before = model[0].weight.clone()
        with pytest.raises(BudgetError, match=r"contradicts granularity '2:4'.* 0\.5 of"):
            sc.prune(model, torch.randn(1, 16), granularity="2:4", budget={"sparsity": 0.9})
        assert torch.equal(model[0].weight, before)

    def test_skip_and_pad(self) -> None:
        def net() -> nn.Sequential:
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(16, 10), nn.Linear(10, 2))

        x = torch.randn(1, 16)
        skipping = sc.prune(net(), x, granularity="2:4:skip")
        assert {*skipping.plan.masks} == {"0.weight"}
        assert skipping.skipped == [
            ("1.weight", "granularity '2:4:skip' needs a multiple of 4, not 10 inputs")
        ]
        padding = sc.prune(net(), x, granularity="2:4")
        assert padding.plan.masks["1.weight"].sum(1).tolist() == [6, 6]

    def test_depthwise_has_nothing_to_give(self) -> None:
        model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))
        with pytest.raises(NothingToPruneError, match="keep all of its 1 inputs"):
            sc.prune(model, torch.randn(1, 8, 5, 5), granularity="2:4")


class TestTransposable:
    def test_there_are_90_patterns_of_two_in_four(self) -> None:
        patterns = tile_patterns(2, 4)
        assert len(patterns) == 90 and len({tuple(p.flatten().tolist()) for p in patterns}) == 90
        assert (patterns.sum(1) == 2).all() and (patterns.sum(2) == 2).all()

    @given(st.integers(0, 2**31), st.integers(1, 11), st.integers(1, 11))
    @settings(max_examples=40, deadline=None)
    def test_two_in_four_is_the_best_there_is(self, seed: int, outputs: int, inputs: int) -> None:
        scores = np.random.default_rng(seed).random((outputs, inputs)).astype(np.float32)
        mask = transposable_mask(torch.from_numpy(scores), 2, 4).numpy()
        rows = [row for row in itertools.product([0, 1], repeat=4) if sum(row) == 2]
        squares = [
            np.array(tile)
            for tile in itertools.product(rows, repeat=4)
            if all(sum(column) == 2 for column in zip(*tile, strict=True))
        ]
        for top, left in itertools.product(range(0, outputs, 4), range(0, inputs, 4)):
            part = np.zeros((4, 4))
            real = scores[top : top + 4, left : left + 4]
            part[: real.shape[0], : real.shape[1]] = real
            best = max(float((part * square).sum()) for square in squares)
            kept = mask[top : top + 4, left : left + 4]
            assert np.isclose((real * kept).sum(), best, rtol=1e-6)
            assert (kept.sum(0) <= 2).all() and (kept.sum(1) <= 2).all()
            if real.shape == (4, 4):
                assert (kept.sum(0) == 2).all() and (kept.sum(1) == 2).all()

    @given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
    @settings(max_examples=25, deadline=None)
    def test_the_flow_finds_what_enumeration_finds(self, seed: int, keep: int, tied: bool) -> None:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, 3, (7, 4, 4)) if tied else rng.standard_normal((7, 4, 4))
        tiles = torch.from_numpy(drawn.astype(np.float64))
        best = (tiles.flatten(1) @ tile_patterns(keep, 4).flatten(1).T.double()).amax(1)
        mask = assigned(tiles, keep)
        assert (mask.sum(1) == keep).all() and (mask.sum(2) == keep).all()
        assert torch.allclose((tiles * mask).sum((1, 2)), best)

    @pytest.mark.parametrize(("keep", "of"), [(1, 8), (4, 8), (7, 8), (3, 5), (8, 16)])
    def test_wide_tiles_always_fill_up_and_match_linear_programming(
        self, keep: int, of: int
    ) -> None:
        optimize = pytest.importorskip("scipy.optimize")
        tiles = torch.rand(3, of, of, generator=torch.Generator().manual_seed(0)).double()
        mask = assigned(tiles, keep)
        assert (mask.sum(1) == keep).all() and (mask.sum(2) == keep).all()
        lines = np.zeros((2 * of, of * of))
        for i in range(of):
            lines[i, i * of : (i + 1) * of] = 1
            lines[of + i, i::of] = 1
        for tile, kept in zip(tiles, mask, strict=True):
            best = optimize.linprog(
                -tile.flatten().numpy(), A_eq=lines, b_eq=np.full(2 * of, keep), bounds=(0, 1)
            )
            assert np.isclose(float((tile * kept).sum()), -best.fun)

    def test_constant_and_integer_tiles_end(self) -> None:
        for value in (0.0, 1.0, -2.0):
            mask = transposable_mask(torch.full((16, 24, 2), value), 4, 8)
            assert (mask.unflatten(0, (2, 8)).sum(1) == 4).all()
            assert (mask.unflatten(1, (3, 8)).sum(2) == 4).all()

    def test_both_ways_in_a_model(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(8, 12, 3))
        sc.prune(model, torch.randn(1, 8, 5, 5), granularity="2:4:transposable")
        live = model[0].weight != 0
        assert (live.unflatten(1, (2, 4)).sum(2) == 2).all()
        assert (live.unflatten(0, (3, 4)).sum(1) == 2).all()


class TestHierarchical:
    @given(problems(), st.integers(0, 2**31))
    @settings(max_examples=40, deadline=None)
    def test_runs_close_up_over_what_stays(
        self, problem: tuple[np.ndarray, int, int], seed: int
    ) -> None:
        scores, keep, of = problem
        stay = np.random.default_rng(seed).random(scores.shape) < 0.6
        found = nm_within(torch.from_numpy(scores), torch.from_numpy(stay), keep, of).numpy()
        assert not found[~stay].any()
        for place in np.ndindex(scores.shape[0], *scores.shape[2:]):
            row = (place[0], slice(None), *place[1:])
            left = scores[row][stay[row]]
            expected = by_hand(left[None], keep, of)[0]
            assert (found[row][stay[row]] == expected).all()

    def test_vectors_then_two_in_four(self) -> None:
        """A quarter of the columns of every strip, half of each: an eighth of the weights."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32))
        dense = model[0].weight.detach().clone()
        sc.prune(
            model,
            torch.randn(1, 64),
            granularity="vector:16/2:4",
            allocation="uniform",
            budget={"sparsity": 0.875},
        )
        live = model[0].weight != 0
        assert 0 <= 32 * 64 // 8 - int(live.sum()) < 16
        scores = dense.square().reshape(2, 16, 64).mean(1)
        columns = live.reshape(2, 16, 64).any(1)
        assert float(scores[~columns].max()) <= float(scores[columns].min())
        for strip, kept in zip(live.reshape(2, 16, 64), columns, strict=True):
            closed = strip[:, kept]
            for run in closed.split(4, dim=1):
                assert (run.sum(1) == min(2, run.shape[1])).all()

    def test_without_a_budget_only_n_of_m(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 16))
        sc.prune(model, torch.randn(1, 16), granularity="block:4x4/2:4")
        assert int((model[0].weight == 0).sum()) == 128

    def test_a_budget_below_n_of_m_is_an_error(self) -> None:
        model = nn.Sequential(nn.Linear(16, 16))
        with pytest.raises(BudgetError, match=r"0\.2969 is too low .* 0\.5000"):
            sc.prune(
                model, torch.randn(1, 16), granularity="block:4x4/2:4", budget={"sparsity": 0.3}
            )
