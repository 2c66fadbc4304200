"""What a weight multiplies, as the rows of a matrix: convolutions as the products they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from secateur.observing.watching import Product
from secateur.weights import Storage, Weight

__all__ = ["parameter_shape", "places_of", "rows_of", "samples_of", "step_of", "weight_of"]

# Entries of a piece: 64 MB in single precision.
PIECE = 1 << 24


def weight_of(seen: Product, name: str) -> Weight:
    """How a parameter takes part in a product: which of its dimensions are outputs and inputs."""
    if seen.node.op == "aten::convolution":
        bound = seen.node.bound
        storage: Storage = "inputs first" if bound["transposed"] else "outputs first"
        return Weight(name, tuple(seen.weight.shape), storage, bound["groups"])
    shape = parameter_shape(seen)
    return Weight(
        name, tuple(shape), "outputs first" if seen.first != seen.turned else "inputs first"
    )


def parameter_shape(seen: Product) -> torch.Size:
    """The shape of the weight as the parameter stores it."""
    if seen.node.op == "aten::convolution":
        return seen.weight.shape
    matrix = seen.weight.shape[-2:]
    return torch.Size(reversed(matrix)) if seen.turned else matrix


def step_of(seen: Product) -> int:
    """How many samples of a convolution, or rows of a product, make a piece of good size."""
    if seen.node.op == "aten::convolution":
        # Every input is met about once per kernel position and output position.
        kernel = seen.weight.shape[2:]
        return max(1, PIECE // max(_batched(seen)[0].numel() * kernel.numel(), 1))
    return max(1, PIECE // max(seen.given.shape[-2 if seen.first else -1], 1))


def samples_of(seen: Product) -> int:
    """How many samples a convolution is given."""
    return len(_batched(seen))


def places_of(seen: Product, rows: int, most: int | None, seed: int) -> Tensor | None:
    """Some output positions of a convolution, drawn at random; None for all of them.

    Parameters
    ----------
    seen : Product
    rows : int
        Output positions of all its samples.
    most : int or None
        How many to draw for every sample.
    seed : int
    """
    if most is None or seen.node.op != "aten::convolution":
        return None
    count = rows // samples_of(seen)
    if count <= most:
        return None
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return drawn[:most].sort().values.to(seen.given.device)


def rows_of(
    seen: Product, step: int | None = None, places: Tensor | None = None
) -> Iterator[Tensor]:
    """What a weight is multiplied with, one row per output position, in pieces.

    With ``W`` the weight as ``[groups, outputs of a group, kernel positions * inputs]``, kernel
    positions outer and inputs inner (`Weight.matrix`), the product without its bias is
    ``einsum("ngd,god->ngo", rows, W)``.

    Parameters
    ----------
    seen : Product
        A matrix product or a convolution of one, two or three dimensions, transposed or not.
    step : int, default `step_of` it
        Samples of a convolution, or rows of a product, that make a piece.
    places : Tensor of int, default all
        Output positions of a convolution that count (`places_of`).

    Yields
    ------
    Tensor, shape [rows, groups, kernel positions * inputs of a group]
    """
    step = step or step_of(seen)
    if seen.node.op == "aten::convolution":
        yield from _of_convolution(seen, step, places)
        return
    given = seen.given.detach()
    if seen.first:
        given = given.transpose(-1, -2)
    yield from given.reshape(-1, 1, given.shape[-1]).split(step)


def _batched(seen: Product) -> Tensor:
    given = seen.given.detach()
    return given[None] if given.ndim == seen.weight.ndim - 1 else given


def _of_convolution(seen: Product, step: int, places: Tensor | None) -> Iterator[Tensor]:
    kernel, groups = seen.weight.shape[2:], seen.node.bound["groups"]
    for samples in _batched(seen).split(step):
        met = _unfolded(seen, samples, kernel)
        if places is not None:
            met = met[..., places]
        # [samples, groups, inputs, kernel positions, output positions]
        met = met.reshape(len(samples), groups, samples.shape[1] // groups, kernel.numel(), -1)
        yield met.permute(0, 4, 1, 3, 2).flatten(3).flatten(0, 1)


def _unfolded(seen: Product, given: Tensor, kernel: torch.Size) -> Tensor:
    """What every kernel position meets: ``[samples, inputs * kernel positions, positions]``."""
    bound = seen.node.bound
    if len(kernel) <= 2 and not bound["transposed"]:
        options = {key: tuple(bound[key]) for key in ("dilation", "padding", "stride")}
        if len(kernel) == 1:
            given = given.unsqueeze(2)
            options = {
                key: (0 if key == "padding" else 1, *value) for key, value in options.items()
            }
        size = (1, *kernel) if len(kernel) == 1 else tuple(kernel)
        return functional.unfold(given, size, **options)
    # A kernel that is one at one position and zero elsewhere picks what that position meets.
    channels, places = given.shape[1], kernel.numel()
    pick = torch.eye(places, dtype=given.dtype, device=given.device).view(places, *kernel)
    if bound["transposed"]:
        pick = pick.expand(channels, *pick.shape)
    else:
        pick = pick.repeat(channels, *(1 for _ in kernel)).unsqueeze(1)
    met = torch.ops.aten.convolution(
        given,
        pick.contiguous(),
        None,
        bound["stride"],
        bound["padding"],
        bound["dilation"],
        bound["transposed"],
        bound["output_padding"],
        channels,
    )
    return met.flatten(2)
