"""SynFlow in rounds: the paper's loop, flow that is conserved, layers that are not emptied."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.hand_graph import clear_error
from torch import nn

import secateur as sc
from secateur.criteria import SynFlow
from secateur.errors import InputError
from secateur.inputs import as_inputs
from secateur.sparsity import as_sparse, prunable_weights
from secateur.sparsity.scoring import SparseScorer


def narrowing() -> nn.Sequential:
    """Wide layers, whose weights are many and carry little each, before narrow ones."""
    torch.manual_seed(0)
    widths = [8, 48, 48, 48, 6, 4]
    layers = [nn.Linear(a, b, bias=False).double() for a, b in pairwise(widths)]
    return nn.Sequential(*[each for layer in layers for each in (layer, nn.ReLU())][:-1])


ROW = torch.randn(1, 8, dtype=torch.float64)


def flow_left(rounds: int, sparsity: float, granularity: str = "element") -> nn.Sequential:
    net = narrowing()
    sc.prune(net, ROW, granularity=granularity, criterion=f"synflow:rounds={rounds}", min_keep=0,
             budget={"sparsity": sparsity})  # fmt: skip
    return net


def test_synflow_conserves_flow_at_every_unit() -> None:
    net = flow_left(20, 0.9)
    units = [(weight, as_sparse("element").tiling(weight)) for weight in prunable_weights(net)]
    scorer = SparseScorer(net, SynFlow(), units, inputs=as_inputs(ROW))
    tables = [scorer.scores(weight) for weight, _ in units]
    for before, after in pairwise(tables):
        into, out = before.sum(1), after.sum(0)
        # A unit without a way out passes nothing on, and a unit without a way in gets nothing.
        assert torch.allclose(into, out, rtol=1e-5, atol=1e-9)
    assert float(tables[0].sum()) > 0


@pytest.mark.parametrize(("rounds", "sparsity"), [(1, 0.6), (7, 0.9), (100, 0.98)])
def test_synflow_rounds_are_those_of_the_paper(rounds: int, sparsity: float) -> None:
    """Its loop, written out: score by autograd, cut globally, exponential density."""
    net = narrowing()
    weights = [layer.weight.detach().abs() for layer in net[::2]]
    masks, total = [torch.ones_like(w) for w in weights], sum(w.numel() for w in weights)
    for at in range(1, rounds + 1):
        leaves = [(w * mask).requires_grad_() for w, mask in zip(weights, masks, strict=True)]
        flow = torch.ones(1, 8, dtype=torch.float64)
        for leaf in leaves:
            flow = flow @ leaf.T
        slopes = torch.autograd.grad(flow.sum(), leaves)
        scores = torch.cat(
            [(w * g).detach().flatten() for w, g in zip(leaves, slopes, strict=True)]
        )
        scores[torch.cat([mask.flatten() for mask in masks]) == 0] = -1.0
        zeros = int((1 - (1 - sparsity) ** (at / rounds)) * total + 1e-9)
        flat = torch.ones(total, dtype=torch.float64)
        # Scores are held in single precision, which decides ties.
        flat[scores.float().argsort(stable=True)[:zeros]] = 0.0
        masks = [
            part.view_as(w)
            for part, w in zip(flat.split([w.numel() for w in weights]), weights, strict=True)
        ]
    found = flow_left(rounds, sparsity)
    for layer, mask in zip(found[::2], masks, strict=True):
        assert torch.equal(layer.weight != 0, mask.bool())


def test_synflow_rounds_keep_layers_from_being_emptied() -> None:
    def left(rounds: int) -> list[int]:
        return [int((layer.weight != 0).sum()) for layer in flow_left(rounds, 0.995)[::2]]

    assert min(left(1)) == 0 and min(left(100)) > 0
    assert sum(left(1)) == sum(left(100))
    alive = flow_left(100, 0.995)
    with torch.no_grad():
        for layer in alive[::2]:
            layer.weight.abs_()
        assert float(alive(torch.ones_like(ROW)).sum()) > 0.0


def test_synflow_goes_on_from_the_masks_that_are_there() -> None:
    net = flow_left(10, 0.5)
    before = sc.masks_of(net)
    sc.prune(net, ROW, granularity="element", criterion="synflow:rounds=10",
             budget={"sparsity": 0.8})  # fmt: skip
    after = sc.masks_of(net)
    assert sum(int((~mask).sum()) for mask in after.values()) == int(
        0.8 * sum(mask.numel() for mask in after.values()) + 1e-9
    )
    assert all(not bool((after[name] & ~mask).any()) for name, mask in before.items())


def test_synflow_reaches_nm_by_way_of_more() -> None:
    net = flow_left(100, 0.5, "2:4")
    for layer in net[:-2:2]:
        assert ((layer.weight != 0).unflatten(1, (-1, 4)).sum(2) == 2).all()
    once = flow_left(1, 0.5, "2:4")
    assert any(
        not torch.equal(a.weight, b.weight) for a, b in zip(net[::2], once[::2], strict=True)
    )


def test_synflow_rounds_that_mean_nothing_are_refused() -> None:
    with clear_error(InputError, "rounds must be at least 1"):
        sc.prune(narrowing(), ROW, granularity="element", criterion="synflow:rounds=0")
    with clear_error(InputError, "'vector:4/2:4' is chosen at once", "synflow:rounds=1"):
        sc.prune(narrowing(), ROW, granularity="vector:4/2:4", criterion="synflow")
