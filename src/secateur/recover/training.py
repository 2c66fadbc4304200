"""Winning the accuracy back: a training loop."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from secateur.engines.fingerprint import fingerprint
from secateur.errors import InputError
from secateur.observing.batches import Loss
from secateur.observing.standins import all_seeded
from secateur.ranks import found_ranks
from secateur.recover.checkpoint import Checkpoint, described_model
from secateur.recover.contents import channels_last as channels_last_inside
from secateur.recover.distillation import Distillation, as_distillation
from secateur.recover.history import History
from secateur.recover.loop import Loop, Progress
from secateur.recover.optimizers import Rates, make_optimizer
from secateur.recover.settings import Settings
from secateur.recover.spreading import Spread, check_sharded, placed
from secateur.recover.stepping import Stepper
from secateur.recover.teaching import Teaching

__all__ = ["recover"]


def recover(
    model: nn.Module,
    train_batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    epochs: int = 10,
    lr: float = 0.01,
    optimizer: str | torch.optim.Optimizer = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "cosine",
    warmup: float = 0.0,
    clip_norm: float | None = None,
    accumulate: int = 1,
    teacher: nn.Module | None = None,
    distill: Distillation | Mapping[str, Any] | None = None,
    recalibrate: bool | int = True,
    ema: float | None = None,
    validation: Iterable[Any] | None = None,
    patience: int | None = None,
    autocast: bool = False,
    channels_last: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    accelerator: Any = None,
) -> History:
    """Train a model in place, to win back what pruning cost.

    Masks stay on: their gradients are masked before every step and their weights after it, so
    that zeros outlast momentum, weight decay, adaptive optimizers and averages.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place; only parameters with ``requires_grad`` move. It runs in training mode
        and every module's mode is restored at the end. Gradients are cleared.
    train_batches : iterable
        Gone through once an epoch, so it must be re-iterable (a list, a `DataLoader`,
        `secateur.data.Batches`). Pairs ``(inputs, targets)``, or dicts of keyword inputs,
        ``"labels"`` among them. They are moved to the model's device.
    loss : callable, optional
        ``loss(output, targets)``, a mean over the batch. By default the output's own ``.loss``
        for a dict, else cross-entropy.
    epochs : int
        Passes over the batches.
    lr : float
        Peak learning rate. The default is a tenth of 0.1, the usual rate of SGD for image
        classifiers: fine-tuning takes a tenth to a hundredth of the original training's peak
        (Han et al. 2015, arXiv:1506.02626, take those for AlexNet and VGG-16), since the weights
        that are left are near a good place that larger steps would leave again. 2:4 sparsity is
        the exception: its recipe repeats the original rates (Mishra et al. 2021,
        arXiv:2104.08378).
    optimizer : {"sgd", "adamw"} or torch.optim.Optimizer
        SGD with Nesterov momentum, AdamW (whose usual rates are a tenth to a hundredth of
        SGD's), or an optimizer of your own, used as it is but for the schedule; then ``lr``,
        ``momentum`` and ``weight_decay`` are not looked at.
    momentum : float
        Of SGD.
    weight_decay : float
        For weights of two and more dimensions: biases and norms are not decayed.
    schedule : {"cosine", "constant"}
        Cosine annealing to zero over all steps (Loshchilov and Hutter 2017), or none.
    warmup : float
        Fraction of all steps in which the rate rises linearly to its peak, 0 to 1.
    clip_norm : float, optional
        Largest total gradient norm.
    accumulate : int
        Batches whose gradients make one step. Each counts by its number of examples, so that the
        step is that of one large batch (but for batch norms, which see one batch at a time), also
        where batches, or the last group of an epoch, are smaller.
    teacher : torch.nn.Module, optional
        A model to learn from, usually the dense one. It runs in eval mode without gradients, and
        is as before afterwards.
    distill : Distillation or dict, optional
        What is learned from it, and how much it counts; see `Distillation`.
    recalibrate : bool or int
        Take the running statistics of batch norms anew, from up to 50 batches or this many:
        before training, since pruning has shifted them, and for averaged weights, before they are
        evaluated and returned (Li et al. 2020, arXiv:2007.02491). During training every step
        moves them along. An iterator as ``train_batches`` is left out, unless a number is given,
        which is an error.
    ema : float, optional
        Decay of an exponential moving average of the weights, such as 0.999. The averaged weights
        are what ``validation`` sees and what the model holds at the end. Step t decays by no more
        than (1 + t) / (10 + t), so that short runs do not average the start in.
    validation : iterable, optional
        Batches to evaluate on after every epoch.
    patience : int, optional
        Stop after so many epochs in a row without a better one, and give the model the weights of
        the best. Better is a higher validation accuracy, of equal ones the lower loss, and the
        lower loss where there is no accuracy. Needs ``validation``.
    autocast : bool
        Run forward passes in bfloat16 where PyTorch deems it safe; weights stay as they are.
    channels_last : bool
        Lay images and the weights of convolutions out with channels innermost while training.
    checkpoint : path-like, optional
        A folder for one file, written whole after every epoch, with the weights, the optimizer's
        state, averages, best weights and the state of all random generators. The same call finds
        it and goes on from there, to the same bits as a run without interruption; once it is
        complete, it gives them at once. Nothing in it is pickled.
    progress : callable, optional
        ``progress(done, total, text)`` after every step.
    seed : int
        Seed of the generators of PyTorch, Python and NumPy inside (dropout, augmentation); their
        state outside is restored.
    accelerator : accelerate.Accelerator or False, optional
        The processes to train in, by default those that ``accelerate launch`` or ``torchrun``
        started this one among; False trains in this one alone. Every process makes the same call
        with the same data, and computes its rows of every batch: a step is that of one process
        with the same batches, but for rounding and dropout. The first process alone writes
        checkpoints and tells progress. Launched for FSDP, steps run on shards of weights,
        gradients and moments; without ``ema``, features and an optimizer of your own.

    Returns
    -------
    History
        Loss, accuracy, learning rate and time of every epoch.

    Raises
    ------
    InputError
        When nothing can be trained, there are no batches, an argument is out of range, the
        model rejects a batch, the teacher does not fit the model, the checkpoint is of another
        run or cannot be written, or the loss is not finite. Until the first step, the model is
        as it was; afterwards its weights are those of the last step, in shards of the last epoch.
    RankError
        When another process failed.
    UnknownNameError
        For an unknown optimizer, schedule, module or option of ``distill``.
    FileFormatError
        When the checkpoint is damaged.

    Notes
    -----
    For an exact resume the data must be the same again: generators that samplers and transforms
    hold are found and restored, samplers with ``set_epoch`` are told the epoch; what an
    `IterableDataset` or persistent workers keep to themselves is not.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> inputs = torch.randn(64, 2)
    >>> batches = [(inputs, (inputs[:, 0] > 0).long())]
    >>> history = recover(nn.Linear(2, 2), batches, epochs=30, lr=0.5)
    >>> history[-1].accuracy > 0.95
    True
    """
    settings = Settings(
        epochs, lr, optimizer, momentum, weight_decay, schedule, warmup, clip_norm, accumulate,
        recalibrate, ema, patience, autocast, channels_last, seed,
    )  # fmt: skip
    ranks = found_ranks(accelerator)
    if ranks.size > 1 and ranks.accelerator.mixed_precision == "bf16":
        settings = dataclasses.replace(settings, autocast=True)
    with ExitStack() as stack:
        with ranks.joined("the start of training"):
            settings.check_batches(train_batches, validation)
            stack.enter_context(placed(ranks, model, teacher))
            engine = make_optimizer(model, settings)
            teaching = None
            if teacher is not None:
                teaching = Teaching(model, teacher, as_distillation(distill))
            elif distill is not None:
                raise InputError("distill needs teacher=, the model to learn from")
            if ranks.sharded:
                check_sharded(model, settings, teaching is not None and bool(teaching.features))
            about = {}
            if ranks.size > 1 or checkpoint is not None:
                about = _about(model, settings, loss, train_batches, validation, teaching)
            kept = None
            if checkpoint is not None:
                _check_followed(engine)
                kept = Checkpoint(checkpoint, about)
        if ranks.size > 1:
            for what, value in {**about, "weights": fingerprint(model)[:16]}.items():
                ranks.same(what, value, "make the same call in every process")
        if teaching is not None:
            stack.enter_context(teaching.ready())
        stack.enter_context(_training(model, seed))
        stack.enter_context(channels_last_inside(model, channels_last))
        spread = Spread(model, ranks, seed)
        if ranks.sharded:
            engine = make_optimizer(spread.network, settings)
        rates = Rates(engine, schedule, warmup)
        stack.enter_context(rates.restored())
        stepper = Stepper(model, loss, engine, settings, teaching, spread)
        loop = Loop(stepper, rates, train_batches, loss, validation, teaching, progress)
        history = loop.run(kept)
    engine.zero_grad(set_to_none=True)
    return history


def _about(
    model: nn.Module,
    settings: Settings,
    loss: Loss | None,
    train_batches: Iterable[Any],
    validation: Iterable[Any] | None,
    teaching: Teaching | None,
) -> dict[str, Any]:
    """What decides the result of a run, apart from the data itself."""
    function = None if loss is None else getattr(loss, "__qualname__", type(loss).__qualname__)
    return {
        "model": described_model(model),
        **settings.described(),
        "loss": function,
        "teacher": None if teaching is None else teaching.described(),
        "number of training batches": _length(train_batches),
        "number of validation batches": None if validation is None else _length(validation),
    }


def _length(batches: Iterable[Any]) -> int | str:
    return len(batches) if isinstance(batches, Sized) else "unknown"


def _check_followed(engine: torch.optim.Optimizer) -> None:
    """Refuse methods whose own state would be missing from the checkpoint."""
    hooks = (engine._optimizer_step_pre_hooks, engine._optimizer_step_post_hooks)
    if any(hooks):
        raise InputError(
            "the optimizer is followed by hooks (sc.follow), whose state a checkpoint of recover "
            "does not hold; train without checkpoint="
        )


@contextmanager
def _training(model: nn.Module, seed: int) -> Iterator[None]:
    """Training mode with gradients and seeded generators; all three restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with all_seeded(seed), torch.enable_grad():
            model.train()
            yield
    finally:
        for module, training in modes:
            module.training = training
