"""Figures of what pruning did: each function returns a matplotlib figure.

They need the extra ``report``. Every one takes ``theme`` (``"light"`` or ``"dark"``) and ``width``
in inches; its height follows from what it shows. The figures have no connection to pyplot: a
notebook shows them, and ``figure.savefig("mask.png")`` writes them.
"""

from __future__ import annotations

from secateur.report.figures import (
    accuracy,
    groups,
    histogram,
    layers,
    mask,
    sensitivity,
    training,
)

__all__ = ["accuracy", "groups", "histogram", "layers", "mask", "sensitivity", "training"]
