"""Searches from the command line: what they go by, where they run, and what they never see."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.test_cli import SMALL, call

import secateur as sc
from secateur.cli.search import engine_of, measure_of
from secateur.data import load_data
from secateur.engines import OnRay, Processes

MINE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    ), torch.zeros(1, 4)

def widest(model):
    return float(model[0].out_features)
"""


def settings(plan: Path) -> dict[str, object]:
    return sc.Plan.from_json(plan.read_text()).settings


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the working directory."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_search_goes_by_the_validation_part_of_data(tmp_path: Path) -> None:
    plan, journal = tmp_path / "p.json", tmp_path / "j.jsonl"
    search = (
        "prune", *SMALL, "--allocation", "netadapt:step=0.3", "--data", "digits:8", "--evaluate",
        "accuracy", "--journal", journal, "--plan", plan, "--no-verify",
        "--batch-size", "512", "--out",
    )  # fmt: skip
    result = call(*search, tmp_path / "a.safetensors")
    assert result.exit_code == 0, result.stderr
    model = sc.load(sc.models.small_resnet(), tmp_path / "a.safetensors")
    measure = measure_of("accuracy", load_data("digits:8"), 512)
    assert measure is not None
    values = [json.loads(line)["value"] for line in journal.read_text().splitlines()[1:]]
    assert len(values) > 3
    assert measure(model) in values
    known = journal.read_text()
    assert call(*search, tmp_path / "b.safetensors").exit_code == 0
    assert journal.read_text() == known, "nothing was tried out again"


def test_a_function_of_ones_own_in_workers(mine: str, tmp_path: Path) -> None:
    for engine in ("in_process", "processes:2"):
        result = call(
            "prune", "--model", f"{mine}:build", "--evaluate", f"{mine}:widest", "--engine", engine,
            "--budget", "accuracy_drop=2", "--plan", f"{engine}.json", "--out", "small.safetensors",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        found = settings(tmp_path / f"{engine}.json")["measured"]
        assert found["dense"] == 8.0 and found["pruned"] == 6.0  # type: ignore[index]


def test_an_address_is_that_of_ray() -> None:
    for address in ("ray://head:10001", "head:10001"):
        engine = engine_of("ray", address)
        assert isinstance(engine, OnRay) and engine.address == "ray://head:10001"
    engine = engine_of("processes:3", None)
    assert isinstance(engine, Processes) and engine.workers == 3


def test_an_address_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    result = call(
        "prune", *SMALL, "--allocation", "netadapt", "--data", "digits:8", "--evaluate", "accuracy",
        "--engine", "ray", "--address", "127.0.0.1:9", "--out", tmp_path / "x",
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no Ray cluster answers at ray://127.0.0.1:9")
    assert len(result.stderr.splitlines()) == 1


def test_sizes_by_layer_and_by_latency(mine: str, tmp_path: Path) -> None:
    plan, small = tmp_path / "p.json", tmp_path / "s.safetensors"
    prune = ("prune", "--model", f"{mine}:build", "--plan", plan, "--out", small)
    assert call(*prune, "--round-to", "0=4,*=8").exit_code == 0
    assert settings(plan)["round_to"] == {"0": 4, "*": 8}

    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    table = tmp_path / "table.json"
    sc.LatencyTable.measure(net, torch.zeros(1, 4), runs=1, cache=table)
    # A device on which up to four features take as long as four, and up to eight twice as long.
    stored = json.loads(table.read_text())
    stored["conditions"]["processor"] = "a device"
    for grids in stored["operations"].values():
        for grid in grids:
            grid["ms"] = [1.0] * 4 + [2.0] * 4
    table.write_text(json.dumps(stored))
    result = call(*prune, "--budget", "latency=0.8", "--latency", table, "--round-to", "auto")
    assert result.exit_code == 0, result.stderr
    assert settings(plan)["budget"] == {"latency": 0.8}
    assert settings(plan)["round_to"] == "auto"
    assert load_file(small)["0.weight"].shape == (4, 4)


WATCHED = """
import torch

def part(first):
    # What an image is of is written in its first pixel.
    images = torch.zeros(30, 1, 8, 8)
    images[:, 0, 0, 0] = torch.arange(first, first + 30)
    return images, torch.arange(30) % 10

def parts():
    return {"train": part(0), "test": part(1000)}

class Net(torch.nn.Sequential):
    pass

def build():
    torch.manual_seed(0)
    return Net(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ), torch.zeros(1, 1, 8, 8)
"""


@pytest.mark.parametrize(
    "command",
    [
        ("prune", "--allocation", "netadapt:step=0.4", "--evaluate", "accuracy"),
        ("prune", "--allocation", "sensitivity:steps=1", "--evaluate", "accuracy"),
        ("prune", "--criterion", "taylor"),
        ("prune", "--budget", "accuracy_drop=1", "--evaluate", "accuracy"),
        ("sensitivity", "--ratio", "0.5", "--engine", "in_process"),
    ],
    ids=" ".join,
)
def test_the_test_part_is_never_seen(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "watched_data.py").write_text(WATCHED)
    monkeypatch.chdir(tmp_path)
    seen: set[float] = set()

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if type(module).__name__ == "Net":
            seen.update(given[0][:, 0, 0, 0].tolist())

    with torch.nn.modules.module.register_module_forward_pre_hook(note):
        data = ("--data", "watched_data:parts", "--out", "out.safetensors")
        result = call(command[0], "--model", "watched_data:build", *data, *command[1:])
    assert result.exit_code == 0, result.stderr
    # Stand-ins for images may hold anything.
    assert len(seen & set(range(30))) > 2, "data were looked at"
    assert not seen & set(range(1000, 1030))
