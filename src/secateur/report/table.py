"""The comparison, row by row: for the page, and for the terminal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from secateur.report import numbers
from secateur.report.content import Stage

if TYPE_CHECKING:
    from secateur.profiling.latency import Timing

__all__ = ["Row", "comparison"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity on both sides.

    Attributes
    ----------
    label : str
    note : str
        Under which conditions it was measured.
    before, after : str
    gain : str
        The difference in words.
    kept : float or None
        What remains, as a fraction of before, where less is better; draws a bar.
    """

    label: str
    note: str
    before: str
    after: str
    gain: str
    kept: float | None = None


def comparison(before: Stage, after: Stage) -> list[Row]:
    """Lay out two stages side by side; quantities measured on neither side are left out.

    Examples
    --------
    >>> rows = comparison(Stage(100, 50, 50, 200), Stage(50, 20, 20, 80))
    >>> [(row.label, row.gain) for row in rows][0]
    ('MACs', '2.00× fewer')
    """
    rows = []
    if before.accuracy is not None and after.accuracy is not None:
        points = 100 * (after.accuracy - before.accuracy)
        sign = "−" if points < -0.005 else "+" if points > 0.005 else "±"
        rows.append(
            Row(
                "Accuracy",
                "test examples",
                numbers.percent(before.accuracy, 2),
                numbers.percent(after.accuracy, 2),
                f"{sign}{abs(points):.2f} points",
            )
        )
    rows.append(_sizes("MACs", "one forward pass", before.macs, after.macs, "fewer"))
    rows.append(_sizes("Parameters", "", before.params, after.params, "fewer"))
    rows.append(_sizes("Non-zero parameters", "", before.nonzero, after.nonzero, "fewer"))
    rows.append(_sizes("Memory", "parameters and buffers", before.bytes, after.bytes, "smaller"))
    for label, note, first, second in (
        ("File", "safetensors", before.file_bytes, after.file_bytes),
        ("ONNX file", "", before.onnx_bytes, after.onnx_bytes),
    ):
        if first is not None and second is not None:
            rows.append(_sizes(label, note, first, second, "smaller"))
    for label, slow, fast in (
        ("Latency, PyTorch", before.torch_latency, after.torch_latency),
        ("Latency, ONNX Runtime", before.onnx_latency, after.onnx_latency),
    ):
        if slow is not None and fast is not None:
            rows.append(_latencies(label, slow, fast))
    return rows


def _sizes(label: str, note: str, before: int, after: int, word: str) -> Row:
    text = numbers.bytes_text if word == "smaller" else numbers.count
    gain = "unchanged" if before == after else f"{numbers.times(before, after)} {word}"
    if after > before:
        gain = f"{numbers.times(after, before)} {'more' if word == 'fewer' else 'larger'}"
    kept = after / before if before else None
    return Row(label, note, text(before), text(after), gain, kept)


def _latencies(label: str, before: Timing, after: Timing) -> Row:
    # The median of the ratios round by round: both sides of a ratio saw the same machine.
    ratio = before.ratio(after)
    gain = f"{numbers.times(ratio, 1)} as fast"
    return Row(
        label,
        before.conditions,
        numbers.milliseconds(before.median_ms),
        numbers.milliseconds(after.median_ms),
        gain,
        1 / ratio,
    )
