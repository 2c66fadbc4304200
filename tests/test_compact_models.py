"""Real models: the zeros that they were given go, nothing else does, and outputs stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from architectures import import_torchvision
from parity import randomise


def built(name: str) -> tuple[nn.Module, Tensor]:
    import_torchvision()
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None)
    return randomise(model).eval(), torch.randn(2, 3, 96, 96)


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(x)
    return found


def silence(filters: nn.Module, norm: Any, units: Tensor) -> None:
    """Filters of zeros, and a norm that leaves a zero a zero."""
    with torch.no_grad():
        filters.weight[units] = 0
        norm.bias[units] = 0
        norm.running_mean[units] = 0


def at_rest(norm: Any) -> Tensor:
    """Whether a norm and the ReLU behind it make anything but zero of a zero."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (norm.bias - norm.running_mean * scale).detach() > 0


def inner_pairs(name: str, model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Layers whose outputs only the next one reads: the name of the first -> its chain."""
    if name == "resnet18":
        return {
            f"{path}.conv1": (block.conv1, block.bn1, block.conv2)
            for path, block in model.named_modules()
            if hasattr(block, "conv2")
        }
    return {
        f"{path}.conv.0.0": (block.conv[0][0], block.conv[0][1], block.conv[1][0],
                             block.conv[1][1], block.conv[2])
        for path, block in model.named_modules()
        if hasattr(block, "use_res_connect") and len(block.conv) == 4
    }  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_exactly_the_silenced_filters_and_the_unread_ones_go(name: str) -> None:
    model, x = built(name)
    expected = {}
    for path, chain in inner_pairs(name, model).items():
        units = torch.randperm(len(chain[0].weight))
        silent, unread = units[:5], units[5:9]
        silence(chain[0], chain[1], silent)
        if len(chain) == 5:
            # Behind a depthwise convolution of zeros, the second norm sees zeros alone.
            silence(chain[2], chain[3], silent)
        with torch.no_grad():
            chain[-1].weight[:, unread] = 0
        expected[f"{path}.weight"] = sorted(units[:9].tolist())
    dense = copy.deepcopy(model)
    result = sc.compact(model, x)
    found = {
        key: dims[0] for key, dims in result.plan.removed.items() if key in expected and 0 in dims
    }
    assert found == expected
    assert [group.name for group in result.groups if group.before > group.after] == [*expected]
    for given in (x.double(), 30 * torch.randn(2, 3, 96, 96).double()):
        torch.testing.assert_close(outputs(model.double(), given), outputs(dense.double(), given))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "granularity", "sparsity"),
    [
        ("resnet18", "kernel", 0.9),
        ("resnet18", "element", 0.98),
        ("mobilenet_v2", "element", 0.95),
    ],
)
def test_what_pruning_empties_goes(name: str, granularity: str, sparsity: float) -> None:
    """Each inner unit by definition, given which features of the block's ends are left."""
    model, x = built(name)
    sc.prune(model, x, granularity=granularity, budget={"sparsity": sparsity})
    dense = copy.deepcopy(model)
    result = sc.compact(model, x)
    removed = result.plan.removed
    assert removed
    found, wanted = (outputs(each.double(), x.double()) for each in (model, dense))
    torch.testing.assert_close(found, wanted)
    kept = dict(model.named_parameters())
    for path, chain in inner_pairs(name, dense).items():
        first, last = chain[0], chain[-1]
        gone = removed.get(f"{path}.weight", {})
        left = torch.ones(first.weight.shape[1], dtype=torch.bool)
        left[gone.get(1, [])] = False
        after = torch.ones(len(last.weight), dtype=torch.bool)
        other = next(key for key, value in dense.named_modules() if value is last)
        after[removed.get(f"{other}.weight", {}).get(0, [])] = False
        is_read = last.weight[after].flatten(2).ne(0).any(2).any(0)
        says = first.weight[:, left].flatten(1).ne(0).any(1) | at_rest(chain[1])
        if len(chain) == 5:
            # A depthwise filter of zeros hides its unit behind the second norm.
            through = chain[2].weight.flatten(1).ne(0).any(1)
            says = (through & says) | at_rest(chain[3])
        needed = is_read & says
        assert len(kept[f"{path}.weight"]) >= max(int(needed.sum()), 1)
        if bool(needed.any()):
            assert set(gone.get(0, [])) == set((~needed).nonzero()[:, 0].tolist())
