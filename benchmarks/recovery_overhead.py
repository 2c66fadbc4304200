"""What masks add to a training step, and what distillation adds beside the teacher's own pass.

python -m benchmarks.recovery_overhead
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import secateur as sc
from benchmarks.common import heading, machine, markdown_table, write_results
from benchmarks.speed_models import build
from secateur.recover.distillation import Distillation
from secateur.recover.evaluate import Tally
from secateur.recover.optimizers import make_optimizer
from secateur.recover.settings import Settings
from secateur.recover.stepping import Stepper
from secateur.recover.teaching import Teaching

GOAL_MASKS = 0.03
GOAL_TEACHER = 1.0
SIZE = 224
# Small, so that the weights stay ordinary numbers however long the measurement takes.
SETTINGS = Settings(
    epochs=1, lr=1e-6, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant",
    warmup=0.0, clip_norm=None, accumulate=1, recalibrate=False, ema=None, patience=None,
    autocast=False, channels_last=False, seed=0,
)  # fmt: skip


def keep_memory() -> bool:
    """Let freed memory stay with the process, where the C library is glibc.

    Without, whoever comes after the one that gave memory back pays for getting it again.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_max = -1, -4
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def stepping(model: nn.Module, teacher: nn.Module | None, batch: Any) -> Callable[[], None]:
    """One update as `sc.recover` makes it."""
    teaching = None if teacher is None else Teaching(model, teacher, Distillation())
    engine = make_optimizer(model.train(), SETTINGS)
    stepper = Stepper(model, None, engine, SETTINGS, teaching)
    return lambda: stepper.step([batch], Tally())


def candidates(name: str, batch_size: int, sparsity: float) -> dict[str, Callable[[], Any]]:
    """The steps to be timed; every one has a model of its own."""
    dense, example = build(name)
    inputs = torch.randn(batch_size, *example.shape[1:-2], SIZE, SIZE)
    batch = (inputs, torch.arange(batch_size) % 1000)
    masked, taught = copy.deepcopy(dense), copy.deepcopy(dense)
    sc.prune(
        masked, example, granularity="element", criterion="magnitude",
        budget={"sparsity": sparsity}, verify=False,
    )  # fmt: skip
    teacher = copy.deepcopy(dense).eval().requires_grad_(False)

    def teacher_pass() -> None:
        with torch.no_grad():
            teacher(inputs)

    return {
        "training step": stepping(dense, None, batch),
        "with masks": stepping(masked, None, batch),
        "with a teacher": stepping(taught, teacher, batch),
        "the teacher's forward pass": teacher_pass,
    }


def processor_seconds(
    calls: dict[str, Callable[[], Any]], warmup: int, runs: int
) -> dict[str, list[float]]:
    """Processor time of every call, round by round; each round begins with another of them."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(-warmup, runs):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            calls[name]()
            if turn >= 0:
                taken[name].append(time.process_time() - start)
    return taken


def ratios(taken: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds, in each of which every candidate ran once."""
    plain, masked, taught, alone = taken.values()
    return {
        "masks": statistics.median(m / p for m, p in zip(masked, plain, strict=True)) - 1,
        "distillation": statistics.median(
            (t - p) / a for t, p, a in zip(taught, plain, alone, strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-page", action="store_true", help="only print the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = keep_memory()
    where = machine(options.threads, ["torchvision"])
    calls = candidates(options.model, options.batch, options.sparsity)
    taken = processor_seconds(calls, 2, options.runs)
    found = ratios(taken)
    rows = [
        [name, f"{statistics.median(each):.3f}", f"{max(each) - min(each):.3f}"]
        for name, each in taken.items()
    ]
    text = "\n".join(
        [
            "# Overhead of recovery",
            "",
            f"One update of {options.model} by `sc.recover` (SGD with momentum, batch "
            f"{options.batch}, {SIZE}×{SIZE} images): plain, with {options.sparsity:.0%} of the "
            "weights masked, and learning from a teacher of the same size.",
            "",
            markdown_table(["what", "seconds", "range"], rows),
            "",
            f"Masks add {found['masks']:.1%} to a step (goal: at most {GOAL_MASKS:.0%}). "
            f"Distillation adds {found['distillation']:.2f} forward passes of the teacher (goal: "
            f"at most {GOAL_TEACHER:g}).",
            "",
            f"Processor time, medians of {options.runs} rounds, in which all take turns; the "
            "ratios are medians over the rounds. "
            + ("Freed memory stays with the process (mallopt). " if kept else "")
            + f"{heading(where)}. Made by "
            "`python -m benchmarks.recovery_overhead`.",
        ]
    )
    print(text)
    if not options.no_page:
        results = {
            "machine": where,
            "model": options.model,
            "batch": options.batch,
            "sparsity": options.sparsity,
            "seconds": {name: statistics.median(each) for name, each in taken.items()},
            "ratios": found,
        }
        write_results("recovery_overhead", results, text)
    for name, value, goal in (
        ("masks", found["masks"], GOAL_MASKS),
        ("distillation", found["distillation"], GOAL_TEACHER),
    ):
        print(f"\n{name}: {value:.3f}, at most {goal:g}: {'met' if value <= goal else 'MISSED'}")


if __name__ == "__main__":
    main()
