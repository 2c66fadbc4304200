"""What a gate decided for a batch, and how gradients get past a choice of zero or one."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

__all__ = ["Decision", "at_least_one", "gumbel_sigmoid", "openness", "straight_through"]


@dataclasses.dataclass(eq=False)
class Decision:
    """Which units are open for each example.

    Attributes
    ----------
    open : Tensor
        ``[examples, units]``, exactly 0 or 1; gradients reach the gate through it.
    rate : Tensor
        ``[examples, units]``: the openness that losses look at, with gradients. Without the noise
        of training, so that what is driven to the target is what inference will do.
    scale : Tensor or None
        ``[examples, units]``: what open units are multiplied by; None for 1.
    """

    open: Tensor
    rate: Tensor
    scale: Tensor | None = None


def straight_through(logits: Tensor) -> Tensor:
    """Open where the logit is positive; gradients as of its sigmoid.

    Bengio et al. 2013 (arXiv:1308.3432).

    Parameters
    ----------
    logits : Tensor

    Returns
    -------
    Tensor
        0 or 1, of the same shape.

    Examples
    --------
    >>> logits = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> opened = straight_through(logits)
    >>> opened.tolist()
    [0.0, 1.0]
    >>> opened.sum().backward()
    >>> torch.allclose(logits.grad, logits.sigmoid() * (1 - logits.sigmoid()))
    True
    """
    if not torch.is_grad_enabled():
        return (logits > 0).to(logits.dtype)
    soft = logits.sigmoid()
    return (logits > 0).to(soft.dtype) + (soft - soft.detach())


def openness(logits: Tensor) -> Tensor:
    """Open where the logit is positive; gradients of a line of the sigmoid's steepest slope.

    For losses that pull at gates: the pull does not fade where a gate is far open.

    Examples
    --------
    >>> logits = torch.tensor([-9.0, 9.0], requires_grad=True)
    >>> opened = openness(logits)
    >>> opened.sum().backward()
    >>> opened.tolist(), logits.grad.tolist()
    ([0.0, 1.0], [0.25, 0.25])
    """
    if not torch.is_grad_enabled():
        return (logits > 0).to(logits.dtype)
    line = 0.25 * logits
    return (logits > 0).to(line.dtype) + (line - line.detach())


def gumbel_sigmoid(logits: Tensor, temperature: float) -> Tensor:
    """Open where the logit and noise are positive together; gradients as of the soft sample.

    ``s = sigmoid((logit + g1 - g2) / temperature)`` with Gumbel noise, forward ``s > 0.5``
    (Jang et al. 2017, arXiv:1611.01144).

    Parameters
    ----------
    logits : Tensor
    temperature : float
        Above 0.

    Returns
    -------
    Tensor
        0 or 1, of the same shape, drawn from PyTorch's generator.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> gumbel_sigmoid(torch.zeros(10_000), 1.0).mean().item()
    0.50...
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    # The difference of two Gumbel variables is logistic.
    noise = uniform.log() - (-uniform).log1p()
    return straight_through((logits + noise) / temperature)


def at_least_one(opened: Tensor, logits: Tensor) -> Tensor:
    """Open the most wanted unit of an example that would have none.

    Examples
    --------
    >>> logits = torch.tensor([[-3.0, -1.0], [2.0, -1.0]])
    >>> at_least_one(straight_through(logits), logits).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if not torch.is_grad_enabled():
        return opened.scatter(1, logits.argmax(1, keepdim=True), 1.0)
    best = torch.zeros_like(opened).scatter(1, logits.detach().argmax(1, keepdim=True), 1.0)
    return torch.maximum(opened, best)
