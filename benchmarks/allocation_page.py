"""The page about accuracy by allocation: what stands in it follows from the cells alone."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from benchmarks.allocation_cells import DENSE, MEASURED, RUNTIME, SEEDS, TIMED, UNIFORM
from benchmarks.common import heading, markdown_table

__all__ = ["Score", "margins", "page", "scores", "summary"]

EXPECTED_TO_BEAT = ("sensitivity", "netadapt", "knapsack", MEASURED)
HARDEST = 0.3
NAMES = {"macs": "MACs", "latency": "latency"}


@dataclasses.dataclass(frozen=True)
class Score:
    """One allocation under one budget.

    Attributes
    ----------
    search : dict
        The record of the search.
    recovered : tuple of float
        Accuracy after recovery, for every seed.
    latency : float or None
        What is left of it, where it was measured.
    """

    search: dict[str, Any]
    recovered: tuple[float, ...]
    latency: float | None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.recovered)

    @property
    def spread(self) -> float:
        """Highest less lowest over seeds."""
        return max(self.recovered) - min(self.recovered)


Scores = dict[tuple[str, str, float], Score]


def scores(records: list[dict[str, Any]]) -> Scores:
    """Allocation, measure and target -> what was found, of the records of one model."""
    grouped: dict[tuple[str, str, float], dict[int | str | None, dict[str, Any]]] = {}
    for record in records:
        key = record["allocation"], record["measure"], record["target"]
        grouped.setdefault(key, {})[record["seed"]] = record
    return {
        key: Score(
            runs[None],
            tuple(run["accuracy"] for seed, run in runs.items() if isinstance(seed, int)),
            runs.get(TIMED, {}).get("measured"),
        )
        for key, runs in grouped.items()
        if "reason" not in runs[None]
    }


def margins(known: Scores) -> list[dict[str, Any]]:
    """By how much those that are expected to beat uniform at the hardest target do so."""
    found = []
    for (allocation, measure, target), score in known.items():
        if allocation not in EXPECTED_TO_BEAT or target != HARDEST:
            continue
        uniform = known.get((UNIFORM, measure, target))
        if uniform is not None:
            gain, spread = score.mean - uniform.mean, max(score.spread, uniform.spread)
            found.append(
                {"allocation": allocation, "measure": measure, "gain": gain, "spread": spread,
                 "beats": gain > spread}
            )  # fmt: skip
    return found


def summary(head: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The cells as JSON values, without their plans."""
    return {
        **head,
        "cells": [{key: r[key] for key in r if key != "plan"} for r in records],
    }


