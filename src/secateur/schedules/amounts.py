"""How much is pruned at which step: one object per schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from secateur import specs
from secateur.attached.checks import checked
from secateur.errors import InputError
from secateur.registry import Registry
from secateur.specs import Spelled

__all__ = ["SCHEDULES", "Schedule", "as_schedule"]


class Schedule(Spelled, ABC):
    """Base of every schedule: a sparsity for every step.

    Parameters
    ----------
    target : float, default 0.9
        Sparsity at the end, 0 to 1.
    steps : int, default 10
        How many steps it takes from the start to the target.
    initial : float, default 0.0
        Sparsity before the start.
    start : int, default 0
        The step at which pruning starts.
    every : int, default 1
        The sparsity changes only every so many steps after the start.

    Raises
    ------
    InputError

    Examples
    --------
    >>> [round(AGP(target=0.9, steps=10).sparsity(step), 4) for step in range(0, 11, 5)]
    [0.0, 0.7875, 0.9]
    """

    def __init__(
        self,
        target: float = 0.9,
        steps: int = 10,
        initial: float = 0.0,
        start: int = 0,
        every: int = 1,
    ) -> None:
        kind = f"schedule {self.name}"
        self.target = checked(kind, "target", target, high=1.0)
        self.initial = checked(kind, "initial", initial, high=1.0)
        self.steps = int(checked(kind, "steps", steps, low=1))
        self.start = int(checked(kind, "start", start))
        self.every = int(checked(kind, "every", every, low=1))

    @abstractmethod
    def between(self, initial: float, target: float, progress: float) -> float:
        """The sparsity when this fraction of the way, 0 to 1, is behind."""

    def sparsity(self, step: int) -> float:
        """The sparsity after a step.

        Parameters
        ----------
        step : int
            Counted from 0, where nothing is pruned yet but what `initial` says.
        """
        since = step - self.start
        if since <= 0:
            return self.initial
        if since >= self.steps:
            return self.target
        last = since - since % self.every
        return self.between(self.initial, self.target, last / self.steps)


class Curve(Schedule):
    """Base of schedules that are one curve, stretched from the start to the target."""

    def between(self, initial: float, target: float, progress: float) -> float:
        return initial + (target - initial) * self.fraction(progress)

    @abstractmethod
    def fraction(self, progress: float) -> float:
        """How much of the change is made after a fraction of the time."""


SCHEDULES: Registry[type[Schedule]] = Registry("schedule")


def as_schedule(text: str | Schedule) -> Schedule:
    """The schedule meant by a name with options, or an object.

    Examples
    --------
    >>> as_schedule("linear:target=0.8,steps=4").sparsity(1)
    0.2
    """
    if isinstance(text, Schedule):
        return text
    if not isinstance(text, str):
        raise InputError(f"a schedule is a name or an object, not {type(text).__name__}")
    return specs.build(SCHEDULES, text)


@SCHEDULES.register("one_shot")
class OneShot(Curve):
    """All at once, in the first step (Han et al. 2015, arXiv:1506.02626).

    Examples
    --------
    >>> [OneShot(target=0.5).sparsity(step) for step in (0, 1, 2)]
    [0.0, 0.5, 0.5]
    """

    name = "one_shot"

    def fraction(self, progress: float) -> float:
        return 1.0


@SCHEDULES.register("iterative")
class Iterative(Schedule):
    """The same fraction of what is left in every step (Han et al. 2015, arXiv:1506.02626).

    For a target S in n rounds each round takes 1 − (1 − S)^(1/n) of what is left.

    Examples
    --------
    >>> schedule = Iterative(target=0.75, steps=2)
    >>> schedule.sparsity(1), schedule.rate
    (0.5, 0.5)
    """

    name = "iterative"

    def between(self, initial: float, target: float, progress: float) -> float:
        if initial >= 1.0:
            return target if progress > 0 else initial
        return 1.0 - (1.0 - initial) * ((1.0 - target) / (1.0 - initial)) ** progress

    @property
    def rate(self) -> float:
        """Share of what is left that goes in one step."""
        if self.initial >= 1.0:
            return 0.0
        left: float = ((1.0 - self.target) / (1.0 - self.initial)) ** (1.0 / self.steps)
        return 1.0 - left


@SCHEDULES.register("linear")
class Linear(Curve):
    """The same number of weights in every step (arXiv:1710.01878 with exponent 1).

    Examples
    --------
    >>> Linear(target=0.9, steps=3).sparsity(1)
    0.3
    """

    name = "linear"

    def fraction(self, progress: float) -> float:
        return progress


@SCHEDULES.register("agp", "cubic")
class AGP(Curve):
    """Much early, little late: s = s_f + (s_i − s_f) (1 − t)³ (arXiv:1710.01878).

    Zhu and Gupta 2017; they prune every 100 steps.

    Examples
    --------
    >>> [round(AGP().sparsity(step), 4) for step in range(5)]
    [0.0, 0.2439, 0.4392, 0.5913, 0.7056]
    """

    name = "agp"

    def fraction(self, progress: float) -> float:
        return 1.0 - (1.0 - progress) ** 3


@SCHEDULES.register("asfp")
class ASFP(Curve):
    """Exponential, three quarters of the way after an eighth of the time (arXiv:1808.07471).

    He et al. 2018 let the rate of soft filter pruning rise like this, s = a (1 − e^(−kt)), with
    a and k such that the curve runs through those three points.

    Examples
    --------
    >>> [round(ASFP(target=0.4, steps=8).sparsity(step), 3) for step in (0, 1, 4, 8)]
    [0.0, 0.3, 0.398, 0.4]
    """

    name = "asfp"

    def fraction(self, progress: float) -> float:
        return math.expm1(-RATE * progress) / math.expm1(-RATE)


def _rate() -> float:
    """The k for which (1 − e^(−k/8)) / (1 − e^(−k)) is three quarters, by bisection."""
    low, high = 1.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        if math.expm1(-middle / 8) / math.expm1(-middle) < 0.75:
            low = middle
        else:
            high = middle
    return low


RATE = _rate()


@SCHEDULES.register("movement")
class MovementCubic(AGP):
    """The cubic with a warm-up and a cool-down (movement pruning, arXiv:2005.07683).

    Sanh et al. 2020: the sparsity stands at `initial` for `warmup` of the steps, follows the
    cubic, and stands at the target for `cooldown` of them.

    Parameters
    ----------
    warmup, cooldown : float, default 0.1
        Shares of the steps.

    Examples
    --------
    >>> schedule = MovementCubic(target=0.8, steps=10, warmup=0.2, cooldown=0.3)
    >>> [round(schedule.sparsity(step), 3) for step in (0, 2, 3, 7, 10)]
    [0.0, 0.0, 0.39, 0.8, 0.8]
    """

    name = "movement"

    def __init__(
        self,
        target: float = 0.9,
        steps: int = 10,
        initial: float = 0.0,
        start: int = 0,
        every: int = 1,
        warmup: float = 0.1,
        cooldown: float = 0.1,
    ) -> None:
        super().__init__(target, steps, initial, start, every)
        self.warmup = checked("schedule movement", "warmup", warmup, high=1.0)
        self.cooldown = checked("schedule movement", "cooldown", cooldown, high=1.0)
        if self.warmup + self.cooldown >= 1.0:
            raise InputError("schedule movement: warmup and cooldown leave no time to prune in")

    def fraction(self, progress: float) -> float:
        # The small term keeps 1 − cooldown from falling a hair short of its end.
        inside = (progress - self.warmup + 1e-12) / (1.0 - self.warmup - self.cooldown)
        return super().fraction(min(max(inside, 0.0), 1.0)) if progress > self.warmup else 0.0
