"""Playing whole episodes, as an agent is measured and watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl.environments import Environments


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