def page(head: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Lay the page out."""
    parts = [
        "# Accuracy by allocation",
        "How much of a model's accuracy is left depends on where the units are taken from. Every "
        "[allocation](../methods/index.md) spreads the same budget over the same model, by the "
        "same scores (`magnitude`), and the model is recovered alike.",
    ]
    for setting in head["settings"]:
        own = [record for record in records if record["model"] == setting["model"]]
        if own:
            parts += _model(setting, own)
    parts += [_method(head)]
    return "\n\n".join(parts)


def _model(setting: dict[str, Any], own: list[dict[str, Any]]) -> list[str]:
    known = scores(own)
    dense = known[DENSE, "macs", 1.0]
    parts = [
        f"## {setting['model']}",
        f"On {setting['test']:,} test images of `{setting['data']}` the dense model is right about "
        f"{100 * dense.search['accuracy']:.1f} %, and after the same training "
        f"{100 * dense.mean:.1f} %. Every cell: right after the cut with batch norms recalibrated "
        "→ after recovery, mean over seeds ± half the range.",
    ]
    for measure in dict.fromkeys(record["measure"] for record in own):
        targets = sorted({t for _, m, t in known if m == measure and t < 1}, reverse=True)
        names = dict.fromkeys(r["allocation"] for r in own if r["allocation"] != DENSE)
        rows = [
            [f"`{name}`", *(_cell(known.get((name, measure, target))) for target in targets)]
            for name in names
        ]
        columns = ["allocation", *(f"{target:g} of {NAMES[measure]}" for target in targets)]
        parts += [markdown_table(columns, rows)]
    parts += [
        _verdict(known),
        *_reasons(known),
        "### What the searches took",
        _searches(own, known),
    ]
    return parts


def _cell(score: Score | None) -> str:
    if score is None:
        return "out of reach"
    before = f"{100 * score.search['accuracy']:.1f}"
    return f"{before} → {100 * score.mean:.1f} ± {50 * score.spread:.1f}"


def _verdict(known: Scores) -> str:
    told = margins(known)
    said = []
    for beats, words in ((True, "beat"), (False, "do **not** beat")):
        some = [each for each in told if each["beats"] is beats]
        if some:
            listed = ", ".join(
                f"`{each['allocation']}` by {NAMES[each['measure']]} "
                f"({100 * each['gain']:+.1f} points, {100 * each['spread']:.1f})"
                for each in some
            )
            said.append(
                f"At {HARDEST:g} of the budget these {words} `{UNIFORM}` by more than the range "
                f"over seeds (gain, range): {listed}."
            )
    return " ".join(said)


def _reasons(known: Scores) -> list[str]:
    """Why those do not beat uniform that do not, as far as the cells tell."""
    missed = {(each["allocation"], each["measure"]) for each in margins(known) if not each["beats"]}
    said = []
    if ("knapsack", "macs") in missed:
        said.append(
            "`knapsack` keeps the most of the scores, and magnitudes are no measure of what a "
            f"model loses: with measured losses (`{MEASURED}`) the same solver chooses otherwise."
        )
    if ("netadapt", "macs") in missed:
        search = known["netadapt", "macs", HARDEST].search
        said.append(
            f"`netadapt` tried {search['evaluations']} models out, and stood at "
            f"{100 * search['accuracy']:.0f} % right before recovery: it takes the best of its "
            "proposals without looking ahead, and towards the end all are about as bad. The paper "
            "trains every proposal for a while; no search of this table does."
        )
    hardest = [
        score
        for (_, measure, target), score in known.items()
        if measure == "latency" and target == HARDEST
    ]
    if hardest and "latency" in {measure for _, measure in missed}:
        left = [score.search["macs"] for score in hardest]
        right = max(score.search["accuracy"] for score in hardest)
        said.append(
            f"At {HARDEST:g} of the latency only {min(left):.2f} to {max(left):.2f} of the MACs "
            "are left, since much of the latency of small layers does not shrink with them. Right "
            f"after the cut no model is right about more than {100 * right:.0f} %: trials can "
            "hardly tell one choice from another there, and seeds of so short a recovery differ "
            "by more than allocations."
        )
    return [" ".join(said)] if said else []


def _searches(own: list[dict[str, Any]], known: Scores) -> str:
    """Per allocation and budget: seconds, models tried out, and where it landed."""
    rows = []
    for (name, measure, target), score in known.items():
        if name == DENSE:
            continue
        found = score.search
        rows.append([
            f"`{name}`", f"{target:g} of {NAMES[measure]}", f"{found['seconds']:.1f}",
            found["evaluations"], f"{found['reached']:.3f}", f"{found['macs']:.3f}",
            "" if score.latency is None else f"{score.latency:.3f}",
        ])  # fmt: skip
    columns = ["allocation", "budget", "CPU seconds", "models tried", "budget used", "MACs left",
               "latency left, measured"]  # fmt: skip
    return markdown_table(columns, rows, left=2)


def _method(head: dict[str, Any]) -> str:
    lines = ["## How it was measured", ""]
    for setting in head["settings"]:
        lines.append(
            f"- `{setting['model']}`: searches judge on {setting['held']:,} images of the training "
            f"split that recovery does not see, batch norms recalibrated on "
            f"{setting['calibration']}, and may try out about {setting['evaluations']} models; "
            f"recovery is one pass over {setting['train']:,} training images, shifted and "
            f"mirrored, in batches of {setting['batch']}, from a learning rate of "
            f"{setting['lr']:g} by a cosine to 0."
        )
    lines += [
        "",
        "Searches maximise the mean probability of the right class. (By the cross entropy, a "
        "model that has lost everything is better than one that is surely wrong now and then.) "
        "`sensitivity` and "
        f"`{MEASURED}` share one scan, whose time and models count for both everywhere. `netadapt` "
        f"does not train between its steps. Seeds {', '.join(map(str, SEEDS))} are of the "
        f"recovery; a search is made once. Latency is that of {RUNTIME}, by a table measured on "
        f"the same machine, with {head['settings'][0]['latency_batch']} images a call; the last "
        "column is what is left of that of the whole model, measured in turns with the dense one.",
        "",
        f"{heading(head['machine'])}. Made by `python -m benchmarks.allocation_accuracy`.",
    ]
    return "\n".join(lines)
