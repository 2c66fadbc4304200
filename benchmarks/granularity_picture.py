"""Accuracy against sparsity as a drawing that is legible on light and dark pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.granularity_cells import DENSE, GRANULARITIES, SPARSITIES
from benchmarks.granularity_compare import scores
from benchmarks.granularity_page import STAGES

__all__ = ["draw"]

# Halfway between black and white, so it stands out from either.
INK, FAINT = "#7f868c", "#7f868c40"
# Units of one weight are solid, parts of kernels dashed, whole axes dotted; the colour tells apart.
LOOKS: dict[str, tuple[str, str, str]] = {
    "element": ("#2f9e8f", "-", "o"),
    "N:16": ("#3d8ad6", "-", "s"),
    "pattern": ("#9a6dd7", "-", "D"),
    "vector:4/2:4": ("#d65a9c", "-", "^"),
    "vector:4": ("#2f9e8f", "--", "o"),
    "vector:8": ("#3d8ad6", "--", "s"),
    "run:4": ("#9a6dd7", "--", "D"),
    "row": ("#d65a9c", "--", "^"),
    "block:4x4": ("#d9822b", "--", "v"),
    "kernel": ("#2f9e8f", ":", "o"),
    "stripe": ("#3d8ad6", ":", "s"),
    "shape": ("#9a6dd7", ":", "D"),
    "channel": ("#d9822b", ":", "v"),
}
SHOWN = [100 * sparsity for sparsity in SPARSITIES]
assert set(LOOKS) == set(GRANULARITIES)


def draw(head: dict[str, Any], records: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for every model and stage, lines with bars of one standard deviation."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": path.stem,
        "font.family": "sans-serif",
        "font.size": 9.0,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": FAINT,
        "legend.frameon": False,
    }
    settings = head["settings"]
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.6, 3.4 * len(settings)), layout="constrained")
        grid = figure.subplots(len(settings), 2, sharex=True, sharey=True, squeeze=False)
        for setting, row in zip(settings, grid, strict=True):
            own = [record for record in records if record["model"] == setting["model"]]
            known = scores(own, setting["test"])
            for (tuned, stage), axes in zip(STAGES.items(), row, strict=True):
                _panel(axes, known, tuned, f"{setting['model']}, {stage[0].lower()}{stage[1:]}")
            row[0].set_ylabel("accuracy, %")
        for axes in grid[-1]:
            axes.set_xlabel("sparsity, %")
        # By the share that is left, on a logarithmic scale: high sparsities stand apart.
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xticks([100 - at for at in SHOWN], [f"{at:g}" for at in SHOWN])
        axes.minorticks_off()
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", handlelength=3.2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _panel(axes: Any, known: dict[Any, Any], tuned: bool, title: str) -> None:
    axes.set_title(title, loc="left", color=INK)
    axes.yaxis.grid(True)
    dense = known.get((tuned, DENSE, 0.0))
    if dense is not None:
        axes.axhline(100 * dense.accuracy, color=INK, linewidth=1, label=DENSE)
    for name, (colour, line, marker) in LOOKS.items():
        found = [known.get((tuned, name, sparsity)) for sparsity in SPARSITIES]
        there = [score for score in found if score is not None]
        axes.errorbar(
            [100 * (1 - score.sparsity) for score in there],
            [100 * score.accuracy for score in there],
            yerr=[100 * score.spread for score in there],
            color=colour,
            linestyle=line,
            linewidth=1.5,
            elinewidth=0.8,
            marker=marker,
            markersize=3.5,
            label=name,
        )
