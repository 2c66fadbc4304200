"""The numbers that 8 bits hold: even steps, one of them exactly zero."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ACTIVATION_LEVELS", "LEVELS", "REDUCED", "activation_steps", "on_grid", "weight_steps"]

LEVELS = 127
"""Steps to either side of zero in 8 bits; the 128th below is left out, so that both sides agree."""
REDUCED = 64
"""Steps that do not overflow on x86 processors without VNNI, as ONNX Runtime takes them."""
ACTIVATION_LEVELS = 255
"""Steps of an unsigned integer."""


def weight_steps(weight: Tensor, dim: int, levels: int) -> Tensor:
    """The step of every output channel: its largest magnitude over the number of steps.

    Zero is a step, so that zeros stay zeros. After pruning the largest magnitude may be another
    one, and the steps follow.

    Parameters
    ----------
    weight : Tensor
    dim : int
        Of the output channels.
    levels : int

    Returns
    -------
    Tensor
        With as many dimensions as the weight, 1 in all but ``dim``.

    Examples
    --------
    >>> weight_steps(torch.tensor([[0.0, -1.27], [2.54, 0.0]]), 0, 127)
    tensor([[0.0100],
            [0.0200]])
    """
    others = [axis for axis in range(weight.ndim) if axis != dim]
    largest = weight.detach().abs().amax(others, keepdim=True) if others else weight.detach().abs()
    # A channel of zeros has any step.
    return torch.where(largest > 0, largest, torch.ones_like(largest)) / levels


def activation_steps(low: float, high: float) -> tuple[float, int]:
    """Step and zero point of unsigned integers from ``low`` to ``high``, zero within.

    Examples
    --------
    >>> activation_steps(0.0, 2.55)
    (0.01, 0)
    >>> activation_steps(-1.0, 1.0)[1]
    128
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / ACTIVATION_LEVELS or 1.0
    return step, round(-low / step)


def on_grid(values: Tensor, step: Tensor | float, low: int, high: int) -> Tensor:
    """Round to steps from ``low`` to ``high``; gradients pass as if nothing was done within them.

    Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877.

    Examples
    --------
    >>> x = torch.tensor([0.26, -9.0], requires_grad=True)
    >>> y = on_grid(x, 0.1, -10, 10)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([0.3, -1.0], [1.0, 0.0])
    """
    steps = torch.as_tensor(step, dtype=values.dtype, device=values.device)
    inside = values.clamp(low * steps, high * steps)
    rounded = (inside.detach() / steps).round() * steps
    return inside + (rounded - inside.detach())
