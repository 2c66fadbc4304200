"""The page about accuracy by granularity: what stands in it follows from the cells alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.cifar_resnet import SHIFT
from benchmarks.common import heading, markdown_table
from benchmarks.granularity_cells import DENSE, GRANULARITIES, IGNORED, NM, SEEDS, SPARSITIES
from benchmarks.granularity_compare import ALIKE, BEYOND, CHANCE, Comparison, Score, compare, scores

__all__ = ["STAGES", "page", "summary", "verdict"]

STAGES = {False: "One-shot", True: "After fine-tuning"}
PICTURE = "granularity_accuracy.svg"
Known = dict[tuple[bool, str, float], Score]


def page(head: dict[str, Any], records: list[dict[str, Any]], same_cut: bool) -> str:
    """Lay the page out.

    Parameters
    ----------
    head : dict
        Machine and settings, as the record begins.
    records : list of dict
        The cells.
    same_cut : bool
        Whether ``channel`` and ``filter`` removed the same units of every model.
    """
    parts = [_opening(head, same_cut)]
    for setting in head["settings"]:
        own = [record for record in records if record["model"] == setting["model"]]
        parts.append(_model(setting, own, scores(own, setting["test"])))
    parts.append(_method(head))
    return "\n\n".join(parts)


def summary(head: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as JSON values, without the answers to single images."""
    models = {}
    for setting in head["settings"]:
        known = scores([r for r in records if r["model"] == setting["model"]], setting["test"])
        models[setting["model"]] = {
            "cells": [
                {
                    "granularity": granularity,
                    "name": score.name,
                    "target": target,
                    "tuned": tuned,
                    "sparsity": score.sparsity,
                    "accuracy": [float(run.mean()) for run in score.right],
                    "error": score.error,
                }
                for (tuned, granularity, target), score in known.items()
            ],
            "comparisons": [
                {
                    "finer": pair.fine,
                    "coarser": pair.coarse,
                    "target": pair.target,
                    "tuned": tuned,
                    "gain": pair.gain,
                    "error": pair.error,
                    "verdict": pair.verdict,
                }
                for tuned in STAGES
                for pair in compare(known, tuned)
            ],
        }
    return {"machine": head["machine"], "settings": head["settings"], "models": models}


def verdict(pairs: Iterable[Comparison]) -> str:
    """Say where the finer keeps more accuracy, and name every place where it does not."""
    pairs = list(pairs)
    kinds: dict[str, list[Comparison]] = {}
    for pair in pairs:
        guessing = pair.verdict == "level" and pair.chance
        kinds.setdefault("chance" if guessing else pair.verdict, []).append(pair)
    judged = len(pairs) - len(kinds.get("unlike", []))
    more = len(kinds.get("more", []))
    said = [
        f"In {more} of {judged} comparisons of a granularity with the next coarser one the finer "
        f"keeps more accuracy, by over {BEYOND:g} standard errors."
    ]
    if "less" in kinds:
        said.append(f"The finer keeps **less** in {_places(kinds['less'], gains=True)}.")
    elif judged:
        said.append("Nowhere does it keep less by as much.")
    if "level" in kinds:
        said.append(f"No difference is measurable in {_places(kinds['level'], gains=True)}.")
    if "chance" in kinds:
        said.append(f"Both only guess in {_places(kinds['chance'])}.")
    if "unlike" in kinds:
        said.append(
            f"Not judged, since the sparsities reached differ by over {100 * ALIKE:g} points: "
            f"{_places(kinds['unlike'])}."
        )
    return " ".join(said)


def _places(pairs: list[Comparison], gains: bool = False) -> str:
    """Name comparisons, those of one pair of granularities together."""
    named: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        at = f"{100 * pair.target:g} %"
        named.setdefault((pair.fine, pair.coarse), []).append(
            f"{at} ({_gain(pair)})" if gains else at
        )
    return "; ".join(
        f"`{fine}` against `{coarse}` at {', '.join(places)}"
        for (fine, coarse), places in named.items()
    )


def _gain(pair: Comparison) -> str:
    sign = "−" if pair.gain < 0 else "+"
    return f"{sign}{100 * abs(pair.gain):.1f} ± {100 * pair.error:.1f}"


def _opening(head: dict[str, Any], same_cut: bool) -> str:
    names = " and ".join(setting["model"].partition("-")[0] for setting in head["settings"])
    names = names.replace("resnet", "ResNet-")
    channel = (
        "In these networks all channels are made by convolutions, and `filter` was checked to "
        "remove the very same units as `channel`, so one row stands for both."
        if same_cut
        else "`filter` removes other units than `channel` and is not in the table."
    )
    return f"""# Accuracy by granularity

How much accuracy {names} on CIFAR-10 keep at one sparsity and different
[granularities](../methods/index.md#granularities): as pruned, and after the same short fine-tuning.
All cells use `criterion="magnitude"`,
`allocation="global"` and `ignore={list(IGNORED)!r}`: the first convolution and the classifier are
neither chosen nor counted, whatever the granularity. Sparsity is the share of all other
convolution weights that is zero or gone, as measured.

`{NM}` gives every run of 16 inputs the same number of zeros, so no ranking over layers takes part
in it, and of the sparsities it reaches the nearest is taken. `vector:4/2:4` ranks vectors over all
layers, and is uniform within. `channel` removes units physically, with all that is coupled to them;
since the first convolution stays, so do the channels that it adds to. {channel}

![Accuracy against sparsity, one line for each granularity]({PICTURE})"""


