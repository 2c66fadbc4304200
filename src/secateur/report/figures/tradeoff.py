"""Accuracy against cost, over one run or several."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from secateur.errors import FileFormatError, InputError
from secateur.report.content import Point
from secateur.report.figures.theme import Palette, canvas, palette_of
from secateur.report.numbers import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Run", "accuracy"]


class _HasFolder(Protocol):
    @property
    def folder(self) -> Path: ...


Run: TypeAlias = "str | os.PathLike[str] | _HasFolder | Sequence[Point | tuple[str, int, float]]"
"""A run, its folder, or its points: label, MACs, accuracy from 0 to 1."""

MARKERS = "osD^vP*X"
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


def accuracy(of: Run | Mapping[str, Run], *, theme: str = "light", width: float = 6.4) -> Figure:
    """Draw accuracy against MACs over the steps of a run, or of several in one figure.

    Parameters
    ----------
    of : path-like, RunResult, sequence of (str, int, float), or mapping of str to those
        A run of a recipe, or its folder, or what a model was called, its MACs and its accuracy
        (0 to 1) after every step, in order; for several, by name. What a run quantised has a
        ring: its MACs are in 8-bit integers.
    theme : str, default "light"
        ``"light"`` or ``"dark"``.
    width : float, default 6.4
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        When no step of a run has an accuracy.
    FileFormatError
        When a folder holds no run.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import secateur as sc
    >>> points = [("dense", 40_000_000, 0.93), ("pruned", 20_000_000, 0.7)]
    >>> figure = sc.plot.accuracy(points)
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['dense', 'pruned']
    """
    given = of if isinstance(of, Mapping) else {"": of}
    runs = {name: _points(run) for name, run in given.items()}
    for name, points in runs.items():
        if not points:
            raise InputError(f"there is nothing to draw: {name or 'the run'} has no accuracy")
    colours = palette_of(theme)
    with canvas(width, 3.4 if width > 6 else 3.0, colours) as (figure, axes):
        for number, (name, points) in enumerate(runs.items()):
            _way(axes, number, name, points, colours)
        if len(runs) == 1:
            _label(axes, next(iter(runs.values())), colours)
        else:
            axes.legend(loc="best", labelcolor=colours.ink)
        axes.set_xlim(0, 1.08 * max(point.macs for points in runs.values() for point in points))
        axes.margins(y=0.16)
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("MACs of one forward pass")
        axes.set_ylabel("accuracy, %")
        axes.yaxis.grid(True)
        axes.spines["left"].set_visible(False)
        return figure


def _way(axes: Any, number: int, name: str, points: Sequence[Point], colours: Palette) -> None:
    """One run: its steps as open marks, and a full one where it came to; integers are ringed."""
    colour = (colours.after, colours.before, colours.ink, colours.muted)[number % 4]
    macs, scores = [each.macs for each in points], [100 * each.accuracy for each in points]
    mark = {"marker": MARKERS[number % len(MARKERS)], "markeredgecolor": colour}
    axes.plot(
        macs,
        scores,
        color=colour,
        linewidth=1.3,
        linestyle=DASHES[number // 4 % len(DASHES)],
        markersize=5.5,
        markerfacecolor=colours.surface,
        label=name,
        **mark,
    )
    axes.plot(macs[-1:], scores[-1:], color=colour, markersize=7, **mark)
    integers = [each for each in points if each.int8]
    axes.scatter(
        [each.macs for each in integers],
        [100 * each.accuracy for each in integers],
        s=110,
        facecolor="none",
        edgecolor=colour,
        linewidth=1.1,
    )


def _label(axes: Any, points: Sequence[Point], colours: Palette) -> None:
    """Names beside the points; of several close together, only the last one's."""
    spread = max(each.accuracy for each in points) - min(each.accuracy for each in points)
    widest = max(each.macs for each in points)

    def close(one: Point, other: Point) -> bool:
        near = abs(one.accuracy - other.accuracy) < 0.08 * max(spread, 1e-3)
        return near and abs(one.macs - other.macs) < 0.3 * widest

    for index, point in enumerate(points):
        if any(close(point, later) for later in points[index + 1 :]):
            continue
        right = point.macs > 0.6 * widest
        axes.annotate(
            point.label,
            (point.macs, 100 * point.accuracy),
            xytext=(-7 if right else 7, -3),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
            bbox={"facecolor": colours.surface, "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            color=colours.ink if index + 1 == len(points) else colours.muted,
        )


def _points(run: Any) -> list[Point]:
    run = getattr(run, "folder", run)
    if isinstance(run, (str, os.PathLike)):
        return _read(Path(run))
    points = [each if isinstance(each, Point) else Point(*each) for each in run]
    return [point for point in points if point.accuracy is not None]


def _read(folder: Path) -> list[Point]:
    """The lines of a run's metrics that are not of an epoch."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise FileFormatError(f"{folder} holds no run: there is no {path.name}")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [
            Point(
                str(line["step"]),
                int(line["macs"]),
                float(line["accuracy"]),
                bool(line.get("int8")),
            )
            for line in lines
            if "epoch" not in line and line["accuracy"] is not None
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} was changed after it was written: {error}") from error
    same = itertools.groupby(found, lambda point: (point.macs, point.accuracy, point.int8))
    return [next(points) for _, points in same]
