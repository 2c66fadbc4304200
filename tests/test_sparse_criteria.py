"""Every criterion with every sparse granularity on every kind of layer."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.hand_graph import variants
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import CRITERIA, as_criterion
from secateur.errors import InputError, NothingToPruneError, SecateurError
from secateur.sparsity import ROWS, as_sparse, prunable_weights
from secateur.specs import catalogue

# One of every row of the table; sizes that divide the layers, and some that do not.
GRANULARITIES = [
    "element", "vector:4", "run:3", "row", "block:2x3", "kernel", "stripe", "shape", "2:4",
    "3:5", "2:4:transposable", "vector:4/2:4", "pattern:4",
]  # fmt: skip
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 8), (3, 12)),
    "conv1d": (nn.Conv1d(8, 8, 3, padding=1), (2, 8, 6)),
    "conv2d": (nn.Conv2d(8, 12, 3, stride=2), (2, 8, 6, 6)),
    "grouped": (nn.Conv2d(16, 8, 3, groups=2, padding=1), (2, 16, 4, 4)),
    "conv3d": (nn.Conv3d(8, 8, 3, padding=1), (1, 8, 3, 3, 3)),
    "transposed1d": (nn.ConvTranspose1d(8, 8, 3), (2, 8, 4)),
    "transposed2d": (nn.ConvTranspose2d(8, 12, 3, groups=2), (2, 8, 3, 3)),
    "transposed3d": (nn.ConvTranspose3d(8, 8, 3), (1, 8, 2, 2, 2)),
}


def defined(parts: bool) -> list[str]:
    """Criteria that score parts of weights, or those that do not, with few rounds."""
    found = []
    for line in variants():
        made = as_criterion(line)
        if "view=" in line and "view=group" not in line:
            continue
        if made.parts is parts:
            found.append(line.replace("synflow:", "synflow:rounds=2,"))
    return found


def sparsity_of(granularity: str) -> float:
    # Four of nine entries in a pattern are five ninths already.
    return 0.7 if granularity.startswith("pattern") else 0.5


def options_of(granularity: str) -> dict[str, Any]:
    fixed = granularity[0].isdigit()
    return {
        "granularity": granularity,
        "budget": None if fixed else {"sparsity": sparsity_of(granularity)},
    }


def layer_and_data(
    kind: str, dtype: torch.dtype = torch.float32
) -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    net = nn.Sequential(copy.deepcopy(layer)).to(dtype)
    return net, [(torch.randn(shape, dtype=dtype), torch.zeros(shape[0])) for _ in range(2)]


def energy(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that is the same whatever order the outputs are in."""
    return (outputs**2 / 2 + outputs**3 / 30).mean()


def pruned(
    net: nn.Module, data: list[Any], criterion: str, granularity: str, **more: Any
) -> sc.Result:
    given = {
        "criterion": criterion, "data": data, "loss": energy, "allocation": "uniform",
        **options_of(granularity), **more,
    }  # fmt: skip
    return sc.prune(net, data[0][0], **given)


def test_every_row_and_every_criterion_is_here() -> None:
    assert {as_sparse(name).row.name for name in GRANULARITIES} == set(ROWS)
    names = {line.partition(":")[0] for line in [*defined(True), *defined(False)]}
    assert names == {entry.names[0] for entry in catalogue(CRITERIA)}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("criterion", defined(True))