def _model(setting: dict[str, Any], records: list[dict[str, Any]], known: Known) -> str:
    columns = ["granularity", *(f"{100 * sparsity:g} %" for sparsity in SPARSITIES)]
    parts = [f"## {setting['model']}", _dense(setting, known)]
    for tuned, title in STAGES.items():
        rows = [
            [f"`{name}`", *(_cell(known.get((tuned, name, at))) for at in SPARSITIES)]
            for name in GRANULARITIES
        ]
        spread = f", mean ± standard deviation over {len(SEEDS)} seeds" if tuned else ""
        parts += [
            f"### {title}: accuracy, %{spread}",
            markdown_table(columns, rows),
            verdict(compare(known, tuned)),
        ]
    reasons = {
        f"`{record['granularity']}` at {100 * record['target']:g} %: {record['reason']}."
        for record in records
        if "reason" in record
    }
    if reasons:
        parts.append("Empty cells cannot be met. " + " ".join(sorted(reasons)))
    parts += ["### Sparsity reached, %", markdown_table(columns, _reached(known))]
    for tuned, title in STAGES.items():
        parts += [
            f"### {title}: what the finer of two keeps beyond the coarser, points",
            markdown_table(
                ["finer", "coarser", *columns[1:]], _pair_rows(compare(known, tuned)), left=2
            ),
        ]
    return "\n\n".join(parts)


def _dense(setting: dict[str, Any], known: Known) -> str:
    before, after = (known.get((tuned, DENSE, 0.0)) for tuned in STAGES)
    accuracy = " and ".join(
        f"{_cell(score)} % {when}"
        for score, when in ((before, "as it is"), (after, "after the same fine-tuning"))
        if score is not None
    )
    steps = -(-setting["train"] // setting["batch"])
    return (
        f"Dense: {accuracy}. Right answers are counted on the first {setting['test']:,} test "
        f"images of `{setting['data']}`; fine-tuning is one pass over the first "
        f"{setting['train']:,} training images, {steps} steps."
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    accuracy = f"{100 * score.accuracy:.1f}"
    return accuracy if len(score.right) == 1 else f"{accuracy} ± {100 * score.spread:.1f}"


def _reached(known: Known) -> list[list[str]]:
    rows = []
    for name in GRANULARITIES:
        found = [known.get((False, name, at)) for at in SPARSITIES]
        rows.append([
            f"`{name}`",
            *("" if s is None else f"{100 * s.sparsity:.2f}" + _given(name, s) for s in found),
        ])  # fmt: skip
    return rows


def _given(name: str, score: Score) -> str:
    return "" if score.name == name else f" (`{score.name}`)"


def _pair_rows(pairs: list[Comparison]) -> list[list[str]]:
    rows: dict[tuple[str, str], dict[float, str]] = {}
    marks = {"more": "**{}**", "less": "*{}*", "level": "{}", "unlike": "({})"}
    for pair in pairs:
        text = marks[pair.verdict].format(_gain(pair))
        rows.setdefault((pair.fine, pair.coarse), {})[pair.target] = text
    return [
        [f"`{fine}`", f"`{coarse}`", *(found.get(at, "") for at in SPARSITIES)]
        for (fine, coarse), found in rows.items()
    ]


def _method(head: dict[str, Any]) -> str:
    first = head["settings"][0]
    single = ", ".join(
        f"{50 / setting['test'] ** 0.5:.1f} points for {setting['model']}"
        for setting in head["settings"]
    )
    return f"""## How it is measured

- **Fine-tuning** is the same for all: `sc.recover`, SGD with momentum 0.9, learning rate
  {first["lr"]:g} falling to 0 by a cosine, batches of {first["batch"]}, images shifted by up to
  {SHIFT} pixels and mirrored. It wins back far less than full training would: the table compares
  granularities with each other, not with published results. A seed decides order, shifts and
  mirrors; magnitude needs none, so one-shot is measured once. Zeros stay zero, which every cell
  checks.
- **Pairs.** One granularity is finer than another when every mask of the other is a mask of it;
  compared are those with no third between them. Both answer the same images after the same
  batches, so the standard error is that of the difference: of the images and of the seeds, added
  in squares. **Bold**: the finer keeps more, by over {BEYOND:g} standard errors. *Italic*: it keeps
  less by as much. In brackets: the sparsities reached differ too much to tell. Where nothing
  differs, about one comparison in twenty is beyond {BEYOND:g} standard errors all the same. Near
  {100 * CHANCE:g} %, which guessing gets, a network gives nearly all images the same few answers,
  and which these are decides more than the granularity.
- **Images.** Not all test images are used, so that the table takes an hour and not a day. The
  standard error of a single accuracy p is the root of p (1 − p) / images: at 50 %, {single}.

Measured on {heading(head["machine"])}. Made by `make accuracy`."""
