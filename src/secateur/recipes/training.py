"""The step ``finetune``."""

from __future__ import annotations

import dataclasses

from torch import nn

from secateur.progress import Tick
from secateur.quantization import quantize_aware
from secateur.recipes.outcome import Outcome
from secateur.recipes.steps import Finetune
from secateur.recipes.tasks import Task
from secateur.recipes.work import EVALUATION_BATCH, Work
from secateur.recover import recover

__all__ = ["finetune"]


def finetune(work: Work, task: Task, model: nn.Module, tick: Tick) -> Outcome:
    """Train the model in place; a run that was killed in here goes on after its last epoch."""
    options = task.options
    assert isinstance(options, Finetune)
    distill = options.distill
    # Two trainings of one run are not to see the same order and the same dropout.
    seed = work.recipe.seed + task.number if options.seed is None else options.seed
    given = options.quantize_aware
    aware = None if given is None else quantize_aware(model, **given.model_dump())
    history = recover(
        model,
        work.training(options.batch_size, seed=seed),
        validation=work.need_data().val.batches(EVALUATION_BATCH),
        teacher=None if distill is None else work.model_after(distill.teacher),
        distill=None if distill is None else distill.options,
        checkpoint=work.folder.checkpoints(task.name),
        progress=tick,
        seed=seed,
        accelerator=work.ranks.accelerator or False,
        **options.model_dump(exclude={"batch_size", "seed", "distill", "quantize_aware"}),
    )
    if aware is not None:
        aware.finish()
    epochs = [dataclasses.asdict(epoch) for epoch in history]
    metrics = [{"epoch": epoch.pop("number"), **epoch} for epoch in epochs]
    what = "" if aware is None else " in 8-bit steps"
    return Outcome(f"trained for {options.epochs} epochs{what}", metrics=metrics)
