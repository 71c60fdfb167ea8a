"""A trained agent in its environment, step by step, for those who watch it or act in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from common.kinds.game import Scene
from common.report import frames
from rl.environments import Environments
from rl.gallery import picture

WIDTH = 640  # of a picture in pixels, at most; what is no wider costs no resizing


class AgentGame:
    """One episode at a time.

    Args:
        name: of the environment.
        values: of every action, from observations [1, *shape] to [1, A].

    Raises:
        UserError: as of Environments.
    """

    def __init__(self, name: str, values: Callable[[Tensor], Tensor]) -> None:
        self._environments = Environments(name, 1, once=True, render=True)
        self._values = values
        self.actions: Sequence[str] = self._environments.actions
        self._scene = Scene(b"", None, [], None, 0.0, 0.0, 0, over=True)

    def reset(self, seed: int) -> Scene:
        """Begins an episode; the same seed gives the same start."""
        return self._show(self._environments.reset(seed), None, 0.0, 0.0, 0, over=False)

    def step(self, action: int | None) -> Scene:
        """One step with an action, the agent's own where it is None; after the end nothing changes any more."""
        before = self._scene
        if before.over:
            return before
        if action is None:
            action = max(range(len(before.values)), key=before.values.__getitem__)
        step = self._environments.step(np.array([action]))
        reward = float(step.rewards[0])
        over = bool(step.terminated[0] or step.truncated[0])
        return self._show(step.observations, action, reward, before.total + reward, before.step + 1, over=over)

    def close(self) -> None:
        """Gives the environment back."""
        self._environments.close()

    @torch.inference_mode()
    def _show(
        self, observations: ndarray, action: int | None, reward: float, total: float, step: int, *, over: bool
    ) -> Scene:
        values = self._values(torch.from_numpy(observations))[0].tolist()
        image = frames.png(picture(self._environments.render(), WIDTH), quick=True)
        seen = None if self._environments.pixels else observations[0].tolist()
        self._scene = Scene(image, seen, values, action, reward, total, step, over)
        return self._scene
