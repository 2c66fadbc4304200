"""Several runs side by side: what came out, and what was done differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from secateur.report import numbers
from secateur.report.content import Point, Stage
from secateur.report.figures.tradeoff import accuracy
from secateur.report.page import page, write_page
from secateur.report.pictures import picture

__all__ = ["Compared", "RunSides", "Standing", "standings", "write_comparison"]


@dataclasses.dataclass(frozen=True)
class RunSides:
    """One run: the model that it began with, and the one that it came to.

    Attributes
    ----------
    name : str
    before, after : Stage
    points : sequence of Point
    seconds : float
        That its steps took.
    """

    name: str
    before: Stage
    after: Stage
    points: Sequence[Point]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a comparison shows.

    Attributes
    ----------
    runs : sequence of RunSides
    recipes, environments : mapping of str to sequence of str
        Key -> its value in every run, where they differ.
    """

    runs: Sequence[RunSides]
    recipes: Mapping[str, Sequence[str]]
    environments: Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Standing:
    """One quantity in all runs.

    Attributes
    ----------
    label : str
    values, details : tuple of str
        One for every run.
    best : set of int
        Which runs are best; empty where all are equal or it is nothing to win by.
    """

    label: str
    values: tuple[str, ...]
    details: tuple[str, ...]
    best: frozenset[int]


def standings(runs: Sequence[RunSides]) -> list[Standing]:
    """The headline figures side by side; what no run has is left out.

    Examples
    --------
    >>> dense, small = Stage(100, 50, 50, 200), Stage(50, 20, 20, 80)
    >>> runs = [RunSides("a", dense, small, (), 1.0), RunSides("b", dense, dense, (), 2.0)]
    >>> [(each.label, sorted(each.best)) for each in standings(runs)][:2]
    [('MACs', [0]), ('Parameters', [0])]
    """
    count, size = numbers.count, numbers.bytes_text
    found = [
        _standing("Accuracy", runs, lambda s: s.accuracy, lambda v: numbers.percent(v, 2), -1),
        _standing("MACs", runs, lambda s: s.macs, count),
        _standing("Parameters", runs, lambda s: s.params, count),
        _standing("Non-zero parameters", runs, lambda s: s.nonzero, count),
        _standing("File", runs, lambda s: s.file_bytes, size),
    ]
    speeds = [_speed(run) for run in runs]
    if any(speed is not None for speed in speeds):
        best = max(speed for speed in speeds if speed is not None)
        found.append(
            Standing(
                "As fast in PyTorch",
                tuple("—" if speed is None else numbers.times(speed, 1) for speed in speeds),
                tuple(_milliseconds(run) for run in runs),
                frozenset(at for at, speed in enumerate(speeds) if speed == best)
                if len(set(speeds)) > 1
                else frozenset(),
            )
        )
    taken = tuple(numbers.duration(run.seconds) for run in runs)
    found.append(Standing("Time of all steps", taken, ("",) * len(runs), frozenset()))
    return [each for each in found if any(value != "—" for value in each.values)]


def write_comparison(compared: Compared, path: str | Path) -> Path:
    """Write the comparison as one HTML page and return its path.

    Raises
    ------
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    ways = {run.name: list(run.points) for run in compared.runs if run.points}
    drawn = (
        picture(lambda width: accuracy(ways, theme="page", width=width), "tradeoff", wide=8.4)
        if ways
        else None
    )
    names = [run.name for run in compared.runs]
    text = page(
        "compare.html.j2",
        title=f"{len(names)} runs compared",
        names=names,
        standings=standings(compared.runs),
        tradeoff=drawn,
        int8=any(point.int8 for run in compared.runs for point in run.points),
        recipes=compared.recipes,
        environments=compared.environments,
    )
    return write_page(text, path)


def _standing(
    label: str,
    runs: Sequence[RunSides],
    of: Callable[[Stage], float | None],
    text: Callable[..., str],
    sign: int = 1,
) -> Standing:
    """Less is better, or more where the sign is negative."""
    sides = [(of(run.before), of(run.after)) for run in runs]
    reached = [sign * after for _, after in sides if after is not None]
    best = [
        at
        for at, (_, after) in enumerate(sides)
        if after is not None and sign * after == min(reached) and len(set(reached)) > 1
    ]
    return Standing(
        label,
        tuple("—" if after is None else text(after) for _, after in sides),
        tuple("" if before is None else f"from {text(before)}" for before, _ in sides),
        frozenset(best),
    )


def _speed(run: RunSides) -> float | None:
    slow, fast = run.before.torch_latency, run.after.torch_latency
    return None if slow is None or fast is None else slow.ratio(fast)


def _milliseconds(run: RunSides) -> str:
    slow, fast = run.before.torch_latency, run.after.torch_latency
    if slow is None or fast is None:
        return ""
    return f"{numbers.milliseconds(slow.median_ms)} → {numbers.milliseconds(fast.median_ms)}"
