"""Layer-wise solvers against closed forms, brute force and NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.criteria.fisher_blocks import joint_update
from secateur.layerwise import (
    Amount,
    contributions,
    damped,
    inputs_by_error,
    inverse,
    refit_scales,
    refit_weights,
    removal_costs,
    sweep,
    vanishing_penalties,
)
from secateur.observing.moments import Moments

TINY = 1e-12


def moments_of(x: Tensor, y: Tensor | None = None) -> Moments:
    """Of rows ``[n, d]`` or ``[n, groups, d]``."""
    x = x[:, None] if x.ndim == 2 else x
    y = y[:, None] if y is not None and y.ndim == 2 else y
    found = Moments.of(x, y)
    found.add(x, y)
    return found


def with_hessian(hessian: list[list[float]]) -> Moments:
    """Inputs of which twice the mean of x xᵀ is this."""
    factor = torch.linalg.cholesky(torch.tensor(hessian, dtype=torch.float64) / 2)
    found = moments_of(factor.T)
    found.rows = 1
    return found


class TestOBS:
    """H = [[2, 1], [1, 2]], w = (1, 1.5)."""

    hessian = ((2.0, 1.0), (1.0, 2.0))
    weight = torch.tensor([[[1.0, 1.5]]], dtype=torch.float64)

    def test_scores(self) -> None:
        inverted = inverse(damped(with_hessian([list(row) for row in self.hessian]), TINY))
        scores = self.weight.square() / inverted.diagonal(dim1=1, dim2=2)[:, None]
        torch.testing.assert_close(scores[0, 0], torch.tensor([0.75, 1.6875]).double())
        torch.testing.assert_close(removal_costs(self.weight, inverted)[0, 0, 0], scores[0, 0, 0])

    def test_the_update(self) -> None:
        mask = torch.tensor([[[False, True]]])
        moments = with_hessian([list(row) for row in self.hessian])
        found = refit_weights(moments, self.weight, mask, TINY)
        torch.testing.assert_close(found - self.weight, torch.tensor([[[-1.0, 0.5]]]).double())

    def test_the_update_on_the_loss(self) -> None:
        inverted = torch.linalg.inv(torch.tensor(self.hessian).double())[None]
        gone = torch.tensor([True, False])
        found = joint_update(self.weight[0, 0], gone, inverted)
        torch.testing.assert_close(found, torch.tensor([0.0, 2.0]).double())

    @given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 4))
    @settings(deadline=None, max_examples=40)
    def test_all_at_once_is_the_closed_form(self, seed: int, width: int, outputs: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(3 * width, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(1, outputs, width, generator=generator, dtype=torch.float64)
        mask = torch.rand(1, outputs, width, generator=generator) < 0.6
        moments, ridge = moments_of(x), 0.05
        found = refit_weights(moments, weight, mask, ridge)
        mean = (x.T @ x / len(x)).numpy()
        hessian_inverse = np.linalg.inv(mean + ridge * np.trace(mean) / width * np.eye(width))
        for row in range(outputs):
            old, gone = weight[0, row].numpy(), ~mask[0, row].numpy()
            pull = np.linalg.solve(hessian_inverse[np.ix_(gone, gone)], old[gone])
            expected = old - hessian_inverse[:, gone] @ pull
            np.testing.assert_allclose(found[0, row].numpy(), expected, atol=1e-8)
            assert (found[0, row].numpy()[gone] == 0).all()

    def test_never_above_obd(self) -> None:
        torch.manual_seed(0)
        x, weight = torch.randn(40, 6).double(), torch.randn(1, 3, 6).double()
        hessian = damped(moments_of(x), 0.01)
        surgeon = weight.square() / inverse(hessian).diagonal(dim1=1, dim2=2)[:, None]
        damage = weight.square() * hessian.diagonal(dim1=1, dim2=2)[:, None]
        assert (surgeon <= damage * (1 + 1e-12)).all()

    def test_greedy_costs_by_brute_force(self) -> None:
        torch.manual_seed(1)
        x, weight = torch.randn(30, 5).double(), torch.randn(1, 4, 5).double()
        hessian = damped(moments_of(x), 0.01)
        costs = removal_costs(weight, inverse(hessian))[0]

        def best(row: Tensor, gone: list[int]) -> float:
            """Error once the others made up for what is gone."""
            kept = [i for i in range(5) if i not in gone]
            left = torch.zeros(5).double()
            square = hessian[0][kept][:, kept]
            left[kept] = torch.linalg.solve(square, (hessian[0] @ row)[kept])
            return float((row - left) @ hessian[0] @ (row - left))

        for row, found in zip(weight[0], costs, strict=True):
            gone: list[int] = []
            error = highest = 0.0
            while len(gone) < 5:
                rises = {i: best(row, [*gone, i]) - error for i in range(5) if i not in gone}
                at = min(rises, key=lambda i: rises[i])
                highest = max(highest, rises[at])
                assert float(found[at]) == pytest.approx(highest, rel=1e-6)
                gone.append(at)
                error += rises[at]


class TestLeastSquares:
    @given(st.integers(0, 10_000), st.booleans())
    @settings(deadline=None, max_examples=30)
    def test_never_raises_the_error_it_was_fitted_on(self, seed: int, masked: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(60, 2, 6, generator=generator).double()
        weight = torch.randn(2, 3, 6, generator=generator).double()
        noise = torch.randn(60, 2, 3, generator=generator).double()
        y = torch.einsum("ngd,god->ngo", x, weight) + noise
        mask = torch.rand(weight.shape, generator=generator) < 0.5 if masked else None
        plain = weight if mask is None else weight * mask
        moments = moments_of(x, y)
        found = refit_weights(moments, weight, mask, 1e-6)
        assert moments.error(found) <= moments.error(plain) + 1e-12
        scaled = refit_scales(moments, plain, 3, 1e-6)
        assert moments.error(scaled) <= moments.error(plain) + 1e-12
        assert moments.error(found) <= moments.error(scaled) + 1e-9

    def test_is_numpy_s(self) -> None:
        torch.manual_seed(0)
        x, y = torch.randn(50, 4).double(), torch.randn(50, 3).double()
        start = torch.zeros(1, 3, 4).double()
        found = refit_weights(moments_of(x, y), start, None, TINY)[0]
        expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0].T
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)

    def test_scales_are_numpy_s(self) -> None:
        torch.manual_seed(0)
        # Two kernel positions of three inputs.
        x, y = torch.randn(50, 6).double(), torch.randn(50, 2).double()
        weight = torch.randn(1, 2, 6).double()
        found = refit_scales(moments_of(x, y), weight, 3, TINY)
        design = (x[:, None] * weight[0]).view(50, 2, 2, 3).sum(2).reshape(100, 3)
        scales = np.linalg.lstsq(design.numpy(), y.reshape(-1).numpy(), rcond=None)[0]
        expected = weight * torch.from_numpy(scales).repeat(2)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-8)

    def test_without_data_for_an_input_its_weight_stays(self) -> None:
        x = torch.randn(20, 3).double()
        x[:, 1] = 0
        weight = torch.randn(1, 2, 3).double()
        found = refit_weights(moments_of(x), weight, None, 0.01)
        torch.testing.assert_close(found, weight)

    def test_fewer_rows_than_inputs_stay_finite(self) -> None:
        x, weight = torch.randn(2, 8), torch.randn(1, 3, 8)
        mask = torch.arange(8).expand(1, 3, 8) % 2 == 0
        assert torch.isfinite(refit_weights(moments_of(x), weight, mask)).all()
        assert torch.isfinite(refit_weights(moments_of(torch.zeros(2, 8)), weight, mask)).all()


def sparsegpt(
    weight: np.ndarray,
    x: np.ndarray,
    sparsity: float,
    runs: tuple[int, int] | None,
    block: int,
    damp: float,
) -> np.ndarray:
    """The published algorithm, column by column, in NumPy."""  # fmt: skip
    weight = weight.copy()
    hessian = 2 * x.T @ x / len(x)
    hessian += damp * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    width = weight.shape[1]
    for start in range(0, width, block):
        stop = min(start + block, width)
        errors = np.zeros((len(weight), stop - start))
        mask = np.zeros((len(weight), stop - start), dtype=bool)
        if runs is None:
            scores = weight[:, start:stop] ** 2 / np.diag(upper)[start:stop] ** 2
            order = np.argsort(scores, axis=None, kind="stable")
            mask.flat[order[: round(sparsity * scores.size)]] = True
        for at in range(start, stop):
            if runs is not None and at % runs[1] == 0:
                some = slice(at, at + runs[1])
                scores = weight[:, some] ** 2 / np.diag(upper)[some] ** 2
                order = np.argsort(scores, axis=1, kind="stable")[:, : runs[1] - runs[0]]
                np.put_along_axis(mask[:, at - start : at - start + runs[1]], order, True, 1)
            kept = np.where(mask[:, at - start], 0, weight[:, at])
            error = (weight[:, at] - kept) / upper[at, at]
            weight[:, at:stop] -= np.outer(error, upper[at, at:stop])
            weight[:, at] = kept
            errors[:, at - start] = error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


class TestSweep:
    @pytest.mark.parametrize("runs", [None, (2, 4), (4, 8)])
    @pytest.mark.parametrize("block", [8, 16, 64])
    def test_is_the_published_algorithm(self, runs: tuple[int, int] | None, block: int) -> None:
        torch.manual_seed(0)
        x = (torch.randn(200, 32) @ torch.randn(32, 32)).double()
        weight = torch.randn(10, 32).double()
        found, mask = sweep(
            moments_of(x), weight[None], Amount(160, runs), 32, block=block, damp=0.01
        )
        expected = sparsegpt(weight.numpy(), x.numpy(), 0.5, runs, block, 0.01)
        assert (mask[0].numpy() == (expected != 0)).all()
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-8)

    def test_loses_less_than_magnitude_and_than_its_own_mask_without_repair(self) -> None:
        torch.manual_seed(0)
        # Inputs that go together, as those of trained networks do.
        x = torch.randn(400, 12) @ torch.randn(12, 48) + 0.2 * torch.randn(400, 48)
        weight = torch.randn(1, 24, 48)
        y = (x @ weight[0].T)[:, None]
        moments = moments_of(x[:, None], y)
        found, mask = sweep(moments, weight, Amount(576), 48)
        rank = weight.abs().flatten().argsort().argsort().view(weight.shape)
        assert moments.error(found) < moments.error(weight * (rank >= 576))
        assert moments.error(found) < moments.error(weight * mask)

    @given(
        st.integers(0, 10_000),
        st.integers(1, 2),
        st.integers(1, 5),
        st.sampled_from([(1, 3), (2, 4), (9, 5)]),
        st.floats(0, 1),
        st.integers(1, 50),
        st.floats(0, 0.5),
    )
    @settings(deadline=None, max_examples=60)
    def test_counts_are_exact_whatever_was_masked_before(
        self, seed: int, groups: int, outputs: int, kernel: tuple[int, int], share: float,
        block: int, before: float,
    ) -> None:  # fmt: skip
        places, inputs = kernel
        generator = torch.Generator().manual_seed(seed)
        width = places * inputs
        x = torch.randn(4 * width, groups, width, generator=generator)
        weight = torch.randn(groups, outputs, width, generator=generator)
        held = torch.rand(weight.shape, generator=generator) >= before
        already = int((~held).sum())
        zeros = max(already, int(share * weight.numel()))
        found, mask = sweep(
            moments_of(x), weight * held, Amount(zeros), inputs, held=held, block=block
        )
        assert int((~mask).sum()) == zeros
        assert not (mask & ~held).any()
        assert (found[~mask] == 0).all()
        assert torch.isfinite(found).all()

    @pytest.mark.parametrize("inputs", [3, 4, 6, 8])
    def test_runs_end_at_a_kernel_position_and_short_ones_keep_what_they_can(
        self, inputs: int
    ) -> None:
        torch.manual_seed(0)
        x, weight = torch.randn(90, 3 * inputs), torch.randn(1, 5, 3 * inputs)
        _, mask = sweep(moments_of(x), weight, Amount(runs=(2, 4)), inputs, block=5)
        for place in mask.view(5, 3, inputs).unbind(1):
            for at in range(0, inputs, 4):
                run = place[:, at : at + 4]
                assert (run.sum(1) == min(2, run.shape[1])).all()

    def test_dead_inputs(self) -> None:
        x, weight = torch.randn(30, 8), torch.randn(1, 4, 8)
        x[:, [2, 5]] = 0
        found, mask = sweep(moments_of(x), weight, Amount(16), 8)
        assert torch.isfinite(found).all()
        assert not mask[0][:, [2, 5]].any()


class TestInputs:
    def test_the_order_by_brute_force(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            rows = rng.normal(size=(30, 6)) @ rng.normal(size=(6, 6))
            gram = rows.T @ rows
            order, errors = inputs_by_error(gram)
            gone: list[int] = []
            for at, error in zip(order, errors, strict=True):
                tries = {
                    i: np.square(rows[:, [*gone, i]].sum(1)).sum()
                    for i in range(6)
                    if i not in gone
                }
                best = min(tries, key=lambda i: tries[i])
                assert at == best
                assert error == pytest.approx(tries[best])
                gone.append(best)

    def test_the_last_error_is_all_of_the_output(self) -> None:
        rows = np.random.default_rng(1).normal(size=(30, 6))
        _, errors = inputs_by_error(rows.T @ rows)
        assert errors[-1] == pytest.approx(np.square(rows.sum(1)).sum())

    def test_contributions_are_what_outputs_lose(self) -> None:
        torch.manual_seed(0)
        x, weight = torch.randn(40, 2, 6).double(), torch.randn(2, 3, 6).double()
        gram = contributions(moments_of(x), weight, 3)
        for gone in itertools.chain.from_iterable(
            itertools.combinations(range(3), size) for size in range(4)
        ):
            columns = [place * 3 + i for place in range(2) for i in gone]
            lost = torch.einsum("ngd,god->ngo", x[..., columns], weight[..., columns])
            block = gram[:, list(gone)][:, :, list(gone)]
            torch.testing.assert_close(block.sum((1, 2)), lost.square().sum((0, 2)))


def soft_thresholded(gram: np.ndarray, penalty: float) -> np.ndarray:
    """The LASSO's solution by proximal gradient steps, an algorithm of another kind."""
    wanted, beta = gram.sum(1), np.zeros(len(gram))
    step = 1 / np.linalg.eigvalsh(gram)[-1]
    for _ in range(20_000):
        moved = beta - step * (gram @ beta - wanted)
        beta = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0)
    return beta


