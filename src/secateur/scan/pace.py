"""How long the rest of a scan will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from secateur.progress import Tick, duration

__all__ = ["Pace"]


class Pace:
    """Passes progress on, with the time that is left at the pace of the trials so far.

    Parameters
    ----------
    tick : callable or None
        Called as ``tick(done, total, text)``.
    clock : callable
        Seconds that never go back.

    Examples
    --------
    >>> seconds = iter([0.0, 10.0, 20.0])
    >>> pace = Pace(lambda done, total, text: print(done, total, text), lambda: next(seconds))
    >>> pace(1, 3, "conv1")
    1 3 conv1; 20 s left
    >>> pace(2, 3, "conv2")
    2 3 conv2; 10 s left
    """

    def __init__(self, tick: Tick | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._tick, self._clock = tick, clock
        self.restart()

    def restart(self) -> None:
        """The trials begin now."""
        self._start, self._given = self._clock(), 0

    def known(self) -> None:
        """The next one takes no time: it was measured before."""
        self._given += 1

    def __call__(self, done: int, total: int, text: str) -> None:
        if self._tick is None:
            return
        made = done - self._given
        if made > 0 and done < total:
            left = (self._clock() - self._start) / made * (total - done)
            text = f"{text}; {duration(left)} left"
        self._tick(done, total, text)
