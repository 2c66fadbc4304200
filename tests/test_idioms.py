"""Every net of the zoo, pruned and checked: exact, or protected with a reason."""

from __future__ import annotations

import pytest
import torch

import secateur as sc
from parity import check_model, check_prune, facts, prepared
from zoo import ZOO, Entry

ENTRIES = list(ZOO.values())
PRUNABLE = [entry for entry in ENTRIES if entry.prunable]

# Of two units, each of which halves it, one must stay.
ONCE = {"group_norm_after_uneven_cat"}


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_gently(entry: Entry) -> None:
    check_prune(entry, 0.7, seed=1, allocation="global")


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_hard_and_everything_that_can_shrink_does(entry: Entry) -> None:
    result = check_prune(entry, 0.4, seed=2, allocation="uniform")
    if result is not None:
        missing = [name for name in entry.must_shrink if not result.plan.removed.get(name)]
        reasons = dict(result.skipped)
        assert not missing, f"{missing} did not shrink: {reasons}"


@pytest.mark.parametrize("entry", [e for e in PRUNABLE if e.name not in ONCE], ids=str)
def test_twice(entry: Entry) -> None:
    dense, inputs = prepared(entry, seed=3)
    known = facts(entry)
    first = check_model(dense, inputs, 0.8, seed=3, allocation="uniform", **known)
    second = check_model(first.model, inputs, 0.8, seed=4, allocation="uniform", **known)
    assert second.after.params < first.after.params
    assert len(sc.history(second.model)) == 2


@pytest.mark.parametrize("entry", ENTRIES[::7], ids=str)
def test_same_seed_same_plan(entry: Entry) -> None:
    if entry.prunable:
        plans = []
        for _ in range(2):
            dense, inputs = prepared(entry)
            plans.append(check_model(dense, inputs, 0.6, seed=5, **facts(entry)).plan.to_json())
        assert plans[0] == plans[1]


@pytest.mark.parametrize("criterion", ["magnitude", "fpgm", "bn_scale"])
@pytest.mark.parametrize("name", ["res_net_projection", "mobile_net", "yolo"])
def test_other_criteria(name: str, criterion: str) -> None:
    check_prune(ZOO[name], 0.6, criterion=criterion)


@pytest.mark.parametrize("name", ["llama", "swin", "dense_net", "unet", "lstm", "c2f"])
def test_budget_of_macs(name: str) -> None:
    check_prune(ZOO[name], 0.5, unit="macs", criterion="magnitude")


def test_every_net_builds_the_same_one_again() -> None:
    for entry in ENTRIES[::9]:
        first, second = entry.build().state_dict(), entry.build().state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), entry.name
