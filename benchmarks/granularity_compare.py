"""Does a finer granularity keep more accuracy? Cells of one model and stage, compared in pairs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from benchmarks.granularity_cells import CHANNEL, GRANULARITIES, NM, SEEDS, hits_of

__all__ = ["Comparison", "Score", "compare", "covering_pairs", "nested", "scores"]

CHANCE = 0.1
# A difference counts when it is this many standard errors.
BEYOND = 2.0
# Sparsities that differ by no more are alike.
ALIKE = 0.005

Extent = tuple[int | None, int | None, int | None, int | None]
# Outputs, inputs, rows and columns that a unit spans; None for all. Granularities that restrict
# single weights, such as N:M, have units of one weight and some freedom less.
UNITS: dict[str, Extent] = {
    "element": (1, 1, 1, 1),
    "vector:4": (4, 1, 1, 1),
    "vector:8": (8, 1, 1, 1),
    "run:4": (1, 4, 1, 1),
    "row": (1, 1, 1, None),
    "kernel": (1, 1, None, None),
    "block:4x4": (4, 4, 1, 1),
    "stripe": (1, None, 1, 1),
    "shape": (None, 1, 1, 1),
}
RESTRICTED = (NM, "pattern", "vector:4/2:4")


def nested(fine: str, coarse: str) -> bool:
    """Whether every mask of the coarser granularity is one of the finer.

    A removed channel is whole filters of some weights and whole input slices of others: units
    that lie in a kernel make up both.

    Examples
    --------
    >>> nested("row", "kernel"), nested("row", "stripe"), nested("element", "N:16")
    (True, False, True)
    """
    if fine in (coarse, CHANNEL, *RESTRICTED):
        return False
    if coarse in RESTRICTED:
        return fine == "element"
    if coarse == CHANNEL:
        return fine == "kernel" or nested(fine, "kernel")
    return all(
        large is None or (small is not None and large % small == 0)
        for small, large in zip(UNITS[fine], UNITS[coarse], strict=True)
    )


def covering_pairs(names: Iterable[str] = GRANULARITIES) -> list[tuple[str, str]]:
    """Pairs of a finer and the next coarser granularity, with none of the others between."""
    known = list(names)
    return [
        (fine, coarse)
        for fine in known
        for coarse in known
        if nested(fine, coarse)
        and not any(nested(fine, other) and nested(other, coarse) for other in known)
    ]


@dataclasses.dataclass(frozen=True)
class Score:
    """What one granularity keeps at one sparsity.

    Attributes
    ----------
    name : str
        The granularity as ``prune`` was given it.
    sparsity : float
        Reached, as measured.
    right : ndarray of bool, shape [runs, images]
        Right answers: one run one-shot, one of every seed after fine-tuning.
    """

    name: str
    sparsity: float
    right: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def spread(self) -> float:
        """Sample standard deviation over the runs."""
        return _deviation(self.right.mean(axis=1))

    @property
    def error(self) -> float:
        """Standard error that the choice of test images brings."""
        return _deviation(self.right.mean(axis=0)) / math.sqrt(self.right.shape[1])

    @property
    def at_chance(self) -> bool:
        return self.accuracy <= CHANCE + BEYOND * self.error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the finer of two nested granularities keeps beyond the coarser.

    Attributes
    ----------
    fine, coarse : str
    target : float
    gain : float
        Accuracy of the finer less that of the coarser.
    error : float
        Standard error of the gain, from the same images and seeds: of the images and of the
        seeds, both.
    chance : bool
        Whether neither is better than guessing.
    excess : float
        Sparsity that the finer reached beyond the coarser.
    """

    fine: str
    coarse: str
    target: float
    gain: float
    error: float
    chance: bool
    excess: float

    @property
    def verdict(self) -> Literal["more", "less", "level", "unlike"]:
        """What is measured: the finer keeps more, or less, or neither; or it is not comparable.

        With more zeros the finer may keep less, and with fewer more, without saying anything.
        """
        if self.gain > BEYOND * self.error and self.excess >= -ALIKE:
            return "more"
        if self.gain < -BEYOND * self.error and self.excess <= ALIKE:
            return "less"
        return "level" if abs(self.excess) <= ALIKE else "unlike"


def scores(records: Iterable[dict[str, Any]], images: int) -> dict[tuple[bool, str, float], Score]:
    """Scores of one model's cells by (whether fine-tuned, granularity, sparsity asked for).

    Fine-tuned cells count once all seeds are there, so that no mean is of fewer.
    """
    found: dict[tuple[bool, str, float], list[dict[str, Any]]] = {}
    for record in records:
        if "hits" in record:
            key = (record["seed"] is not None, record["granularity"], record["target"])
            found.setdefault(key, []).append(record)
    return {
        key: Score(
            runs[0]["name"],
            runs[0]["sparsity"],
            np.stack([
                hits_of(run, images) for run in sorted(runs, key=lambda run: run["seed"] or 0)
            ]),
        )
        for key, runs in found.items()
        if len(runs) == (len(SEEDS) if key[0] else 1)
    }  # fmt: skip


def compare(known: dict[tuple[bool, str, float], Score], tuned: bool) -> list[Comparison]:
    """Every covering pair at every sparsity at which both are there."""
    targets = sorted({target for _, _, target in known})
    found = []
    for fine, coarse in covering_pairs():
        for target in targets:
            one, other = (known.get((tuned, name, target)) for name in (fine, coarse))
            if one is not None and other is not None:
                found.append(_compared(fine, coarse, target, one, other))
    return found


def _compared(fine: str, coarse: str, target: float, one: Score, other: Score) -> Comparison:
    gains = one.right.astype(float) - other.right
    by_image, by_seed = gains.mean(axis=0), gains.mean(axis=1)
    error = math.hypot(
        _deviation(by_image) / math.sqrt(len(by_image)), _deviation(by_seed) / math.sqrt(len(gains))
    )
    return Comparison(
        fine,
        coarse,
        target,
        float(gains.mean()),
        error,
        one.at_chance and other.at_chance,
        one.sparsity - other.sparsity,
    )


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
