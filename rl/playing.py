"""Agents in environments: collecting what is learned from, and playing what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Played:
    """One whole episode in each of N environments: undiscounted returns float64 [N] and lengths in steps [N]."""

    returns: Tensor
    lengths: Tensor

    @property
    def mean(self) -> float:
        return self.returns.mean().item()


@torch.inference_mode()
def play(
    values: Callable[[Tensor], Tensor],
    environments: Environments,
    seed: int,
    watch: Callable[[], None] = lambda: None,
) -> Played:
    """Plays greedily; only the first episode of each environment counts, so that short ones are not over-represented.

    Args:
        values: of every action, from observations [N, *shape] to [N, A].
        environments: not of a training: they are reset, and left in the middle of episodes.
        watch: called before every step.
    """
    observations = environments.reset(seed)
    running = np.ones(environments.count, np.bool_)
    returns = np.zeros(environments.count)
    lengths = np.zeros(environments.count, np.int64)
    while running.any():
        watch()
        step = environments.step(values(torch.from_numpy(observations)).argmax(1).cpu().numpy())
        returns += running * step.rewards
        lengths += running
        running &= ~(step.terminated | step.truncated)
        observations = step.observations
    return Played(torch.from_numpy(returns), torch.from_numpy(lengths))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of the CPU: more would sum in another order, and one other action makes another episode."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
