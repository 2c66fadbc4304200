"""Regularizers with a proximal map: a subgradient before the step, or the exact map after it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from secateur.attached.checks import checked
from secateur.regularizers.base import Regularizer, learning_rate

__all__ = ["Proximal", "soft_threshold"]


class Proximal(Regularizer):
    """Base of those: with `proximal` the map follows every step, and no gradient is added.

    Parameters
    ----------
    strength : float
        λ.
    proximal : bool
        Then `after_step` needs the learning rate η, and `add_gradients` adds nothing.
    """

    def __init__(self, strength: float, proximal: bool) -> None:
        self.strength = checked(self.name, "strength", strength)
        self.proximal = bool(proximal)

    @abstractmethod
    def shrink(self, step: float) -> None:
        """Apply the map of a step ηλ to what is pressed on; called without gradients."""

    def add_gradients(self) -> None:
        if not self.proximal:
            super().add_gradients()

    def after_step(self, lr: float | None = None) -> None:
        if self.proximal:
            step = learning_rate(self.name, lr) * self.strength
            with torch.no_grad():
                self.shrink(step)
        super().after_step(lr)


def soft_threshold(values: Tensor, step: float) -> Tensor:
    r"""The proximal map of L1, sign(v) max(\|v\| − step, 0).

    Examples
    --------
    >>> soft_threshold(torch.tensor([1.0, -0.25, -2.0]), 0.5)
    tensor([ 0.5000,  0.0000, -1.5000])
    """
    # Adding zero turns the minus zero of a negative value into zero.
    return values.sign() * (values.abs() - step).clamp_min(0.0) + 0.0
