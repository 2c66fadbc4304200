"""AMC: a reinforcement-learning agent decides, group by group, how much stays."""

from __future__ import annotations

import numpy as np

from secateur.allocation.amc_states import Walls
from secateur.allocation.base import ALLOCATIONS
from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.searching import Searching
from secateur.errors import InputError

__all__ = ["AMC"]


@ALLOCATIONS.register("amc")
class AMC(Searching):
    """An agent that learns, by trying models out, how much of each group stays.

    He et al. 2018 (arXiv:1802.03494): deep deterministic policy gradient (DDPG) over episodes of
    one step a group. The agent sees eleven features of the group, each within 0 and 1, and acts
    by the share of it that stays. An action that would put the budget out of reach, even if all
    later groups lost all they may, is cut to the nearest that does not, by the exact cost of
    coupled groups together. At the end of an episode the model is tried out, and what that says,
    less a moving average, is the reward of each of its steps. The best model of all episodes is
    the result. Needs the extra ``amc`` and `evaluate`.

    Parameters
    ----------
    episodes : int, default 400
        Models that are tried out, the warm-up included.
    warmup : int, default 100
        First episodes, which act at random.
    reward : {"error", "flops"}, default "error"
        ``"error"``: R = −error = value − 1, under the budget. ``"flops"``: R = −error · log(cost)
        of the budget's first measure, which weighs the cost as well as the error; for values
        between 0 and 1.
    seed : int, optional
        Of the agent; that of the search if not given.

    Examples
    --------
    >>> AMC(episodes=50, warmup=10).spec
    'amc:episodes=50,warmup=10'
    """

    name = "amc"

    def __init__(
        self,
        episodes: int = 400,
        warmup: int = 100,
        reward: str = "error",
        seed: int | None = None,
    ) -> None:
        for option, value in (("episodes", episodes), ("warmup", warmup)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"amc: {option} must be an integer of at least 1, not {value!r}")
        if reward not in ("error", "flops"):
            raise InputError(f"amc: reward must be 'error' or 'flops', not {reward!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise InputError(f"amc: seed must be an integer of at least 0, not {seed!r}")
        self.episodes, self.warmup, self.reward, self.seed = episodes, warmup, reward, seed

    def amounts(self, problem: Problem) -> Amounts:
        from secateur.allocation.amc_agent import Search

        problem.values([], self.name)
        walls = Walls(problem)

        def reward(amounts: Amounts) -> float:
            value = problem.value(amounts, self.name)
            if self.reward == "error":
                return value - 1
            if not 0 <= value <= 1:
                raise InputError(
                    "amc: reward='flops' takes values between 0 and 1, such as accuracy, and "
                    f"evaluate returned {value:g}"
                )
            return (value - 1) * float(np.log(max(walls.cost(amounts), 1.0)))

        seed = problem.seed if self.seed is None else self.seed
        return Search(walls, reward, seed).best(self.episodes, self.warmup)
