"""Scores of one group of interchangeable units."""

from __future__ import annotations

import dataclasses

import numpy as np

from secateur.errors import InputError

__all__ = ["GroupScores", "checked", "judged_order"]


@dataclasses.dataclass(frozen=True)
class GroupScores:
    """Scores of one group of interchangeable units.

    Parameters
    ----------
    name : str
        The group's name.
    scores : ndarray of float, shape [units]
        Raw scores, finite; lower goes first.
    weights : ndarray, shape [units], optional
        Classes per unit; ones by default.
    judged : ndarray of bool, shape [units], optional
        False for units that the criterion could not judge, which never go; all True by default.
    comparable : bool, default False
        Whether raw scores share one unit of measure with those of other groups.
    kind : str, default ""
        A signature of the group's structure, equal for groups of the same one; filled in for
        allocations that go by it.
    shapes : tuple of tuple of int, optional
        Of the weights whose outputs the units are.
    """

    name: str
    scores: np.ndarray
    weights: np.ndarray | None = None
    judged: np.ndarray | None = None
    comparable: bool = False
    kind: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()


def judged_order(group: GroupScores) -> np.ndarray:
    """Units that may go, the lowest score first; of equals, the lowest index."""
    scores, _, judged = checked(group)
    units = np.flatnonzero(judged)
    return units[np.argsort(scores[units], kind="stable")]


def checked(group: GroupScores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, weights and which units are judged, of one length and finite."""
    scores = np.asarray(group.scores, dtype=np.float64)
    ones = np.ones(len(scores))
    weights = ones if group.weights is None else np.asarray(group.weights, dtype=np.float64)
    judged = ones > 0 if group.judged is None else np.asarray(group.judged, dtype=bool)
    if scores.ndim != 1 or weights.shape != scores.shape or judged.shape != scores.shape:
        raise InputError(f"group {group.name!r}: scores, weights and judged must have one length")
    if not np.isfinite(scores[judged]).all():
        raise InputError(f"group {group.name!r}: scores must be finite")
    return scores, weights, judged
