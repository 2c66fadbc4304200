"""What pruning one group alone costs in quality, at several amounts: curves, and their table."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from secateur.errors import FileFormatError, InputError, UnknownNameError, suggestion

__all__ = ["Curve", "Sensitivity", "checked_ratios"]

FORMAT = "secateur sensitivity 1"
# Differences of two measures of equal worth; what is lost in writing 0.9 - 0.89 as floats.
SLACK = 1e-9


@dataclasses.dataclass(frozen=True)
class Curve:
    """What it costs to prune one group, or one weight, and nothing else.

    Parameters
    ----------
    name : str
        Of the group (its first producer) or the weight.
    size : int
        Units of the group, or entries of the weight.
    amounts : tuple of int
        How many of them went in every trial, ascending, from 1 on.
    values : tuple of float
        What `evaluate` said then.
    baseline : float
        What it says of the dense model.

    Examples
    --------
    >>> curve = Curve("conv", 16, (4, 8, 12), (0.92, 0.93, 0.7), 0.9)
    >>> [round(drop, 2) for drop in curve.drops], curve.damage.round(2).tolist()
    ([-0.02, -0.03, 0.2], [0.0, 0.0, 0.2])
    """

    name: str
    size: int
    amounts: tuple[int, ...]
    values: tuple[float, ...]
    baseline: float

    @property
    def ratios(self) -> tuple[float, ...]:
        """The share of the group that went in every trial."""
        return tuple(amount / self.size for amount in self.amounts)

    @property
    def drops(self) -> tuple[float, ...]:
        """How much worse than the dense model each trial was; negative where it was better."""
        return tuple(self.baseline - value for value in self.values)

    @property
    def damage(self) -> np.ndarray:
        """The largest drop so far at every amount, never below zero and never descending."""
        return np.maximum.accumulate(np.maximum(np.array(self.drops, dtype=np.float64), 0.0))

    def within(self, tolerance: float, interpolate: bool = False) -> float:
        """The most that may go such that no drop up to there exceeds a tolerance.

        Parameters
        ----------
        interpolate : bool, default False
            Go on between the amounts that were tried, along a straight line.

        Examples
        --------
        >>> curve = Curve("conv", 16, (4, 8, 12), (0.9, 0.8, 0.9), 0.9)
        >>> curve.within(0.05), curve.within(0.1), curve.within(0.05, interpolate=True)
        (4.0, 12.0, 6.0)
        """
        amounts, damage = np.array([0, *self.amounts]), np.array([0.0, *self.damage])
        after = int(np.searchsorted(damage, tolerance + SLACK, side="right"))
        reached = float(amounts[after - 1])
        if interpolate and after < len(damage):
            rise = damage[after] - damage[after - 1]
            step = amounts[after] - amounts[after - 1]
            reached += float(step * max(tolerance - damage[after - 1], 0.0) / rise)
        return reached

    def tolerance_of(self, amounts: np.ndarray, interpolate: bool = False) -> np.ndarray:
        """The smallest tolerance within which so much may go; infinite past the last trial.

        Parameters
        ----------
        amounts : ndarray, shape [n]
        """
        if interpolate:
            known = np.interp(amounts, [0, *self.amounts], [0.0, *self.damage])
        else:
            damage = np.array([*self.damage, math.inf])
            return damage[np.searchsorted(self.amounts, amounts, side="left")]
        return np.where(amounts > max(self.amounts, default=0), math.inf, known)


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How sensitive a model is to losing parts of each of its groups: a table of curves.

    Parameters
    ----------
    baseline : float
        What `evaluate` says of the dense model.
    curves : tuple of Curve
        One per coupled group, or per weight for sparse granularities.
    ratios : tuple of float
        The shares that were asked for. A group can only lose whole units, so its own may be lower.
    granularity, criterion : str
        What was removed as one unit, and by which score.

    Examples
    --------
    >>> curves = (Curve("a", 8, (4,), (0.7,), 0.9), Curve("b", 8, (4,), (0.85,), 0.9))
    >>> table = Sensitivity(0.9, curves, (0.5,), "channel", "magnitude")
    >>> table.amounts(tolerance=0.1)
    {'a': 0, 'b': 4}
    >>> Sensitivity.from_json(table.to_json()) == table
    True
    """

    baseline: float
    curves: tuple[Curve, ...]
    ratios: tuple[float, ...]
    granularity: str
    criterion: str

    def __getitem__(self, name: str) -> Curve:
        for curve in self.curves:
            if curve.name == name:
                return curve
        known = [curve.name for curve in self.curves]
        raise UnknownNameError(f"the scan has no group {name!r}{suggestion(name, known)}")

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.curves)

    def __len__(self) -> int:
        return len(self.curves)

    def drops(self) -> dict[str, dict[float, float]]:
        """Group -> share that went -> how much worse than the dense model that is."""
        return {
            curve.name: dict(zip(curve.ratios, curve.drops, strict=True)) for curve in self.curves
        }

    def amounts(self, tolerance: float, interpolate: bool = False) -> dict[str, int]:
        """How much of every group may go, on its own, within a tolerance.

        Parameters
        ----------
        tolerance : float
            The most that `evaluate` may fall, for this amount and for all smaller ones.
        interpolate : bool, default False
            Go on between the amounts that were tried, along a straight line.

        Returns
        -------
        dict
            Group -> units (entries, for sparse granularities).

        Raises
        ------
        InputError
            For a tolerance that is not a number of at least zero.
        """
        if not isinstance(tolerance, numbers.Real) or not tolerance >= 0:
            raise InputError(f"tolerance must be a number of at least 0, not {tolerance!r}")
        return {
            curve.name: math.floor(curve.within(float(tolerance), interpolate) + SLACK)
            for curve in self.curves
        }

    def to_json(self) -> str:
        """The table as JSON text, floats to the last bit."""
        groups = {
            curve.name: {
                "size": curve.size,
                "amounts": list(curve.amounts),
                "values": list(curve.values),
            }
            for curve in self.curves
        }
        return json.dumps(
            {
                "format": FORMAT,
                "granularity": self.granularity,
                "criterion": self.criterion,
                "baseline": self.baseline,
                "ratios": list(self.ratios),
                "groups": groups,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """Read what `to_json` wrote.

        Raises
        ------
        FileFormatError
            When it is something else.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(data["format"])
            baseline = float(data["baseline"])
            curves = [_curve(name, entry, baseline) for name, entry in data["groups"].items()]
            ratios = tuple(float(ratio) for ratio in data["ratios"])
            names = str(data["granularity"]), str(data["criterion"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(
                f"this is no table of a sensitivity scan ({type(error).__name__}: {error})"
            ) from error
        return cls(baseline, tuple(curves), ratios, *names)


def _curve(name: str, entry: dict[str, Any], baseline: float) -> Curve:
    size, amounts = int(entry["size"]), tuple(int(amount) for amount in entry["amounts"])
    values = tuple(float(value) for value in entry["values"])
    steps = [0, *amounts, size + 1]
    if len(values) != len(amounts) or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ValueError(f"the amounts of {name!r} do not ascend from 1 to {size}, a value each")
    if not all(math.isfinite(value) for value in (*values, baseline)):
        raise ValueError(f"a value of {name!r} is not finite")
    return Curve(name, size, amounts, values, baseline)


def checked_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """Shares to try, ascending and each once.

    Raises
    ------
    InputError
        When there are none, or one does not lie between 0 and 1.

    Examples
    --------
    >>> checked_ratios([0.5, 0.25, 0.5])
    (0.25, 0.5)
    """
    given = tuple(ratios) if isinstance(ratios, (Sequence, np.ndarray)) else ()
    if not given or isinstance(ratios, str):
        raise InputError(f"ratios must be shares to try, such as (0.25, 0.5, 0.75), not {ratios!r}")
    for ratio in given:
        number = isinstance(ratio, numbers.Real) and not isinstance(ratio, bool)
        if not number or not 0 < ratio < 1:
            raise InputError(
                f"ratio {ratio!r} must lie between 0 and 1: it is the share of a group that goes"
            )
    return tuple(sorted({float(ratio) for ratio in given}))
