"""What a command says while it runs, and when it is stopped."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.test_cli import call

from secateur import progress
from secateur.progress import Steps

NET = """
import os
import signal

import torch


class Net(torch.nn.Sequential):
    def forward(self, x):
        # Ctrl-C, once something is kept.
        if os.path.exists("kept.jsonl"):
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x)


def build():
    return Net(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ), torch.zeros(1, 1, 8, 8)


def data():
    return {"train": (torch.rand(30, 1, 8, 8), torch.arange(30) % 10)}


def first(model):
    return float(model(torch.ones(1, 1, 8, 8)).detach()[0, 0])
"""


# What is started in the background of a script has it ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from secateur.cli import app
app()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0, 25.0, 40.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    written = io.StringIO()
    with Steps(Console(file=written, width=120)) as steps, steps.step("Trying out") as tick:
        tick(1, 10, "conv1")
        tick(2, 10, "conv2")
        tick(3, 10, "conv3")
        tick(4, None, "conv4")
    assert written.getvalue().splitlines() == [
        "Trying out: 2/10, 44 s left  conv2",
        "Trying out: 4 so far  conv4",
        "Trying out: 40.0 s  conv4",
    ]


def test_a_terminal_shows_the_time_that_is_left() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with Steps(console) as steps, steps.step("Trying out") as tick:
        for done in range(1, 4):
            time.sleep(0.01)
            tick(done, 1000, "conv")
        assert steps._bars is not None
        [task] = steps._bars.tasks
        assert task.time_remaining is not None
        steps._bars.refresh()
    assert "0:00:" in written.getvalue()


def test_a_short_step_is_not_worth_a_line() -> None:
    written = io.StringIO()
    with Steps(Console(file=written)) as steps, steps.step("Saving") as tick:
        tick(1, 1, "weights")
    assert written.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_quiet_console_gets_nothing(terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, quiet=True)
    with Steps(console) as steps, steps.step("Trying out") as tick:
        tick(1, 2, "conv")
    assert written.getvalue() == ""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("option", ["--quiet", "-q"])
def test_quiet_may_stand_anywhere(
    module: Path, before: bool, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHORT", 0.0)
    command = ["prune", "--model", "small_net:build", "--out", "small.safetensors"]
    loud = call(*command)
    quiet = call(*([option, *command] if before else [*command, option]))
    assert "Pruning" in loud.stderr
    assert quiet.exit_code == 0
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    assert "Pruning" in call(*command).stderr, "it does not last"


@pytest.mark.parametrize(
    ("command", "going_on"),
    [
        (("sensitivity", "--cache", "kept.jsonl"), "the same command goes on from kept.jsonl"),
        (
            ("prune", "--allocation", "sensitivity", "--journal", "kept.jsonl", "--evaluate",
             "small_net:first", "--out", "small.safetensors"),
            "the same command goes on from kept.jsonl",
        ),
    ],
)  # fmt: skip
def test_what_is_stopped_says_how_it_goes_on(
    module: Path, command: tuple[str, ...], going_on: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTIBLE, command[0],
         "--model", "small_net:build", "--data", "small_net:data", *command[1:]],
        cwd=module, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(module), *sys.path])},
    )  # fmt: skip
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1] == f"stopped; {going_on}"
    assert "Traceback" not in ended.stderr
    assert not (module / "small.safetensors").exists()
