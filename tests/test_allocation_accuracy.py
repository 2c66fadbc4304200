"""The table of accuracy by allocation: what its page says follows from the cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks import allocation_accuracy
from benchmarks.allocation_cells import ALLOCATIONS, SEEDS, TIMED, cells, key_of
from benchmarks.allocation_page import margins, page, scores, summary

SETTING = {
    "model": "resnet20-x", "data": "some-images", "train": 64, "held": 32, "test": 200,
    "calibration": 16, "evaluations": 20, "batch": 32, "lr": 0.01, "latency_batch": 4,
}  # fmt: skip


def head() -> dict[str, Any]:
    machine = {
        "processor": "a processor", "cores": 2, "memory_gb": 4, "threads": 1, "python": "3",
        "versions": {"torch": "2"},
    }  # fmt: skip
    return {"machine": machine, "settings": [SETTING]}


def everything(**accuracy: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Made-up records: one half right, or as given for each seed at 0.3."""
    records = []
    for model, allocation, measure, target, seed in cells(["resnet20-x"]):
        key = {"model": model, "allocation": allocation, "measure": measure, "target": target}
        if seed is None:
            found: dict[str, Any] = {
                "accuracy": 0.25, "seconds": 1.5, "evaluations": 7, "plan": "{}",
                "reached": target, "macs": target,
            }  # fmt: skip
        elif seed == TIMED:
            found = {"measured": 0.625}
        else:
            given = accuracy.get(allocation) if target == 0.3 else None
            found = {"accuracy": 0.5 if given is None else given[seed], "seconds": 3.0}
        records.append({**key, "seed": seed, **found})
    return records


def test_every_cell_has_a_key_of_its_own() -> None:
    keys = cells(["a", "b"])
    each = (1 + 6 * len(ALLOCATIONS)) * (len(SEEDS) + 1) + 3 * len(ALLOCATIONS)
    assert len(keys) == len(set(keys)) == 2 * each
    records = everything()
    assert [key_of(record) for record in records] == cells(["resnet20-x"])


@pytest.mark.parametrize(
    ("theirs", "beats"),
    [((0.70, 0.71, 0.72), True), ((0.51, 0.58, 0.50), False), ((0.3, 0.3, 0.3), False)],
)
def test_a_gain_counts_beyond_the_range_over_seeds(
    theirs: tuple[float, float, float], beats: bool
) -> None:
    known = scores(everything(uniform=(0.49, 0.50, 0.51), netadapt=theirs))
    [found] = [
        each
        for each in margins(known)
        if each["allocation"] == "netadapt" and each["measure"] == "macs"
    ]
    assert found["gain"] == pytest.approx(sum(theirs) / 3 - 0.5)
    assert found["spread"] == pytest.approx(max(max(theirs) - min(theirs), 0.02))
    assert found["beats"] is beats


def test_the_page_shows_the_cells() -> None:
    records = everything(uniform=(0.49, 0.50, 0.51), sensitivity=(0.70, 0.71, 0.72))
    records = [
        {**record, "reason": "the budget cannot be met"}
        if record["allocation"] == "amc" and record["target"] == 0.3
        else record
        for record in records
    ]
    text = page(head(), records)
    assert "| `sensitivity` | 25.0 → 50.0 ± 0.0 | 25.0 → 50.0 ± 0.0 | 25.0 → 71.0 ± 1.0 |" in text
    assert "out of reach" in text
    assert "these beat `uniform`" in text and "+21.0 points, 2.0" in text
    assert "do **not** beat" in text
    assert "| `sensitivity` | 0.3 of latency | 1.5 | 7 | 0.300 | 0.300 | 0.625 |" in text
    assert "| `sensitivity` | 0.3 of MACs | 1.5 | 7 | 0.300 | 0.300 |  |" in text


def test_the_figures_hold_no_plans() -> None:
    assert all("plan" not in cell for cell in summary(head(), everything())["cells"])


@pytest.mark.slow
def test_a_quick_run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_accuracy, "ROOT", tmp_path)
    monkeypatch.setenv("SECATEUR_SHARED", str(shared))
    allocation_accuracy.main(["--quick"])
    text = (tmp_path / "runs" / "allocation_accuracy_quick" / "allocation_accuracy.md").read_text()
    assert "| `uniform` | 0.3 of MACs |" in text
    assert "`netadapt`" in text
