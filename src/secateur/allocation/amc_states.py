"""What AMC's agent sees of a group, and how far it may go: features, and the action wall."""

from __future__ import annotations

import math

import numpy as np

from secateur.allocation.problem import Amounts, Problem

__all__ = ["FEATURES", "Walls", "features"]

FEATURES = 11


class Walls:
    """Cost of one measure along an episode, and the least that a group has to lose in it.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.measure = next(iter(problem.budget), "macs")
        self.dense = self.cost(problem.none)
        most = problem.most
        # What a group can save at most, alone: its share of the whole, as the agent sees it.
        self.owns = []
        for at, count in enumerate(most):
            alone = tuple(count if other == at else 0 for other in range(len(most)))
            self.owns.append(self.dense - self.cost(alone))

    def cost(self, amounts: Amounts) -> float:
        """In the budget's first measure."""
        return float(self.problem.cost(amounts)[self.measure])

    def completed(self, chosen: list[int], later: Amounts | None = None) -> Amounts:
        """Chosen amounts with all later groups at their most, or at given amounts."""
        rest = self.problem.most if later is None else later
        return (*chosen, *rest[len(chosen) :])

    def least(self, chosen: list[int]) -> int:
        """The least that the next group may lose, if all later ones lose the most they may.

        By bisection over its allowed amounts, with the problem's own cost: nothing is assumed of
        which layers a group is coupled to.
        """
        counts = self.problem.allowed[len(chosen)]
        low, high = 0, len(counts) - 1
        while low < high:
            middle = (low + high) // 2
            if self.problem.met(self.completed([*chosen, int(counts[middle])])):
                high = middle
            else:
                low = middle + 1
        return int(counts[low])


def features(walls: Walls, chosen: list[int], kept: float) -> np.ndarray:
    """The state before the next group is decided, every feature within 0 and 1.

    In the place of the paper's index, output and input channels, height, width, stride, kernel,
    FLOPs of the layer, reduced, rest and last action: index, units, classes per unit, share of
    units that may go, share of them among the allowed amounts, mean and spread of the scores, the
    cost that the group can save, what is saved so far, what later groups can save still, and the
    share that was kept of the group before.
    """
    problem = walls.problem
    at, last = len(chosen), len(problem.groups) - 1
    at = min(at, last)
    group, counts = problem.groups[at], problem.allowed[at]
    sizes = [len(other.scores) for other in problem.groups]
    widths = [_width(other.weights) for other in problem.groups]
    judged = np.ones(sizes[at], bool) if group.judged is None else np.asarray(group.judged, bool)
    scores = np.abs(np.asarray(group.scores, np.float64)[judged])
    mean = float(scores.mean()) if len(scores) else 0.0
    spread = float(scores.std()) / mean if mean > 0 else 0.0
    now = walls.cost(walls.completed(chosen, problem.none))
    floor = walls.cost(walls.completed(chosen))
    dense = max(walls.dense, 1e-300)
    state = [
        at / max(last, 1),
        math.log1p(sizes[at]) / math.log1p(max(sizes)),
        math.log1p(widths[at]) / math.log1p(max(widths)),
        counts[-1] / max(sizes[at], 1),
        len(counts) / max(counts[-1] + 1, 1),
        mean / (1 + mean),
        spread / (1 + spread),
        walls.owns[at] / dense,
        (walls.dense - now) / dense,
        (now - floor) / dense,
        kept,
    ]
    return np.clip(np.asarray(state, dtype=np.float32), 0, 1)


def _width(weights: np.ndarray | None) -> float:
    return 1.0 if weights is None or not len(weights) else float(np.mean(weights))
