"""The stages of the demo, and what each of them proves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Data
from secateur.export.check import OnnxSession, difference
from secateur.inputs import evaluating
from secateur.models import small_resnet
from secateur.persist import load
from secateur.profiling import Timing, interleave
from secateur.progress import Steps
from secateur.prune import prune
from secateur.recover import History, accuracy, recalibrate_batchnorm, recover
from secateur.report import Check, Milestone
from secateur.report.numbers import percent
from secateur.result import Result

__all__ = [
    "budget_check",
    "cut",
    "onnx_check",
    "onnx_timings",
    "parity_check",
    "reload_check",
    "train",
    "win_back",
]

BATCH = 64
EVALUATION_BATCH = 256
# The usual rates for this kind of network; fine-tuning takes a fifth of the first.
TRAINING_RATE = 0.1
RECOVERY_RATE = 0.02
CALIBRATION_BATCHES = 8


def train(data: Data, epochs: int, seed: int, steps: Steps) -> tuple[nn.Module, History]:
    """Train the small network from random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_resnet()
    with steps.step("Training a small ResNet") as tick:
        history = recover(
            model,
            data.train.batches(BATCH, shuffle=True, seed=seed),
            epochs=epochs,
            lr=TRAINING_RATE,
            warmup=0.1,
            recalibrate=False,
            validation=data.val.batches(EVALUATION_BATCH),
            progress=tick,
            seed=seed,
        )
    return model.eval(), history


def cut(
    model: nn.Module,
    data: Data,
    macs: float,
    criterion: str,
    round_to: int,
    seed: int,
    steps: Steps,
) -> Result:
    """Prune the network in place."""
    with steps.step("Pruning and verifying"):
        return prune(
            model,
            data.example_inputs,
            criterion=criterion,
            budget={"macs": macs},
            round_to=round_to,
            data=data.train.batches(BATCH),
            seed=seed,
        )


def win_back(
    model: nn.Module, data: Data, epochs: int, seed: int, steps: Steps, test: Iterable[Any]
) -> tuple[History, list[Milestone]]:
    """Recalibrate the batch norms, then train on; note the accuracy after each."""
    milestones = []
    with steps.step("Recalibrating batch norms"):
        recalibrate_batchnorm(
            model,
            data.train.batches(BATCH, shuffle=True, seed=seed),
            max_batches=CALIBRATION_BATCHES,
        )
        milestones.append(Milestone("batch norms recalibrated", accuracy(model, test)))
    with steps.step("Recovering") as tick:
        history = recover(
            model,
            data.train.batches(BATCH, shuffle=True, seed=seed + 1),
            epochs=epochs,
            lr=RECOVERY_RATE,
            recalibrate=False,
            validation=data.val.batches(EVALUATION_BATCH),
            progress=tick,
            seed=seed,
        )
        milestones.append(Milestone("recovered", accuracy(model, test)))
    return history, milestones


def parity_check(result: Result) -> Check:
    """What pruning itself verified."""
    assert result.error is not None
    return Check(
        "The smaller model computes what the masked one does",
        f"largest difference over the example inputs: {result.error:.2g}",
    )


def budget_check(result: Result, macs: float) -> Check:
    """The budget, against the operations that run afterwards."""
    remaining = result.after.macs / result.before.macs
    return Check(
        "The budget is met by what was counted afterwards",
        f"{percent(remaining)} of the MACs remain; {percent(macs)} were allowed",
        passed=remaining <= macs,
    )


def reload_check(model: nn.Module, path: Path, images: Tensor) -> Check:
    """The file, loaded into a freshly built dense model, against the model in memory."""
    loaded = load(small_resnet(), path)
    with evaluating(model), evaluating(loaded):
        expected, actual = model(images), loaded(images)
    return Check(
        "Loaded from its file into a fresh dense model, it gives the same outputs bit for bit",
        f"{len(images)} test images, {expected.numel()} outputs",
        passed=torch.equal(expected, actual),
    )


def onnx_check(session: OnnxSession, name: str, model: nn.Module, data: Data) -> Check:
    """ONNX Runtime on the whole test part, against PyTorch."""
    images, labels = data.test.inputs, data.test.labels
    with evaluating(model):
        expected = model(images)
    (actual,) = session([name], [images])
    error = difference(expected, actual)
    agree = bool((expected.argmax(1) == actual.argmax(1)).all())
    correct = float((actual.argmax(1) == labels).double().mean())
    return Check(
        "ONNX Runtime gives the same answers",
        f"accuracy {percent(correct, 2)} there; outputs differ by {error:.2g} of the largest",
        passed=agree and error <= 1e-4,
    )


def onnx_timings(
    sessions: Mapping[str, OnnxSession], name: str, images: Tensor, options: dict[str, Any]
) -> dict[str, Timing]:
    """The dense and the small ONNX file, taking turns."""

    def call(session: OnnxSession) -> Any:
        return lambda: session([name], [images])

    calls = {label: call(session) for label, session in sessions.items()}
    return interleave(calls, batch=len(images), **options)
