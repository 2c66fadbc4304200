"""Joint training: gates alone at first, then with the model, while the density falls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from secateur.dynamic.gated import Gated
from secateur.errors import InputError
from secateur.observing.batches import Loss, batch_loss, default_loss
from secateur.recover import recover
from secateur.recover.history import History

__all__ = ["Objective", "train"]

# Options of the joint training alone: the warm-up is too short to be interrupted or stopped.
ONCE = {"checkpoint", "patience"}


class Objective:
    """The loss of the task and that of the gates, for `secateur.recover` or a loop of one's own.

    Without gradients (validation) it is the loss of the task alone.

    Parameters
    ----------
    gated : Gated
    loss : callable, optional
        ``loss(output, targets)``; by default as in `secateur.recover`.
    weight : float, default 1.0
        How much the gate loss counts.

    Examples
    --------
    >>> import secateur as sc
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> gated = sc.dynamic.gate(net, torch.zeros(1, 4))
    >>> objective = Objective(gated, weight=2.0)
    >>> inputs, targets = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    >>> outputs = net(inputs)
    >>> both = objective(outputs, targets)
    >>> task = nn.functional.cross_entropy(outputs, targets)
    >>> torch.allclose(both, task + 2.0 * gated.loss())
    True
    """

    def __init__(self, gated: Gated, loss: Loss | None = None, weight: float = 1.0) -> None:
        self.gated, self.loss, self.weight = gated, loss, weight

    def __call__(self, output: Any, targets: Any) -> Tensor:
        if not torch.is_grad_enabled():
            alone = default_loss if self.loss is None else self.loss
            return alone(output, targets)
        return batch_loss(output, targets, self.loss) + self.weight * self.gated.loss()


def train(
    gated: Gated,
    train_batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    epochs: int = 10,
    warmup: int = 0,
    anneal: float = 0.5,
    weight: float = 1.0,
    lr: float = 0.01,
    gate_lr: float | None = None,
    **options: Any,
) -> History:
    """Train a gated model and its gates together, in place.

    Parameters
    ----------
    gated : Gated
    train_batches : iterable
        As for `secateur.recover`.
    loss : callable, optional
        Of the task: ``loss(output, targets)``.
    epochs : int, default 10
        Of the joint training, after the warm-up.
    warmup : int, default 0
        Epochs before, in which the gates learn alone and the model stays as it is: from the
        outputs that gates open, not from where random ones would push the weights.
    anneal : float, default 0.5
        The share of the joint training in which the density falls linearly from 1 to its target,
        in [0, 1]. Afterwards it stays there.
    weight : float, default 1.0
        How much the gate loss counts.
    lr : float, default 0.01
        Peak learning rate of the model.
    gate_lr : float, optional
        That of the gates; by default the same.
    **options
        Of `secateur.recover`: ``teacher=`` for distillation (usually a copy from before gating),
        ``momentum``, ``weight_decay``, ``validation``, ``checkpoint`` and so on. With ``gate_lr``
        an ``optimizer=`` of one's own is an error.

    Returns
    -------
    History
        The epochs of warm-up and joint training, one after the other. Losses have the gate loss
        in them.

    Raises
    ------
    InputError
        For an argument out of range, batches without a length, and all that `secateur.recover`
        raises.

    Examples
    --------
    >>> import secateur as sc
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    >>> inputs = torch.randn(64, 4)
    >>> batches = [(inputs, (inputs[:, 0] > 0).long())] * 10
    >>> gated = sc.dynamic.gate(net, inputs, density=0.5)
    >>> history = train(gated, batches, epochs=20, lr=0.05)
    >>> abs(gated.measure([inputs]).density - 0.5) < 0.1
    True
    """
    if not isinstance(train_batches, Sized) or not len(train_batches):
        raise InputError("train_batches must have a length above 0; pass a list or a DataLoader")
    if not 0 <= anneal <= 1:
        raise InputError(f"anneal is a share of the training, 0 to 1, not {anneal}")
    if not isinstance(warmup, int) or warmup < 0:
        raise InputError(f"warmup is a number of epochs, not {warmup!r}")
    if weight < 0:
        raise InputError(f"weight must be a number of at least 0, not {weight}")
    if gate_lr is not None and isinstance(options.get("optimizer"), torch.optim.Optimizer):
        raise InputError("gate_lr needs an optimizer by name; put the rates into your own")
    objective = Objective(gated, loss, weight)
    history = History()
    if warmup:
        rate = lr if gate_lr is None else gate_lr
        early = {key: value for key, value in options.items() if key not in ONCE}
        with _gates_alone(gated):
            first = recover(gated.model, train_batches, objective, epochs=warmup, lr=rate, **early)
        history.epochs += first.epochs
    gated.anneal(round(anneal * epochs * len(train_batches)), start=1.0)
    if gate_lr is not None:
        options["optimizer"] = _engine(gated, lr, gate_lr, options)
    joint = recover(gated.model, train_batches, objective, epochs=epochs, lr=lr, **options)
    history.epochs += joint.epochs
    history.best = joint.best
    return history


@contextmanager
def _gates_alone(gated: Gated) -> Iterator[None]:
    """Only the gates move, towards a density of 1; their targets come back afterwards."""
    targets = [float(gate.pace[1]) for gate in gated.gates]
    own = {id(each) for gate in gated.gates for each in gate.parameters()}
    others = [each for each in gated.model.parameters() if id(each) not in own]
    moved = [each.requires_grad for each in others]
    try:
        for each in others:
            each.requires_grad_(False)
        for gate in gated.gates:
            gate.head_for(1.0)
        yield
    finally:
        for each, was in zip(others, moved, strict=True):
            each.requires_grad_(was)
        for gate, target in zip(gated.gates, targets, strict=True):
            gate.head_for(target)


def _engine(
    gated: Gated, lr: float, gate_lr: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer that `recover` would make, with a rate of their own for gates."""
    own = {id(each): each for gate in gated.gates for each in gate.parameters()}
    others = [
        each for each in gated.model.parameters() if each.requires_grad and id(each) not in own
    ]
    decay = options.get("weight_decay", 5e-4)
    groups = [
        {"params": [each for each in others if each.ndim > 1], "lr": lr, "weight_decay": decay},
        {"params": [each for each in others if each.ndim <= 1], "lr": lr, "weight_decay": 0.0},
        {"params": list(own.values()), "lr": gate_lr, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.get("optimizer") == "adamw":
        return torch.optim.AdamW(groups)
    momentum = options.get("momentum", 0.9)
    return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0)
