"""Recipes to run in tests, here or in a process that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

SMALL = """\
name: small
seed: 0
model:
  source: secateur.models.resnet:SmallResNet
  kwargs: {widths: [8, 16], blocks: 1}
data: {source: "digits:8", batch_size: 128}
steps:
  - finetune: {epochs: 2, lr: 0.1}
  - prune: {budget: {macs: 0.6}, criterion: taylor, batches: 2, recalibrate: 2}
  - sparsify: {granularity: "2:4", recalibrate: 0}
  - finetune: {epochs: 2, lr: 0.02, ema: 0.9, distill: {features: [stages.0]}}
report: false
"""


def carry_out(recipe: str, folder: str, resume: bool) -> None:
    """What a process does: the run, on one thread."""
    import torch

    from secateur.recipes import run_recipe

    torch.set_num_threads(1)
    run_recipe(recipe, out=folder, resume=resume)


def process(recipe: Path, folder: Path, *, resume: bool) -> ForkServerProcess:
    """A process of its own, from a server that has everything imported: it begins at once."""
    context = server()
    return context.Process(target=carry_out, args=(str(recipe), str(folder), resume))


def server() -> ForkServerContext:
    # PyTorch takes its threads from here when the server imports it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["secateur.recipes", "sklearn.datasets", "tests.recipe_runs"])
    return context


def with_small_files(recipe: str, folder: str, tell: Connection) -> None:
    """A run that may write no file over 8 kB; what it raises goes to the other end."""
    import resource

    from secateur.errors import RecipeError
    from secateur.recipes import run_recipe

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        run_recipe(recipe, out=folder)
    except RecipeError as error:
        tell.send(str(error))
