"""Agents in environments: collecting what is learned from, and playing what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rl.environments import Environments
from rl.networks import QNetwork
from rl.replay import Rows

RECENT = 100  # episodes over which the return of training is averaged


class Actor:
    """Steps environments with a network that is being trained, and keeps count of the returns.

    Attributes:
        finished: undiscounted returns of the last 100 episodes that ended by themselves, as rewards were given.
    """

    def __init__(self, environments: Environments, device: torch.device) -> None:
        self.environments, self.device = environments, device
        self.observations = torch.empty(0)
        self.running = torch.zeros(environments.count)
        self.finished: list[float] = []

    def begin(self, seed: int) -> None:
        """Begins new episodes everywhere; those that were running are forgotten."""
        self.observations = self.environments.reset(seed)
        self.running = torch.zeros(self.environments.count)

    @torch.no_grad()
    def collect(self, model: QNetwork, steps: int, epsilon: float) -> Rows:
        """Acts ε-greedily for some steps in each environment."""
        environments = self.environments
        explore = torch.rand(steps, environments.count) < epsilon
        anyhow = torch.randint(len(environments.actions), (steps, environments.count))
        seen: list[tuple[Tensor, ...]] = []
        for row in range(steps):
            actions = anyhow[row]
            if not bool(explore[row].all()):
                model.resample()
                best = model.values(self.observations.to(self.device)).argmax(1).cpu()
                actions = torch.where(explore[row], actions, best)
            before = environments.newest(self.observations)
            step = environments.step(actions)
            seen.append((before, actions, step.rewards, step.terminated, step.truncated, step.real))
            self.observations = step.observations
            self._count(step.rewards, step.terminated | step.truncated)
        return Rows(*(torch.stack(column) for column in zip(*seen, strict=True)))

    @property
    def newest(self) -> Tensor:
        """What was seen last, as it is stored: [N, *frame]."""
        return self.environments.newest(self.observations)

    @property
    def episode_return(self) -> float:
        """Mean return of the last 100 episodes; of what the running ones have so far before the first has ended."""
        return sum(self.finished) / len(self.finished) if self.finished else self.running.mean().item()

    def _count(self, rewards: Tensor, ended: Tensor) -> None:
        self.running += rewards
        if bool(ended.any()):
            self.finished = (self.finished + self.running[ended].tolist())[-RECENT:]
            self.running[ended] = 0

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
    running = torch.ones(environments.count, dtype=torch.bool)
    returns = torch.zeros(environments.count, dtype=torch.float64)
    lengths = torch.zeros(environments.count, dtype=torch.int64)
    while bool(running.any()):
        watch()
        step = environments.step(values(observations).argmax(1).cpu())
        returns += running * step.rewards
        lengths += running
        running &= ~(step.terminated | step.truncated)
        observations = step.observations
    return Played(returns, lengths)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of the CPU: more would sum in another order, and one other action makes another episode."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