class TestLasso:
    def test_orthogonal_inputs_vanish_at_their_energy(self) -> None:
        energy = np.array([4.0, 1.0, 2.0, 0.5])
        found = vanishing_penalties(np.diag(energy), steps=400)
        np.testing.assert_allclose(found, energy / 4, rtol=0.05)

    def test_the_active_set_is_another_solver_s(self) -> None:
        rng = np.random.default_rng(3)
        rows = np.abs(rng.normal(size=(60, 8))) @ rng.normal(size=(8, 8))
        gram = rows.T @ rows
        found = vanishing_penalties(gram, steps=200)
        top = np.abs(gram.sum(1)).max()
        for share in (0.5, 0.1, 0.03):
            active = np.abs(soft_thresholded(gram, share * top)) > 1e-6
            # Along the path a coefficient may vanish again, so entering is what is compared.
            assert (found[active] >= share * 0.95).all()

    def test_raising_the_penalty_until_few_are_left(self) -> None:
        """Of two inputs that do the same, one stays, and what only noise has goes first."""
        rng = np.random.default_rng(0)
        signal = rng.normal(size=(200, 2)) * [3, 2]
        rows = np.stack(
            [signal[:, 0], 0.5 * signal[:, 0], signal[:, 1], 0.01 * rng.normal(size=200)], axis=1
        )
        order = vanishing_penalties(rows.T @ rows).argsort()
        assert order[0] == 3
        assert order[1] == 1

    def test_nothing_contributes(self) -> None:
        assert (vanishing_penalties(np.zeros((3, 3))) == 0).all()
