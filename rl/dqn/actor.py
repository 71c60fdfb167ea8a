"""The agent while it learns: it steps the environments, and what it does becomes rows of the replay memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from rl.dqn.networks import QNetwork
from rl.dqn.replay import Rows
from rl.environments import Environments

RECENT = 100  # episodes over which the return of training is averaged


class Actor:
    """Steps environments with a network that is being trained, and keeps count of the returns.

    Attributes:
        finished: undiscounted returns of the last 100 episodes that ended by themselves, as rewards were given.
    """

    def __init__(self, environments: Environments) -> None:
        self.environments = environments
        self.observations = np.zeros(0)
        self.running = np.zeros(environments.count)
        self.finished: list[float] = []

    def begin(self, seed: int) -> None:
        """Begins new episodes everywhere; those that were running are forgotten."""
        self.observations = self.environments.reset(seed)
        self.running = np.zeros(self.environments.count)

    @torch.no_grad()
    def collect(self, model: QNetwork, steps: int, epsilon: float) -> Rows:
        """Acts ε-greedily for some steps in each environment."""
        environments = self.environments
        shape = (steps, environments.count)
        explored = torch.rand(shape) < epsilon
        some, everywhere, explore = explored.any(1).tolist(), explored.all(1).tolist(), explored.numpy()
        anyhow = torch.randint(len(environments.actions), shape).numpy()
        policy = model.policy()
        rows = Rows.empty(steps, environments.count, environments.frame, environments.dtype)
        observations, taken, rewards, terminated, truncated, real = (column.numpy() for column in rows)  # same memory
        for row in range(steps):
            actions = anyhow[row]
            if not everywhere[row]:
                best = policy(self.observations)
                actions = np.where(explore[row], actions, best) if some[row] else best
            step = environments.step(actions)
            observations[row], taken[row] = environments.newest(self.observations), actions
            rewards[row], real[row] = step.rewards, step.real
            terminated[row], truncated[row] = step.terminated, step.truncated
            self.observations = step.observations
        self._count(rewards, terminated | truncated)
        return rows

    @property
    def newest(self) -> Tensor:
        """What was seen last, as it is stored: [N, *frame]."""
        return torch.from_numpy(self.environments.newest(self.observations))

    @property
    def episode_return(self) -> float:
        """Mean return of the last 100 episodes; of what the running ones have so far before the first has ended."""
        return sum(self.finished) / len(self.finished) if self.finished else float(self.running.mean())

    def _count(self, rewards: ndarray, ended: ndarray) -> None:
        """Adds up [R, N] rewards of the running episodes, and closes those that ended."""
        begin = 0
        for last in np.flatnonzero(ended.any(1)).tolist():
            self.running += rewards[begin : last + 1].sum(0)
            self.finished = (self.finished + self.running[ended[last]].tolist())[-RECENT:]
            self.running[ended[last]] = 0
            begin = last + 1
        self.running += rewards[begin:].sum(0)

    def state_dict(self) -> dict[str, list[float]]:
        return {"finished": self.finished}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.finished = list(state["finished"])
