"""Every search uses its engine: several models at once where it can, one result everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from tests import measures
from tests.test_engines import Evaluate, make
from torch import nn

import secateur as sc
from secateur.allocation import NetAdapt
from secateur.engines import Engine
from secateur.engines.base import Work, Workers
from secateur.errors import InputError

SEARCHES: dict[str, dict[str, Any]] = {
    "netadapt": {"allocation": "netadapt:step=0.2"},
    "netadapt by ratio": {"allocation": "netadapt:rule=ratio,step=0.2"},
    "evolution": {"allocation": "evolution:population=4,generations=2"},
    "sensitivity": {"allocation": "sensitivity:steps=3"},
    "sensitivity of weights": {
        "allocation": "sensitivity:steps=3", "granularity": "element", "budget": {"sparsity": 0.5}
    },
    "bayes": {"allocation": "bayes:trials=12"},
    "accuracy drop": {
        "allocation": "uniform", "budget": {"accuracy_drop": 0.5}, "evaluate": measures.large
    },
    "accuracy drop of a search": {
        "allocation": NetAdapt(step=0.4, tune=measures.shrunk), "budget": {"accuracy_drop": 0.5},
        "evaluate": measures.large,
    },
}  # fmt: skip
QUICK = ("netadapt",)


class Backwards(Engine):
    """Does the last task first, and notes how many it is given at once."""

    name = "backwards"

    def __init__(self) -> None:
        self.given: list[int] = []
        self.open = 0

    @classmethod
    def from_text(cls, text: str) -> Engine:
        return cls()

    def start(self, work: Work) -> Workers:
        self.open += 1
        return _Backwards(work, self)


class _Backwards(Workers):
    def __init__(self, work: Work, engine: Backwards) -> None:
        self.work, self.engine = work, engine

    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, float]]:
        self.engine.given.append(len(tasks))
        for index in reversed(range(len(tasks))):
            yield index, self.work(tasks[index])

    def close(self) -> None:
        self.engine.open -= 1


def found(
    name: str, engine: str | Engine | None, evaluate: Evaluate | None = None, **more: Any
) -> tuple[sc.Plan, dict[str, torch.Tensor]]:
    if name == "bayes":
        pytest.importorskip("optuna")
    net, x = make()
    options = {"budget": {"params": 0.5}, "evaluate": measures.noisy, **SEARCHES[name], **more}
    if evaluate is not None:
        options["evaluate"] = evaluate
    result = sc.prune(net, x, engine=engine, seed=3, **options)
    return result.plan, net.state_dict()


def same(one: tuple[sc.Plan, dict[str, Any]], other: tuple[sc.Plan, dict[str, Any]]) -> bool:
    """Whether two searches chose the same, said the same, and left the same weights."""
    return one[0].to_json() == other[0].to_json() and all(
        torch.equal(tensor, other[1][name]) for name, tensor in one[1].items()
    )


@pytest.mark.parametrize("name", SEARCHES)
def test_in_whatever_order_results_come_a_search_ends_the_same(name: str) -> None:
    engine = Backwards()
    assert same(found(name, None), found(name, engine))
    assert engine.given, "the engine was asked"
    assert engine.open == 0, "its workers were ended"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SEARCHES]
)
def test_workers_end_at_the_same(name: str) -> None:
    assert same(found(name, None), found(name, "processes:2"))


@pytest.mark.parametrize(
    ("name", "at_once"),
    # The dense model, and three shares of each of three groups, or of four weights.
    [("sensitivity", 1 + 3 * 3), ("sensitivity of weights", 1 + 3 * 4)],
)
def test_a_scan_is_handed_over_at_once(name: str, at_once: int) -> None:
    engine = Backwards()
    found(name, engine)
    assert engine.given == [at_once]


def test_all_proposals_of_a_step_are_handed_over_at_once() -> None:
    engine = Backwards()
    found("netadapt", engine, allocation="netadapt:step=0.05")
    assert engine.given[0] == 3, "every group can save so little"


def test_trials_that_depend_on_nothing_are_handed_over_at_once() -> None:
    engine = Backwards()
    found("bayes", engine)
    assert 8 <= engine.given[0] <= 10
    assert set(engine.given[1:]) <= {1}


def test_a_generation_is_handed_over_at_once() -> None:
    engine = Backwards()
    found("evolution", engine)
    # Some children are known from before.
    assert len(engine.given) <= 3
    assert engine.given[0] == 4
    assert max(engine.given) <= 4 < sum(engine.given)


def test_a_journal_takes_up_every_search(tmp_path: Any) -> None:
    for name in ("netadapt", "sensitivity of weights", "accuracy drop"):
        folder = tmp_path / name
        folder.mkdir()
        counting = measures.Counting(folder)
        journal = tmp_path / f"{name}.jsonl"
        first = found(name, None, counting, journal=journal)
        tried = len(counting.calls)
        assert tried >= 4
        engine = Backwards()
        assert same(first, found(name, engine, counting, journal=journal))
        assert engine.given == []
        # What a drop is counted from is measured every time.
        assert len(counting.calls) - tried == (2 if name == "accuracy drop" else 0)


def test_a_journal_of_tuned_copies_is_not_one_of_others(tmp_path: Any) -> None:
    journal = tmp_path / "search.jsonl"
    tuned = NetAdapt(step=0.4, tune=measures.shrunk)
    found("netadapt", None, journal=journal, allocation=tuned)
    with pytest.raises(InputError, match="is of another tune"):
        found("netadapt", None, journal=journal)


def test_the_drop_of_what_is_tuned_on_the_way_is_of_what_is_given_back() -> None:
    def evaluate(model: nn.Module) -> float:
        return model[-1].bias.abs().max().item()  # type: ignore[index, union-attr, operator]

    plan, state = found("accuracy drop of a search", Backwards(), evaluate)
    assert plan.settings["measured"]["pruned"] == state["9.bias"].abs().max().item()


@pytest.mark.parametrize("name", SEARCHES)
def test_every_model_that_is_tried_out_is_told(name: str) -> None:
    engine, heard = Backwards(), []

    def progress(done: int, total: int | None, what: str) -> None:
        if what == "trying models out":
            heard.append((done, total))

    found(name, engine, progress=progress)
    tried, expected = 0, []
    for together in engine.given:
        tried += together
        several = [(at + 1, together) for at in range(together)]
        expected += several if together > 1 else [(tried, None)]
    # Those that are tuned and those that are not are counted apart.
    assert heard == expected or name == "accuracy drop of a search"
    assert len(heard) == sum(engine.given)


def test_results_are_told_as_they_come_back() -> None:
    calls: list[str] = []

    def evaluate(model: nn.Module) -> float:
        calls.append("tried")
        return measures.large(model)

    def progress(done: int, total: int | None, what: str) -> None:
        calls.append(f"{what} {done}/{total}")

    found("sensitivity", None, evaluate, progress=progress)
    told = [call for call in calls if call != "tried"]
    assert told == [f"trying models out {done}/10" for done in range(1, 11)]
    # The dense model is measured twice.
    assert calls[:4] == ["tried", "tried", told[0], "tried"]
    assert calls[-2:] == ["tried", told[-1]]


@pytest.mark.parametrize("granularity", ["channel", "element"])
@pytest.mark.parametrize("measured", [False, True])
def test_a_scan_of_its_own_is_the_same_in_any_order(granularity: str, measured: bool) -> None:
    net, x = make()
    evaluate: Any = measures.noisy
    if measured:
        evaluate = sc.Evaluation([(torch.randn(8, 3, 8, 8), torch.randint(4, (8,)))])
    engine = Backwards()
    tables = [
        sc.sensitivity(
            net, x, evaluate, granularity=granularity, ratios=(0.3, 0.6), seed=3, engine=place
        )
        for place in ("in_process", engine)
    ]
    assert tables[0] == tables[1]
    assert len(engine.given) == 1
    assert engine.given[0] > 4
    assert engine.open == 0


def test_a_scan_of_its_own_is_the_same_by_several_workers(tmp_path: Any) -> None:
    net, x = make()
    evaluate = sc.Evaluation([(torch.randn(8, 3, 8, 8), torch.randint(4, (8,)))])
    cache = tmp_path / "scan.jsonl"
    tables = [
        sc.sensitivity(net, x, evaluate, ratios=(0.5,), engine=place, cache=kept)
        for place, kept in (("in_process", None), ("processes:2", cache))
    ]
    assert tables[0] == tables[1]
    engine = Backwards()
    assert sc.sensitivity(net, x, evaluate, ratios=(0.5,), engine=engine, cache=cache) == tables[0]
    assert engine.given == []
