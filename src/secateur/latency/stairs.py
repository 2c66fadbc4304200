"""The staircase of a latency: the sizes after which the next one is slower."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["fast_sizes"]


def fast_sizes(latency: Mapping[int, float], tolerance: float = 0.0) -> list[int]:
    """The right edge of every step, from the largest size down.

    The largest size is one. The next is the largest below it that is faster by more than chance,
    and so on: a size that saves nothing is left out, and so is one that is slower than a larger
    one, as odd sizes can be.

    Parameters
    ----------
    latency : mapping of int to float
        Size -> latency.
    tolerance : float, default 0
        Relative differences up to this are chance.

    Returns
    -------
    list of int
        Descending.

    Examples
    --------
    >>> steps = {size: -(-size // 8) for size in range(1, 25)}
    >>> fast_sizes(steps)
    [24, 16, 8]
    >>> fast_sizes({4: 4.0, 3: 5.0, 2: 2.0, 1: 1.99}, tolerance=0.01)
    [4, 2]
    """
    edges: list[int] = []
    reached = float("inf")
    for size in sorted(latency, reverse=True):
        if latency[size] < reached * (1 - tolerance):
            edges.append(size)
            reached = latency[size]
    return edges
