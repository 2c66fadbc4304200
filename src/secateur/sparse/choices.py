"""What was chosen for every layer, and why: the table that `compile` returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from secateur.sparse.candidates import DENSE, is_dense

__all__ = ["Choice", "Compiled", "choose"]

WORTH_ANOTHER_LAYOUT = 1.05


@dataclasses.dataclass(frozen=True)
class Choice:
    """How one layer runs.

    Attributes
    ----------
    name : str
        The layer.
    chosen : str
        The candidate: ``"dense"``, ``"sparse, 4x1"``, ...
    why : str
        In words.
    zeros : float
        The fraction of its weights that are zero.
    medians_ms : dict of str to float
        Of every candidate, over all its calls in one pass, in milliseconds; empty where none was
        timed.
    along : tuple of str
        What is computed along with it: ``"batch norm"``, and the name of an activation.
    """

    name: str
    chosen: str
    why: str
    zeros: float
    medians_ms: dict[str, float] = dataclasses.field(default_factory=dict)
    along: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """How many times as fast as the layer itself."""
        if not self.medians_ms:
            return 1.0
        return self.medians_ms[DENSE] / self.medians_ms[self.chosen]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A model whose layers run as was fastest.

    Attributes
    ----------
    model : torch.nn.Module
        A copy, in eval mode; the one that was given is as before.
    choices : list of Choice
        One for every linear layer and convolution, in order.
    dense_ms, compiled_ms : float
        Medians of a pass of the whole model before and after, taking turns.
    error : float
        Largest difference of their outputs, as a fraction of the largest output.
    threads : int
        With which all of it was timed.
    """

    model: nn.Module
    choices: list[Choice]
    dense_ms: float
    compiled_ms: float
    error: float
    threads: int

    @property
    def gain(self) -> float:
        """How many times as fast as before a pass is."""
        return self.dense_ms / self.compiled_ms

    def __str__(self) -> str:
        rows = [("layer", "zero", "dense ms", "ms", "gain", "runs as", "because")]
        for choice in self.choices:
            times = choice.medians_ms
            rows.append(
                (
                    choice.name,
                    f"{choice.zeros:.0%}",
                    f"{times[DENSE]:.3f}" if times else "",
                    f"{times[choice.chosen]:.3f}" if times else "",
                    f"{choice.gain:.2f}" if times else "",
                    " + ".join((choice.chosen, *choice.along)),
                    choice.why,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.append(
            f"whole model: {self.dense_ms:.3g} ms dense, {self.compiled_ms:.3g} ms compiled, "
            f"{self.gain:.2f} times as fast, {self.threads} "
            f"thread{'' if self.threads == 1 else 's'}; outputs differ by {self.error:.1g}"
        )
        return "\n".join(lines)


def choose(medians: dict[str, float], least_gain: float) -> tuple[str, str]:
    """The candidate to take, and why: sparse only where it clearly beats the best dense one.

    Examples
    --------
    >>> choose({"dense": 2.0, "dense, prepacked": 1.5, "sparse, 4x1": 1.0}, 1.15)
    ('sparse, 4x1', '1.50 times as fast as dense, prepacked')
    >>> choose({"dense": 2.0, "sparse, 4x1": 1.9}, 1.15)
    ('dense', 'sparse, 4x1 is only 1.05 times as fast')
    """
    dense = _fastest([name for name in medians if is_dense(name)], medians)
    if medians[DENSE] < WORTH_ANOTHER_LAYOUT * medians[dense]:
        dense = DENSE
    if all(is_dense(name) for name in medians):
        return dense, ""
    sparse = _fastest([name for name in medians if not is_dense(name)], medians)
    gain = medians[dense] / medians[sparse]
    if gain >= least_gain:
        return sparse, f"{gain:.2f} times as fast as {dense}"
    return dense, f"{sparse} is only {gain:.2f} times as fast"


def _fastest(names: Sequence[str], medians: dict[str, float]) -> str:
    return min(names, key=lambda name: medians[name])
