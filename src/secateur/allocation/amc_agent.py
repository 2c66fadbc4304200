"""The agent of AMC: DDPG with exploration in the actions, and an environment of one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from secateur.allocation.amc_states import FEATURES, Walls, features
from secateur.allocation.problem import Amounts
from secateur.errors import require
from secateur.observing import all_seeded

__all__ = ["Search"]

NOISE, NOISE_DECAY = 0.5, 0.95
BASELINE_DECAY = 0.5
HIDDEN, BATCH, TAU, GAMMA = 300, 64, 0.01, 1.0
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
REMEMBERED = 100


def environment(walls: Walls) -> Any:
    """An environment of gymnasium: one episode decides one model, a step a group.

    The action is the share of the group that stays, within 0 and 1; the observation is that of
    `features`. Rewards are 0 here: an episode's is known once its model is tried out.
    """
    gym = require("gymnasium", "amc")
    problem = walls.problem

    class Groups(gym.Env):  # type: ignore[name-defined]
        """Groups in their order; ``info["amounts"]`` at the end."""

        action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        observation_space = gym.spaces.Box(0.0, 1.0, (FEATURES,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.chosen: list[int] = []
            self.kept = 1.0
            return features(walls, self.chosen, self.kept), {}

        def step(self, action: np.ndarray) -> Any:
            at = len(self.chosen)
            size, counts = len(problem.groups[at].scores), problem.allowed[at]
            asked = (1 - float(np.asarray(action).reshape(-1)[0])) * size
            near = int(counts[np.abs(counts - asked).argmin()])
            least = walls.least(self.chosen)
            amount = max(near, least)
            # A measured cost need not fall with every unit that goes.
            if amount > least and not problem.met(walls.completed([*self.chosen, amount])):
                amount = least
            self.chosen.append(amount)
            self.kept = 1 - amount / max(size, 1)
            done = len(self.chosen) == len(problem.groups)
            info = {"amounts": tuple(self.chosen), "acted": self.kept}
            return features(walls, self.chosen, self.kept), 0.0, done, False, info

    return Groups()


class Search:
    """Episodes of one agent on one problem.

    Parameters
    ----------
    walls : Walls
    reward : callable
        Amounts -> reward of the episode that decided them.
    seed : int
    """

    def __init__(self, walls: Walls, reward: Callable[[Amounts], float], seed: int) -> None:
        self.walls, self.reward = walls, reward
        self.steps = len(walls.problem.groups)
        self.draw = np.random.default_rng(seed)
        self.seed = seed

    def best(self, episodes: int, warmup: int) -> Amounts:
        """The amounts of the episode with the highest reward; the earliest of equals."""
        # Replay and initial weights draw from the global random states.
        with all_seeded(self.seed):
            self.world = environment(self.walls)
            self.agent = agent(self.world, self.steps, self.seed)
            return self._best(episodes, warmup)

    def _best(self, episodes: int, warmup: int) -> Amounts:
        found: tuple[float, Amounts] | None = None
        baseline: float | None = None
        for episode in range(episodes):
            spread = None if episode < warmup else NOISE * NOISE_DECAY ** (episode - warmup)
            amounts, seen = self._episode(spread)
            assert self.walls.problem.met(amounts), "the wall keeps to the budget"
            reward = self.reward(amounts)
            if found is None or reward > found[0]:
                found = reward, amounts
            baseline = reward if baseline is None else baseline
            baseline = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * reward
            for state, following, action, last in seen:
                self.agent.replay_buffer.add(
                    state, following, action, np.array([reward - baseline]), np.array([last]), [{}]
                )
            if episode + 1 >= warmup:
                self.agent.train(gradient_steps=self.steps, batch_size=BATCH)
        assert found is not None
        return found[1]

    def _episode(
        self, spread: float | None
    ) -> tuple[Amounts, list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]]:
        """Decide one model: at random for a spread of None, or else near what is learnt."""
        state, _ = self.world.reset()
        seen = []
        while True:
            if spread is None:
                action = self.draw.uniform()
            else:
                learnt, _ = self.agent.predict(state, deterministic=True)
                action = self._near(float(learnt[0]), spread)
            following, _, done, _, info = self.world.step(np.array([action], np.float32))
            # What was really done is learnt from, not what the wall did not let pass.
            acted = np.array([2 * info["acted"] - 1], np.float32)
            seen.append((state, following, acted, done))
            state = following
            if done:
                return info["amounts"], seen

    def _near(self, mean: float, spread: float) -> float:
        """A draw from the normal distribution around a mean, truncated to 0 … 1."""
        for _ in range(1000):
            drawn = float(self.draw.normal(mean, spread))
            if 0 <= drawn <= 1:
                return drawn
        return mean


def agent(world: Any, steps: int, seed: int) -> Any:
    """A DDPG agent with the paper's sizes, which the caller feeds and trains."""
    baselines = require("stable_baselines3", "amc")
    from stable_baselines3.common.logger import Logger

    made = baselines.DDPG(
        "MlpPolicy",
        world,
        learning_rate=CRITIC_RATE,
        buffer_size=REMEMBERED * steps,
        batch_size=BATCH,
        tau=TAU,
        gamma=GAMMA,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        device="cpu",
        seed=seed,
    )
    made.set_logger(Logger(None, []))
    # The library has one rate for both, which it sets anew before each training.
    made._update_learning_rate = lambda optimizers: None
    for settings in made.actor.optimizer.param_groups:
        settings["lr"] = ACTOR_RATE
    return made