class TestEveryPair:
    def test_counts_are_exact_and_dtypes_kept(self, criterion: str, granularity: str) -> None:
        if criterion.startswith("synflow") and as_sparse(granularity).at_once:
            criterion = "synflow:rounds=1"
        for kind in LAYERS:
            net, data = layer_and_data(kind)
            [weight] = prunable_weights(net)
            if as_sparse(granularity).misfit(weight) is not None:
                with pytest.raises(NothingToPruneError, match="granularity"):
                    pruned(net, data, criterion, granularity)
                continue
            result = pruned(net, data, criterion, granularity)
            [mask] = result.plan.masks.values()
            parameter = net[0].weight
            assert parameter.dtype == torch.float32
            assert parameter.device == mask.device
            assert (parameter[~mask] == 0).all()
            canonical, made = weight.canonical(mask), as_sparse(granularity)
            if granularity[0].isdigit():
                keep, of = made.sizes
                inputs = canonical.shape[1]
                kept = keep * (inputs // of) + min(keep, inputs % of)
                if "transposable" not in granularity:
                    assert (canonical.sum(dim=1) == kept).all()
                else:
                    whole = canonical[: len(canonical) // of * of, : inputs // of * of]
                    assert int(whole.sum()) == whole.numel() * keep // of
                continue
            zeros, tiling = int((~mask).sum()), made.tiling(weight)
            sparsity = sparsity_of(granularity)
            wanted = math.floor(sparsity * mask.numel() + 1e-9)
            plain = "/" not in granularity and not granularity.startswith("pattern")
            if plain and as_criterion(criterion).scope == "row" and tiling.tile[0] == 1:
                gone = tiling.sums((~canonical).long()) == tiling.sizes()
                units = gone.flatten(1).shape[1]
                assert (gone.flatten(1).sum(1) == math.floor(sparsity * units + 1e-9)).all()
            elif "/" in granularity:
                assert wanted <= zeros
            else:
                assert wanted <= zeros < wanted + (math.prod(tiling.tile) if plain else 9)

    def test_outputs_in_another_order_lose_the_same(self, criterion: str, granularity: str) -> None:
        made = as_criterion(criterion)
        if made.ordered or made.spec.startswith(("random", "obd:curvature=hutchinson")):
            pytest.skip("goes by the place of an entry")
        if granularity.startswith(("vector", "block", "2:4:transposable", "pattern")):
            pytest.skip("cuts outputs into tiles by their order, or counts patterns")
        if criterion.startswith("synflow"):
            criterion = "synflow:rounds=1"
        for kind in LAYERS:
            net, data = layer_and_data(kind, torch.float64)
            [weight] = prunable_weights(net)
            if as_sparse(granularity).misfit(weight) is not None:
                continue
            outputs = weight.canonical_shape[0]
            each = torch.randperm(outputs // weight.groups)
            order = torch.cat([each + g * len(each) for g in range(weight.groups)])
            other = copy.deepcopy(net)
            with torch.no_grad():
                canonical = weight.canonical(net[0].weight)[order]
                other[0].weight.copy_(weight.stored(canonical))
                other[0].bias.copy_(net[0].bias[order])
            [mask] = pruned(net, data, criterion, granularity).plan.masks.values()
            [moved] = pruned(other, data, criterion, granularity).plan.masks.values()
            assert torch.equal(weight.canonical(mask)[order], weight.canonical(moved)), kind

    def test_nan_is_refused_and_the_model_left_alone(
        self, criterion: str, granularity: str
    ) -> None:
        net, data = layer_and_data("conv2d")
        with torch.no_grad():
            net[0].weight[1, 2, 0, 1] = torch.nan
        before = net[0].weight.clone()
        with pytest.raises(SecateurError, match=r"NaN|nan") as caught:
            pruned(net, data, criterion, granularity)
        assert "\n" not in str(caught.value)
        assert torch.equal(net[0].weight.nan_to_num(7.0), before.nan_to_num(7.0))
        assert not sc.masks_of(net)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("criterion", [c for c in defined(True) if not as_criterion(c).streams])
def test_constant_scores_go_by_index(criterion: str, granularity: str) -> None:
    if criterion == "random":
        pytest.skip("random numbers do not tie")
    for kind in LAYERS:
        net, data = layer_and_data(kind)
        [weight] = prunable_weights(net)
        if as_sparse(granularity).misfit(weight) is not None:
            continue
        with torch.no_grad():
            net[0].weight.fill_(0.5)
        [mask] = pruned(net, data, criterion, granularity).plan.masks.values()
        [plain] = pruned(
            layer_and_data_like(net), data, lambda rows: rows.new_zeros(len(rows)), granularity
        ).plan.masks.values()
        assert torch.equal(mask, plain)


def layer_and_data_like(net: nn.Module) -> nn.Module:
    """A copy without masks, of constant weights."""
    other = copy.deepcopy(net)
    sc.remove_masks(other)
    return other


@pytest.mark.parametrize("criterion", defined(False))
def test_what_scores_channels_is_refused_for_parts(criterion: str) -> None:
    net, data = layer_and_data("conv2d")
    with pytest.raises(InputError, match="whole channels"):
        pruned(net, data, criterion, "element")


@pytest.mark.parametrize("criterion", defined(True))
def test_half_precision_is_kept(criterion: str) -> None:
    net, data = layer_and_data("conv2d", torch.bfloat16)
    pruned(net, data, criterion, "element")
    assert net[0].weight.dtype == torch.bfloat16
    assert int((net[0].weight == 0).sum()) == 432
