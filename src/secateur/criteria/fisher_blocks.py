"""The empirical Fisher matrix in blocks along every parameter, and what its inverse says."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from secateur.criteria.means import each_sample_gradient
from secateur.observing.reading import Reading

__all__ = ["block_fisher", "inverted", "joint_update"]


def block_fisher(reading: Reading, names: Iterable[str], block: int) -> dict[str, Tensor]:
    """Mean of g gᵀ over samples, in blocks of consecutive entries of every parameter.

    Returns
    -------
    dict
        Parameter -> ``[blocks, block, block]``; one that no loss depends on is left out.
    """
    found: dict[str, Tensor] = {}

    def receive(name: str, gradient: Tensor) -> None:
        rows = in_blocks(gradient, block)
        if name not in found:
            found[name] = rows.new_zeros(len(rows), rows.shape[1], rows.shape[1])
        found[name].baddbmm_(rows[:, :, None], rows[:, None])

    done = each_sample_gradient(reading, names, receive)
    for total in found.values():
        total /= done
    return found


def in_blocks(tensor: Tensor, block: int) -> Tensor:
    """Entries in their order as ``[blocks, block]``, with zeros at the end."""
    flat = tensor.detach().reshape(-1)
    block = min(block, flat.numel())
    return functional.pad(flat, (0, -flat.numel() % block)).view(-1, block)


def inverted(fisher: Tensor, damp: float) -> Tensor:
    """Inverse of every block, in double precision, with `damp` on the diagonal."""
    damped = fisher.double()
    damped.diagonal(dim1=1, dim2=2).add_(damp)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def joint_update(weight: Tensor, gone: Tensor, inverse: Tensor) -> Tensor:
    """Zero everything that goes, and move the rest of every block to make up for it.

    Parameters
    ----------
    weight : Tensor
    gone : Tensor of bool, of its shape
    inverse : Tensor, shape [blocks, block, block]

    Examples
    --------
    With H = [[2, 1], [1, 2]], removing the weight 1 moves the other from 1.5 to 2:

    >>> inverse = torch.linalg.inv(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]))
    >>> joint_update(torch.tensor([1.0, 1.5]), torch.tensor([True, False]), inverse)
    tensor([0., 2.])
    """
    block = inverse.shape[1]
    values = in_blocks(weight, block).to(inverse.dtype)
    lost = in_blocks(gone.to(inverse.dtype), block)
    # Blocks lose different numbers of entries: what stays is out of the equations.
    system = inverse * lost[:, :, None] * lost[:, None] + torch.diag_embed(1 - lost)
    pull = torch.linalg.solve(system, (values * lost)[..., None])
    moved = values - (inverse @ pull)[..., 0]
    moved = torch.where(lost > 0, 0.0, moved)
    return moved.flatten()[: weight.numel()].view(weight.shape).to(weight.dtype)
