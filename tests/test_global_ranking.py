"""One ranking over all weights, made run by run, against sorting all scores at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import L2
from secateur.errors import BudgetError, CriterionError
from secateur.masks.keeper import keeper_of
from secateur.sparsity import as_sparse, prunable_weights, scoring
from secateur.sparsity.threshold import find_cut, ordered


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that weights of a few entries take several runs, and the last ones are shorter."""
    monkeypatch.setattr(scoring, "RUN", 7)
    monkeypatch.setattr(scoring, "SERIAL", 3)


def sorted_at_once(
    name: str, model: nn.Module, held: dict[str, Tensor], sparsity: float, min_keep: int
) -> dict[str, Tensor] | None:
    """The masks by sorting (score, layer, index) of every unit; None where too few can go."""
    order, masks, zeros, total = [], {}, 0, 0
    for at, weight in enumerate(prunable_weights(model)):
        values = weight.canonical(model.get_parameter(weight.name).detach()).double().numpy()
        mask = np.ones(values.shape, dtype=bool)
        if weight.name in held:
            mask = weight.canonical(held[weight.name]).numpy().copy()
        tiling = as_sparse(name).tiling(weight)
        units = []
        for corner in np.ndindex(tiling.grid):
            box = tuple(slice(c * t, (c + 1) * t) for c, t in zip(corner, tiling.tile, strict=True))
            inside = mask[box]
            score = np.square(values[box]).mean() if inside.any() else -math.inf
            going = int(inside.sum()) if inside.any() else inside.size
            zeros += inside.size - int(inside.sum()) if inside.any() else 0
            units.append((float(np.float32(score)), at, len(units), going, box))
        units.sort()
        order += units[: max(len(units) - min_keep, 0)]
        masks[weight.name] = (mask, weight)
        total += values.size
    names = list(masks)
    wanted = math.floor(sparsity * total + 1e-9)
    for _, at, _, going, box in sorted(order):
        if zeros >= wanted:
            break
        masks[names[at]][0][box] = False
        zeros += going
    if zeros < wanted:
        return None
    return {key: weight.stored(torch.from_numpy(mask)) for key, (mask, weight) in masks.items()}


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    sizes = draw(st.lists(st.integers(1, 7), min_size=3, max_size=5))
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        # Few values, both zeros and tiny layers: ties within and across layers, emptied layers.
        values = draw(
            st.lists(
                st.sampled_from([-3.0, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 1e-30]),
                min_size=inputs * outputs,
                max_size=inputs * outputs,
            )
        )
        scale = draw(st.sampled_from([1.0, 0.25, 64.0]))
        layer.weight.data.copy_(scale * torch.tensor(values).reshape(outputs, inputs))
        layers.append(layer)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", ["element", "vector:3", "run:2", "block:2x3"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_same_entries_go_as_by_sorting_all(name: str, data: st.DataObject) -> None:
    model = data.draw(models())
    sparsity = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9, 0.99]))
    min_keep = data.draw(st.integers(1, 4))
    held = {}
    weights = list(prunable_weights(model))
    if data.draw(st.booleans()):
        for weight in weights[:2]:
            drawn = st.lists(st.booleans(), min_size=weight.numel, max_size=weight.numel)
            held[weight.name] = torch.tensor(data.draw(drawn)).reshape(weight.shape)
        sc.apply_masks(model, held)
    misfits = [as_sparse(name).misfit(weight) for weight in weights]
    if any(misfits):
        return
    expected = sorted_at_once(name, model, held, sparsity, min_keep)
    options = {"granularity": name, "allocation": "global", "min_keep": min_keep}
    inputs = torch.randn(2, weights[0].shape[1])
    if expected is None:
        with pytest.raises(BudgetError, match="min_keep"):
            sc.prune(model, inputs, budget={"sparsity": sparsity}, **options)
        return
    found = sc.prune(model, inputs, budget={"sparsity": sparsity}, **options).plan.masks
    assert found.keys() == expected.keys()
    for key, mask in expected.items():
        assert torch.equal(found[key], mask), key


