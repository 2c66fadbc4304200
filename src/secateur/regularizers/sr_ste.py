"""SR-STE: train N:M sparse weights from scratch, the mask made anew at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units
from secateur.attached.checks import checked
from secateur.errors import InputError
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.computing import Computing
from secateur.sparsity.nm import nm_mask

__all__ = ["SRSTE"]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plain: Tensor, mask: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(plain, mask)
        ctx.strength = strength
        return plain * mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        plain, mask = ctx.saved_tensors
        # Plus: descent then shrinks what is masked.
        return grad + ctx.strength * plain * ~mask, None, None


class _Rule(nn.Module):
    def __init__(self, target: Target, keep: int, of: int, strength: float) -> None:
        super().__init__()
        self.weight, self.keep, self.of, self.strength = target.weight, keep, of, strength

    def forward(self, plain: Tensor) -> Tensor:
        with torch.no_grad():
            scores = self.weight.canonical(plain).abs()
            mask = self.weight.stored(nm_mask(scores, self.keep, self.of))
        result: Tensor = _Masked.apply(plain, mask, self.strength)
        return result


@REGULARIZERS.register("sr_ste")
class SRSTE(Computing):
    """N:M sparse training, forward w ⊙ mask, backward g + λ (1 − mask) ⊙ w (arXiv:2102.04010).

    Zhou et al. 2021: the mask keeps the N largest of every M inputs and is made anew at every
    forward pass; the gradient goes straight through, and masked weights decay, which keeps the
    mask from changing all the time. Runs go along the inputs at a fixed kernel position. `finish`
    leaves weights that are N:M sparse.

    Parameters
    ----------
    keep, of : int, default 2 and 4
        N of M stay.
    strength : float, default 2e-4
        λ; the paper's value.

    Notes
    -----
    The decay is part of ``backward``: once for every use of a weight in it. Weights whose inputs
    do not divide by M are skipped, as hardware skips them.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(4, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[4.0, 1.0, -3.0, 2.0]]))
    >>> reg = SRSTE(strength=0.1).attach(layer)
    >>> layer(torch.ones(1, 4)).sum().backward()
    >>> reg.computed[0].plain.grad
    tensor([[1.0000, 1.1000, 1.0000, 1.2000]])
    >>> reg.finish()
    >>> layer.weight.tolist()
    [[4.0, 0.0, -3.0, 0.0]]
    """

    name = "sr_ste"
    units = as_units("element")

    def __init__(self, keep: int = 2, of: int = 4, strength: float = 2e-4) -> None:
        self.keep = int(checked(self.name, "keep", keep, low=1))
        self.of = int(checked(self.name, "of", of, low=2))
        if self.keep > self.of:
            raise InputError(f"sr_ste: cannot keep {keep} of {of}")
        self.strength = checked(self.name, "strength", strength)

    def fits(self, target: Target) -> str | None:
        inputs = target.weight.canonical_shape[1]
        return f"its {inputs} inputs do not divide by {self.of}" if inputs % self.of else None

    def rule(self, target: Target) -> nn.Module:
        return _Rule(target, self.keep, self.of, self.strength)

    def penalty(self) -> Tensor:
        """Nothing to add: the decay is in the backward pass."""
        return torch.zeros(())
