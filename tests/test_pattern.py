"""Patterns: four of nine entries of a kernel, from a library that the model itself gives."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import BudgetError, NothingToPruneError


def make(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 12, 1), nn.ConvTranspose2d(12, 6, 3)
    )
    return model, torch.randn(1, 4, 6, 6)


def library_by_hand(kernels: np.ndarray, size: int) -> list[tuple[int, ...]]:
    """Count the natural patterns of the kernels, kernel by kernel."""
    counter: collections.Counter[tuple[int, ...]] = collections.Counter()
    for kernel in kernels:
        ranked = sorted(range(9), key=lambda i: (-abs(kernel[i]), -i))
        counter[tuple(sorted(ranked[:4]))] += 1
    codes = sorted(counter, key=lambda p: (-counter[p], sum(1 << place for place in p)))
    return codes[:size]


@pytest.mark.parametrize("size", [1, 4, 8, 12])
def test_the_library_and_the_choice_of_every_kernel(size: int) -> None:
    model, x = make()
    first = model[0].weight.detach().reshape(-1, 9).double().numpy()
    last = model[2].weight.detach().transpose(0, 1).reshape(-1, 9).double().numpy()
    result = sc.prune(model, x, granularity=f"pattern:{size}")
    library = library_by_hand(np.concatenate([first, last]), size)
    assert [tuple(p) for p in result.plan.settings["patterns"]] == library
    masks = result.plan.masks["0.weight"].reshape(-1, 9).numpy()
    for kernel, mask in zip(first, masks, strict=True):
        retained = {p: float((kernel[list(p)] ** 2).sum()) for p in library}
        chosen = tuple(np.flatnonzero(mask).tolist())
        assert chosen in retained
        assert np.isclose(retained[chosen], max(retained.values()), rtol=1e-6)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("sparsity", [0.6, 0.75, 0.9])
def test_live_kernels_have_four_entries_and_the_budget_is_met(
    sparsity: float, allocation: str
) -> None:
    model, x = make()
    result = sc.prune(
        model, x, granularity="pattern", budget={"sparsity": sparsity}, allocation=allocation
    )
    library = {tuple(p) for p in result.plan.settings["patterns"]}
    assert len(library) == 8
    zeros = sum(int((~mask).sum()) for mask in result.plan.masks.values())
    total = sum(mask.numel() for mask in result.plan.masks.values())
    assert int(sparsity * total) <= zeros < sparsity * total + 3 * 9
    for name in ("0.weight", "2.weight"):
        kernels = result.plan.masks[name].reshape(-1, 9)
        live = kernels[kernels.any(dim=1)]
        assert len(live) and (live.sum(dim=1) == 4).all()
        assert {tuple(k.nonzero()[:, 0].tolist()) for k in live} <= library
    weight = model[0].weight.reshape(-1, 9)
    assert {int(n) for n in (weight != 0).sum(1).unique()} <= {0, 4}


def test_the_kernels_that_go_retain_least() -> None:
    model, x = make()
    dense = model[0].weight.detach().reshape(-1, 9)
    sc.prune(nn.Sequential(model[0]), x, granularity="pattern:126", budget={"sparsity": 0.8})
    best = dense.square().topk(4, dim=1).values.sum(1)
    live = (model[0].weight != 0).reshape(-1, 9).any(1)
    # 576 entries, 460 zeros, 5 of 9 by the patterns: 35 kernels of 64 go.
    assert int((~live).sum()) == 35
    assert float(best[~live].max()) <= float(best[live].min())


def test_too_little_sparsity_says_how_close_it_gets() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    before = model[0].weight.clone()
    with pytest.raises(BudgetError, match=r"0\.5000 is too low.*0\.5556"):
        sc.prune(model, torch.randn(1, 4, 6, 6), granularity="pattern", budget={"sparsity": 0.5})
    assert torch.equal(model[0].weight, before)
    sc.prune(model, torch.randn(1, 4, 6, 6), granularity="pattern", budget={"sparsity": 5 / 9})
    assert int((model[0].weight != 0).sum()) == 16 * 4


def test_what_has_no_pattern_is_skipped_with_a_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    result = sc.prune(model, torch.randn(1, 3, 8, 8), granularity="pattern")
    reasons = dict(result.skipped)
    assert "5x5" in reasons["0.weight"] and "needs a kernel" in reasons["3.weight"]
    assert {*result.plan.masks} == {"1.weight"}
    with pytest.raises(NothingToPruneError):
        sc.prune(nn.Sequential(nn.Linear(4, 4)), torch.randn(1, 4), granularity="pattern")


def test_only_pointwise_kernels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 1))
    result = sc.prune(
        model, torch.randn(1, 8, 4, 4), granularity="pattern", budget={"sparsity": 0.5}
    )
    assert int((model[0].weight == 0).sum()) == 32 and result.error == 0


def test_again_on_what_was_pruned_changes_nothing() -> None:
    model, x = make()
    first = sc.prune(model, x, granularity="pattern", budget={"sparsity": 0.7})
    second = sc.prune(model, x, granularity="pattern", budget={"sparsity": 0.7})
    libraries = [sorted(result.plan.settings["patterns"]) for result in (first, second)]
    assert libraries[0] == libraries[1]
    assert first.plan == second.plan


def test_a_constant_model_takes_the_last_entries() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    nn.init.constant_(model[0].weight, 0.1)
    result = sc.prune(model, torch.randn(1, 2, 4, 4), granularity="pattern")
    assert result.plan.settings["patterns"] == [[5, 6, 7, 8]]


def test_every_pattern_can_be_in_the_library() -> None:
    """One kernel for each of the 126 patterns."""
    model = nn.Sequential(nn.Conv2d(126, 1, 3))
    with torch.no_grad():
        model[0].weight.fill_(0.01)
        for at, kept in enumerate(itertools.combinations(range(9), 4)):
            model[0].weight[0, at].view(-1)[list(kept)] = 1.0
    result = sc.prune(model, torch.randn(1, 126, 4, 4), granularity="pattern:126")
    assert len(result.plan.settings["patterns"]) == 126
    assert (model[0].weight[0].flatten(1) == 1).sum().item() == 126 * 4