def test_a_layer_that_would_be_emptied_keeps_its_highest_and_others_lose_more() -> None:
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 6, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 21.0).reshape(5, 4) * 1e-6)
        model[1].weight.copy_(torch.arange(1.0, 31.0).reshape(6, 5))
    masks = sc.prune(
        model,
        torch.randn(1, 4),
        granularity="element",
        budget={"sparsity": 0.6},
        allocation="global",
        min_keep=3,
    ).plan.masks
    assert masks["0.weight"].flatten().tolist() == [False] * 17 + [True] * 3
    assert masks["1.weight"].flatten().tolist() == [False] * 13 + [True] * 17


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 6, 3), nn.ConvTranspose2d(6, 4, 3, groups=2)).to(dtype)
    model = model.to(memory_format=torch.channels_last)
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    values = {w.name: w.canonical(dense[w.name]).float() for w in prunable_weights(model)}
    flat = torch.cat([value.flatten() for value in values.values()]).square()
    gone = torch.zeros(len(flat), dtype=torch.bool)
    gone[flat.argsort(stable=True)[: math.floor(0.7 * len(flat))]] = True
    expected = dict(zip(values, gone.split([v.numel() for v in values.values()]), strict=True))
    x = torch.randn(1, 5, 6, 6, dtype=dtype)
    masks = sc.prune(model, x, granularity="element", budget={"sparsity": 0.7}).plan.masks
    for weight in prunable_weights(model):
        found = ~weight.canonical(masks[weight.name])
        assert torch.equal(found.flatten(), expected[weight.name])
        parameter = model.get_parameter(weight.name)
        assert torch.equal(parameter, dense[weight.name] * masks[weight.name])
        assert parameter.stride() == dense[weight.name].stride()
        keeper = keeper_of(parameter)
        assert keeper is not None and keeper.values is not None
        assert torch.equal(keeper.values, dense[weight.name][~masks[weight.name]])
    sc.remove_masks(model)
    assert all(torch.equal(value, dense[key]) for key, value in model.state_dict().items())


class Watched(L2):
    """The default criterion, with a record of how much it is shown at once."""

    name = "watched"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        self.seen.append(weight.numel())
        return weight * weight


def test_no_weight_is_scored_as_a_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 9))
    criterion = Watched()
    options = {"granularity": "element", "budget": {"sparsity": 0.5}}
    watched = sc.prune(model, torch.randn(1, 12), criterion=criterion, **options)
    assert criterion.seen and max(criterion.seen) == 3
    torch.manual_seed(0)
    again = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 9))
    plain = sc.prune(again, torch.randn(1, 12), **options)
    for key, mask in plain.plan.masks.items():
        assert torch.equal(watched.plan.masks[key], mask)


class Rooted(L2):
    """NaN for a negative weight."""

    name = "rooted"

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.sqrt_()


@pytest.mark.parametrize(("criterion", "value"), [("magnitude", 1e30), (Rooted(), -1.0)])
@pytest.mark.parametrize("place", [0, 6, 7, 19])
def test_scores_that_are_not_finite_are_refused(
    criterion: str | L2, value: float, place: int
) -> None:
    """In any run; the square of 1e30 is infinite in float32."""
    model = nn.Sequential(nn.Linear(4, 5))
    with torch.no_grad():
        model[0].weight.abs_().view(-1)[place] = value
    before = model[0].weight.detach().clone()
    with pytest.raises(CriterionError, match=r"NaN or infinity for '0\.weight'"):
        sc.prune(
            model,
            torch.randn(1, 4),
            granularity="element",
            budget={"sparsity": 0.5},
            criterion=criterion,
        )
    assert torch.equal(model[0].weight, before)
    assert not sc.masks_of(model)


finite = st.floats(width=32, allow_nan=False)


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=40))
def test_keys_are_in_the_order_of_the_scores(values: list[float]) -> None:
    keys = ordered(torch.tensor(values)).astype(np.int64)
    for a, x in zip(keys, values, strict=True):
        for b, y in zip(keys, values, strict=True):
            assert (a < b) == (x < y) and (a == b) == (x == y)


@settings(deadline=None)
@given(
    runs=st.lists(st.lists(finite, min_size=1, max_size=9), min_size=1, max_size=6),
    data=st.data(),
)
def test_the_cut_is_the_shortest_sufficient_start(
    runs: list[list[float]], data: st.DataObject
) -> None:
    """With one size for a run or one for every unit."""
    sizes: list[Tensor | int] = []
    for run in runs:
        several = st.lists(st.integers(1, 5), min_size=len(run), max_size=len(run))
        drawn = data.draw(st.one_of(st.integers(1, 5), several))
        sizes.append(drawn if isinstance(drawn, int) else torch.tensor(drawn))
    weights = [
        [size] * len(run) if isinstance(size, int) else size.tolist()
        for run, size in zip(runs, sizes, strict=True)
    ]
    entries = data.draw(st.integers(1, sum(map(sum, weights))))

    def ranked() -> Iterator[tuple[Tensor, Tensor | int]]:
        return ((torch.tensor(run), size) for run, size in zip(runs, sizes, strict=True))

    cut = find_cut(ranked, entries)
    units = [
        (int(key), size)
        for run, each in zip(runs, weights, strict=True)
        for key, size in zip(ordered(torch.tensor(run)), each, strict=True)
    ]
    below = sum(size for key, size in units if key < cut.key)
    level = sum(size for key, size in units if key == cut.key)
    assert below < entries <= below + level
    assert cut.equal == entries - below
