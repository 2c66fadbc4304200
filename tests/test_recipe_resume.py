"""A run that is killed at any moment goes on to the same result."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TypeAlias

import pytest
from safetensors import safe_open
from tests.recipe_runs import SMALL, process, server

Whole: TypeAlias = tuple[Path, dict[str, object], float]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Whole:
    """A recipe, the final weights of its run, and the seconds that it took."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "small.yaml"
    recipe.write_text(SMALL)
    ready = server().Process(target=int)
    ready.start()
    ready.join()
    started = time.monotonic()
    whole = process(recipe, folder / "run", resume=False)
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    seconds = time.monotonic() - started
    return recipe, contents(folder / "run" / "model.safetensors"), seconds


def contents(file: Path) -> dict[str, object]:
    """Every bit of every tensor, and the plans; safetensors orders its metadata as it likes."""
    with safe_open(file, framework="np") as opened:
        tensors = {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
        return {"plans": opened.metadata(), **tensors}


def killed_at(moments: int, seconds: float) -> list[float]:
    """Moments all over the run, drawn at random; the same at every call."""
    draw = random.Random(7)
    return [seconds * (index + draw.random()) / moments for index in range(moments)]


def is_whole(file: Path) -> None:
    """Fail for a file that was not written to its end."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            assert len(list(opened.keys()))
    elif file.suffix == ".json":
        import json

        json.loads(file.read_text())
    elif file.suffix == ".jsonl":
        assert file.read_text().endswith("\n")


def kill_and_resume(whole: Whole, tmp_path: Path, moments: list[float]) -> int:
    """Kill a run at each moment, of a run of its own; how many were killed before their end."""
    recipe, expected, _ = whole
    killed = 0
    for index, moment in enumerate(moments):
        folder = tmp_path / str(index)
        first = process(recipe, folder, resume=False)
        first.start()
        first.join(moment)
        killed += first.is_alive()
        first.kill()
        first.join()
        for file in folder.rglob("*"):
            hidden = any(part.startswith(".secateur-") for part in file.parts)
            if file.is_file() and not hidden:
                is_whole(file)
        second = process(recipe, folder, resume=True)
        second.start()
        second.join()
        assert second.exitcode == 0
        assert contents(folder / "model.safetensors") == expected, f"killed at {moment:.2f} s"
        assert not list(folder.rglob(".secateur-*"))
    return killed


def test_a_killed_run_comes_to_the_same_weights(uninterrupted, tmp_path: Path) -> None:
    moments = killed_at(3, uninterrupted[2])
    assert kill_and_resume(uninterrupted, tmp_path, moments) >= 2


@pytest.mark.slow
def test_twenty_killed_runs_come_to_the_same_weights(uninterrupted, tmp_path: Path) -> None:
    moments = killed_at(20, uninterrupted[2])
    assert kill_and_resume(uninterrupted, tmp_path, moments) >= 15


@pytest.mark.slow
def test_a_run_may_be_killed_again_and_again(uninterrupted, tmp_path: Path) -> None:
    recipe, expected, seconds = uninterrupted
    draw, folder = random.Random(1), tmp_path / "run"
    attempts, done = 0, False
    while not done and attempts < 50:
        attempts += 1
        again = process(recipe, folder, resume=True)
        again.start()
        again.join(seconds * draw.random() * (0.5 + attempts / 10))
        done = again.exitcode == 0
        again.kill()
        again.join()
    assert attempts > 1 and done
    assert contents(folder / "model.safetensors") == expected
