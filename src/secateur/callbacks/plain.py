"""A plain loop: follow an optimizer, whoever calls it."""

from __future__ import annotations

from typing import Any

import torch

from secateur.errors import InputError
from secateur.regularizers import Regularizer
from secateur.schedules import Dynamic, Rewind

__all__ = ["Followers", "Part", "follow"]

Part = Regularizer | Dynamic | Rewind


class Followers:
    """Several methods in one: what is called before and after every update.

    Parameters
    ----------
    parts : Regularizer, Dynamic or Rewind
        Attached already; called in this order.

    Raises
    ------
    InputError
        For anything else.
    """

    def __init__(self, *parts: Part) -> None:
        for part in parts:
            if not isinstance(part, (Regularizer, Dynamic, Rewind)):
                raise InputError(
                    f"{type(part).__name__} is no regularizer and no dynamic method; make one "
                    "with sc.regularizer or sc.dynamic_sparsity"
                )
            if not hasattr(part, "model"):
                raise InputError(f"{part!r} is not attached; make it with its model first")
        self.parts = parts
        self._handles: list[Any] = []

    def before(self) -> None:
        """Add gradients; between ``backward`` and ``optimizer.step``."""
        for part in self.parts:
            if not isinstance(part, Rewind):
                part.add_gradients()

    def after(self, lr: float | None) -> None:
        """Follow the update; after ``optimizer.step``, before ``zero_grad``."""
        for part in self.parts:
            if isinstance(part, Regularizer):
                part.after_step(lr)
            else:
                part.step()

    def finish(self) -> None:
        """Stop following, and leave a model of plain weights."""
        self.stop()
        for part in reversed(self.parts):
            if not isinstance(part, Rewind):
                part.finish()

    def stop(self) -> None:
        """Stop following the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def follow(optimizer: torch.optim.Optimizer, *parts: Part) -> Followers:
    """Let methods follow every ``optimizer.step()``, so that the loop stays as it is.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Steps that are given a closure compute their gradients too late for this: call the methods
        yourself there. Proximal maps take the learning rate of the first parameter group.
    parts : Regularizer, Dynamic or Rewind

    Returns
    -------
    Followers
        Its `finish` ends it and folds what was changed into plain weights.

    Raises
    ------
    InputError

    Examples
    --------
    >>> from secateur.regularizers import regularizer
    >>> layer = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> followers = follow(optimizer, regularizer("l1:strength=10,proximal=True", layer))
    >>> layer(torch.zeros(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> layer.weight.abs().max().item()
    0.0
    >>> followers.finish()
    """
    followers = Followers(*parts)

    def before(engine: torch.optim.Optimizer, args: Any, options: Any) -> None:
        followers.before()

    def after(engine: torch.optim.Optimizer, args: Any, options: Any) -> None:
        followers.after(rate(engine))

    followers._handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]
    return followers


def rate(optimizer: Any) -> float | None:
    """The learning rate of an optimizer's first group."""
    groups = getattr(optimizer, "param_groups", None)
    return float(groups[0]["lr"]) if groups else None
