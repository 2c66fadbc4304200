"""Second moments of what weights multiply: all that layer-wise methods need to know of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.observing.patches import parameter_shape, places_of, rows_of, weight_of
from secateur.observing.reading import Reading
from secateur.observing.standins import forward, standing_in
from secateur.observing.watching import Product, Watcher
from secateur.weights import Weight

__all__ = ["Moments", "second_moments"]


@dataclasses.dataclass
class Moments:
    """Sums over data, whose size does not grow with the data's.

    Attributes
    ----------
    inputs : Tensor, shape [groups, d, d]
        Sum of x xᵀ, with x a row of what the weight multiplies (`rows_of`).
    rows : int
        How many rows went in.
    cross : Tensor, shape [groups, d, outputs of a group], or None
        Sum of x yᵀ, with y what the weight's product was meant to be.
    squares : Tensor, shape [groups, outputs of a group], or None
        Sum of y².
    weight : Weight or None
        Whose they are.
    """

    inputs: Tensor
    rows: int = 0
    cross: Tensor | None = None
    squares: Tensor | None = None
    weight: Weight | None = None

    @classmethod
    def of(cls, x: Tensor, y: Tensor | None = None, weight: Weight | None = None) -> Moments:
        """Moments of nothing yet, of the sizes that these rows have."""
        groups, width = x.shape[1:]
        new = cls(x.new_zeros(groups, width, width), weight=weight)
        if y is not None:
            new.cross = x.new_zeros(groups, width, y.shape[-1])
            new.squares = x.new_zeros(groups, y.shape[-1])
        return new

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Take rows in: ``x [n, groups, d]``, and what they were meant to give."""
        columns = x.permute(1, 2, 0)
        self.inputs.baddbmm_(columns, x.transpose(0, 1))
        self.rows += len(x)
        if y is not None:
            assert self.cross is not None and self.squares is not None
            self.cross.baddbmm_(columns, y.transpose(0, 1))
            self.squares += y.square().sum(0)

    def error(self, weight: Tensor) -> float:
        """Share of the wanted outputs' energy that a weight misses: E‖y − W x‖² / E‖y‖².

        Parameters
        ----------
        weight : Tensor, shape [groups, outputs of a group, d]

        Examples
        --------
        >>> x = torch.eye(2)[:, None]
        >>> moments = Moments.of(x, x)
        >>> moments.add(x, x)
        >>> moments.error(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
        0.5
        """
        assert self.cross is not None and self.squares is not None
        weight = weight.double()
        cross, inputs = self.cross.double(), self.inputs.double()
        energy = float(self.squares.double().sum())
        missed = energy - 2 * float((weight.transpose(1, 2) * cross).sum())
        missed += float(((weight @ inputs) * weight).sum())
        return max(missed, 0.0) / energy if energy > 0 else 0.0


def second_moments(
    reading: Reading, names: Iterable[str], asks: str, positions: int | None = None
) -> dict[str, Moments]:
    """Stream the data once; moments of what every weight multiplies.

    Parameters
    ----------
    reading : Reading
    names : iterable of str
        Parameters.
    asks : str
        Who asks, for messages.
    positions : int, optional
        Output positions of a convolution that count, of every sample, drawn at random; default
        all.

    Raises
    ------
    InputError
        For a parameter that no plain product or convolution uses.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> found = second_moments(Reading(layer, [(torch.eye(2), None)]), ["weight"], "example")
    >>> found["weight"].inputs, found["weight"].rows
    (tensor([[[1., 0.],
             [0., 1.]]]), 2)
    """
    names = list(names)
    parameters = dict(reading.model.named_parameters())
    found: dict[str, Moments] = {}

    def product(seen: Product, result: Any) -> None:
        if seen.node.op == "aten::embedding":
            return
        wanted = [n for n in seen.names if parameter_shape(seen) == parameters[n].shape]
        if not wanted:
            return
        rows = result.numel() // weight_of(seen, "").canonical_shape[0]
        # Other places in every batch.
        drawn = found[wanted[0]].rows if wanted[0] in found else 0
        places = places_of(seen, rows, positions, reading.seed + drawn)
        for x in rows_of(seen, places=places):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            for name in wanted:
                if name not in found:
                    found[name] = Moments.of(x, weight=weight_of(seen, name))
                found[name].add(x)

    with standing_in(reading.model, reading.seed) as stand_ins, torch.no_grad():
        for inputs, _ in reading.batches():
            watcher = Watcher(reading.model, inputs, names, product, stand_ins=stand_ins)
            with watcher.watching():
                forward(reading.model, stand_ins, inputs)
    for name in names:
        if name not in found:
            raise InputError(
                f"{asks} saw no input of {name!r}, which no plain product or convolution uses; "
                "ignore that layer, or take another criterion"
            )
        if not bool(torch.isfinite(found[name].inputs).all()):
            raise InputError(
                f"{asks}: what {name!r} multiplies holds NaN or infinity; check the data"
            )
    return found
