"""What a run's report shows beside what every report does: corners, and bytes by layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from secateur.profiling import Timing, storage_of
from secateur.report import Section, numbers

__all__ = ["corner_section", "sections_of", "storage_section"]


def sections_of(stages: Sequence[Mapping[str, Any]], final: nn.Module) -> Iterator[Section]:
    """Every section that there is something to show in."""
    found = [stage["notes"]["corners"] for stage in stages if stage["notes"].get("corners")]
    if found:
        yield corner_section(found[-1])
    storage = storage_section(final)
    if storage is not None:
        yield storage


def corner_section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Accuracy and latency of dense and pruned, in float32 and in integers."""
    timings = [
        Timing(
            f"{each['model']} {each['numbers']}", tuple(each["samples"]), each["threads"],
            batch=each["batch"],
        )
        for each in found
    ]  # fmt: skip
    rows = [
        [
            f"{each['model']}, {each['numbers']}",
            "" if each["accuracy"] is None else numbers.percent(each["accuracy"], 2),
            numbers.bytes_text(each["bytes"]),
            f"{numbers.milliseconds(timing.median_ms)} ± {timing.spread_ms:.2g}",
            numbers.times(timings[0].ratio(timing), 1),
        ]
        for each, timing in zip(found, timings, strict=True)
    ]
    return Section(
        "corners",
        "Pruned and quantised",
        f"Accuracy on the test part, and time of one batch ({timings[0].conditions}) in one run in "
        "which all take turns.",
        ["", "accuracy", "file", "time", "as fast as the first"],
        rows,
    )


def storage_section(final: nn.Module) -> Section | None:
    """Bytes of the final model by layout, where a file without zeros is smaller."""
    storage = storage_of(final)
    if storage.stored > 0.9 * storage.dense:
        return None
    rows = [
        [name, numbers.bytes_text(each.dense), numbers.bytes_text(each.stored)]
        for name, each in storage.layouts.items()
    ]
    total = ["all tensors", numbers.bytes_text(storage.dense), numbers.bytes_text(storage.stored)]
    return Section(
        "storage",
        "Without its zeros",
        'What the final model takes in a file that secateur.save(format="sparse") writes.',
        ["layout", "as it is", "in that file"],
        [*rows, total],
    )
