"""Mean and variance of every input of a weight, streamed over data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.observing.patches import parameter_shape
from secateur.observing.reading import Reading
from secateur.observing.standins import forward, standing_in
from secateur.observing.watching import Product, Watcher

__all__ = ["InputStatistics", "input_statistics"]


@dataclasses.dataclass
class InputStatistics:
    """What every input of a weight was over the data: all samples, tokens and places.

    Attributes
    ----------
    mean : Tensor of float64, shape [inputs]
    spread : Tensor of float64, shape [inputs]
        Sum of squared deviations from the mean.
    count : int

    Examples
    --------
    >>> found = InputStatistics.of(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> found.mean.tolist(), found.variance.tolist()
    ([2.0, 0.0], [2.0, 0.0])
    """

    mean: Tensor
    spread: Tensor
    count: int

    @classmethod
    def of(cls, rows: Tensor) -> InputStatistics:
        """Of rows ``[n, inputs]``."""
        rows = rows.double()
        mean = rows.mean(dim=0)
        return cls(mean, (rows - mean).square().sum(dim=0), len(rows))

    def add(self, other: InputStatistics) -> None:
        """Take others in: Chan's rule, which loses no digits to large means."""
        total = self.count + other.count
        gap = other.mean - self.mean
        self.spread += other.spread + gap.square() * (self.count * other.count / total)
        self.mean += gap * (other.count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """With ``count - 1`` in the denominator."""
        return self.spread / max(self.count - 1, 1)


def input_statistics(
    reading: Reading, names: Iterable[str], asks: str
) -> dict[str, InputStatistics]:
    """Stream the data once; statistics of what every weight multiplies.

    Parameters
    ----------
    reading : Reading
    names : iterable of str
        Parameters.
    asks : str
        Who asks, for messages.

    Returns
    -------
    dict
        Without parameters that no plain product or ungrouped convolution uses.

    Raises
    ------
    InputError
        When what a weight multiplies is not finite.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> found = input_statistics(Reading(layer, [(torch.eye(2), None)]), ["weight"], "example")
    >>> found["weight"].mean.tolist()
    [0.5, 0.5]
    """
    names = list(names)
    parameters = dict(reading.model.named_parameters())
    found: dict[str, InputStatistics] = {}

    def product(seen: Product, result: Any) -> None:
        rows = _rows(seen)
        if rows is None:
            return
        new = InputStatistics.of(rows)
        for name in seen.names:
            if parameter_shape(seen) != parameters[name].shape:
                continue
            if name in found:
                found[name].add(new)
            else:
                found[name] = dataclasses.replace(
                    new, mean=new.mean.clone(), spread=new.spread.clone()
                )

    with standing_in(reading.model, reading.seed) as stand_ins, torch.no_grad():
        for inputs, _ in reading.batches():
            watcher = Watcher(reading.model, inputs, names, product, stand_ins=stand_ins)
            with watcher.watching():
                forward(reading.model, stand_ins, inputs)
    for name, each in found.items():
        if not bool(torch.isfinite(each.mean).all()):
            raise InputError(
                f"{asks}: what {name!r} multiplies holds NaN or infinity; check the data"
            )
    return found


def _rows(seen: Product) -> Tensor | None:
    """What the weight multiplies, ``[n, inputs]``."""
    given = seen.given.detach()
    if seen.node.op == "aten::embedding":
        return None
    if seen.node.op == "aten::convolution":
        if seen.node.bound["groups"] != 1:
            return None
        return given.movedim(1, -1).reshape(-1, given.shape[1])
    rows = given.mT if seen.first else given
    return rows.reshape(-1, rows.shape[-1])
