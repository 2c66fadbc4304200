"""Training that knows what 8 bits will do to weights and activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.attached import Computed, Target, as_units, compute_weights, find_targets
from secateur.errors import InputError
from secateur.quantization.grid import (
    ACTIVATION_LEVELS,
    LEVELS,
    REDUCED,
    activation_steps,
    on_grid,
    weight_steps,
)

__all__ = ["QuantizationAware", "quantize_aware"]

RANGE = "_secateur_range"


class _Rounded(nn.Module):
    """A weight on its grid, made anew from the plain one at every use."""

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.dim, self.levels = dim, levels

    def forward(self, plain: Tensor) -> Tensor:
        return on_grid(plain, weight_steps(plain, self.dim, self.levels), -self.levels, self.levels)


class _Observed:
    """A forward pre-hook that puts a layer's input on the grid of the range that it has had.

    The range is a buffer of the layer: what copies, averages or keeps the model has it, too.
    """

    def __init__(self, module: nn.Module, momentum: float) -> None:
        self.module, self.momentum = module, momentum
        module.register_buffer(RANGE, torch.full((2,), torch.nan), persistent=False)
        self._hook = module.register_forward_pre_hook(_put_on_grid(momentum))

    @property
    def range(self) -> tuple[float, float] | None:
        """Least and largest, or None as long as nothing came."""
        low, high = self.module.get_buffer(RANGE).tolist()
        return None if math.isnan(low) else (low, high)

    def remove(self) -> None:
        self._hook.remove()
        delattr(self.module, RANGE)


def _put_on_grid(momentum: float) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        first = args[0]
        if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
            return args
        held = module.get_buffer(RANGE)
        if module.training or bool(held.isnan().any()):
            seen = torch.stack(first.detach().aminmax()).to(held)
            # Into the buffer itself: whoever holds it goes on holding it.
            held.copy_(torch.where(held.isnan(), seen, held + (1 - momentum) * (seen - held)))
        low, high = held.tolist()
        step, zero = activation_steps(low, high)
        return (on_grid(first, step, -zero, ACTIVATION_LEVELS - zero), *args[1:])

    return hook


class QuantizationAware:
    """What `quantize_aware` returns: a model that computes as its integers will.

    Attributes
    ----------
    layers : list of str
        Weights that are rounded.
    skipped : list of (str, str)
        Those that are not, and why.
    """

    def __init__(
        self,
        computed: list[Computed],
        observed: dict[str, _Observed],
        skipped: list[tuple[str, str]],
    ) -> None:
        self.layers = [each.target.name for each in computed]
        self.skipped = skipped
        self._computed, self._observed = computed, observed

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Module path -> the range of its inputs so far."""
        return {name: each.range for name, each in self._observed.items() if each.range is not None}

    def finish(self) -> None:
        """Leave plain weights that lie on their grids, under the masks that they had.

        `secateur.export.quantize` then finds the same steps, and rounds nothing any more.
        """
        for observed in self._observed.values():
            observed.remove()
        for each in self._computed:
            each.fold()
        self._observed.clear()
        self._computed.clear()


def quantize_aware(
    model: nn.Module,
    *,
    ignore: Sequence[str | nn.Module] = (),
    activations: bool = True,
    reduce_range: bool = True,
    momentum: float = 0.9,
) -> QuantizationAware:
    """Let convolutions and linear layers compute with weights and inputs rounded to 8 bits.

    Train the model on, for an epoch or two at a small learning rate, and call ``finish()``. The
    weights that are trained stay in their own dtype; every use rounds them to even steps, symmetric
    around zero, in a range of its own for every output channel, and gradients pass the rounding
    (Jacob et al. 2018, arXiv 1712.05877). Zero is a step: masked weights stay exactly zero, and the
    steps are those of the weights that pruning left. Inputs are rounded in the range that they have
    had so far, which moves in training mode only.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place, until ``finish()``.
    ignore : sequence of str or Module
        Names, patterns or modules that are left alone.
    activations : bool, default True
        Round inputs as well.
    reduce_range : bool, default True
        Weights of 64 steps to either side instead of 127: as `secateur.export.quantize` does.
    momentum : float, default 0.9
        How much of a range stays at every batch.

    Returns
    -------
    QuantizationAware

    Raises
    ------
    InputError
        For a momentum out of range, or weights that are computed from others already.
    NothingToPruneError
        Where there is no such layer.

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.64, 0.0171]]))
    >>> aware = quantize_aware(layer, activations=False)
    >>> layer.weight
    tensor([[0.6400, 0.0200]], grad_fn=<AddBackward0>)
    >>> aware.finish()
    >>> layer.weight
    Parameter containing:
    tensor([[0.6400, 0.0200]], requires_grad=True)
    """
    if not 0 <= momentum < 1:
        raise InputError(f"momentum is a number from 0 to below 1, not {momentum!r}")
    targets, skipped = find_targets(model, as_units("element"), ignore)
    fit = []
    for target in targets:
        if isinstance(target.module, (nn.Linear, _ConvNd)):
            fit.append(target)
        else:
            kind = type(target.module).__name__
            skipped.append((target.name, f"{kind} is not computed in integers"))
    levels = REDUCED if reduce_range else LEVELS

    def rule(target: Target) -> nn.Module:
        return _Rounded(1 if getattr(target.module, "transposed", False) else 0, levels)

    computed, unfit = compute_weights(model, fit, rule)
    observed: dict[str, _Observed] = {}
    for each in computed if activations else []:
        name = each.target.name.rpartition(".")[0]
        observed[name] = _Observed(each.target.module, momentum)
    return QuantizationAware(computed, observed, [*skipped, *unfit])
