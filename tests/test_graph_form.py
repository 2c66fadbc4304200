"""Pruning the exported graph of models whose Python code cannot follow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

import secateur as sc
from parity import assert_close, assert_same, outputs, prepared, silence, snapshot
from secateur.errors import BudgetError, InputError
from zoo import ZOO, Entry

# What torch.export itself cannot capture.
EAGER = {"detour_through_numpy", "branch_on_data", "transformer_encoder", "dataclass_output"}
ENTRIES = [e for e in ZOO.values() if e.prunable and e.name not in EAGER]
LITERAL = [e for e in ENTRIES if e.graph_shrink]


def pruned(dense: nn.Module, inputs: object, ratio: float) -> sc.Result:
    for budget in (ratio, 0.7, 0.85, 0.95):
        try:
            return sc.prune(
                dense,
                inputs,
                form="graph",
                budget={"params": budget},
                criterion="random",
                allocation="uniform",
                seed=2,
            )
        except BudgetError as error:
            last = error
    raise last


def check(entry: Entry, ratio: float = 0.5) -> sc.Result:
    dense, inputs = prepared(entry, 2)
    before = snapshot(dense)
    result = pruned(dense, inputs, ratio)
    assert_same(dense, before)
    assert result.model is not dense
    assert result.after.params == sum(p.numel() for p in result.model.parameters())
    assert result.after.params < result.before.params
    if not entry.statistics:
        reference = silence(dense, result.plan, entry.masked, entry.consumers_only)
        for given in (inputs, others(inputs)):
            expected = enumerate(outputs(reference, given).values())
            actual = enumerate(outputs(result.model, given).values())
            assert_close(
                {str(i): t for i, t in actual},
                {str(i): t for i, t in expected},
                "graph against masked",
            )
    return result


def others(inputs: Any) -> Any:
    """Inputs of the same shapes with other values."""
    generator = torch.Generator().manual_seed(7)

    def other(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return torch.randn(value.shape, generator=generator).to(value) if floating else value

    return tree_map(other, inputs)


@pytest.mark.parametrize("entry", LITERAL, ids=str)
def test_literals_follow(entry: Entry) -> None:
    result = check(entry)
    missing = [name for name in entry.graph_shrink if not result.plan.removed.get(name)]
    assert not missing, dict(result.skipped)


@pytest.mark.parametrize("entry", ENTRIES[::12], ids=str)
def test_a_sample(entry: Entry) -> None:
    check(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_all(entry: Entry) -> None:
    check(entry, 0.6)


@pytest.mark.parametrize("name", sorted(EAGER))
def test_what_cannot_be_captured_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    dense, inputs = prepared(ZOO[name], 2)
    before = snapshot(dense)
    with pytest.raises(InputError, match=r"torch\.export cannot capture the model") as caught:
        sc.prune(dense, inputs, form="graph")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert_same(dense, before)


@pytest.mark.parametrize("name", ["view_by_literal", "res_net_projection", "gpt"])
def test_the_graph_trains_on_other_batches_and_copies(name: str) -> None:
    entry = ZOO[name]
    result = check(entry)
    model = copy.deepcopy(result.model)
    inputs = torch.cat([entry.inputs()] * 3)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    model(inputs).square().mean().backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    assert len(model(inputs)) == 6
