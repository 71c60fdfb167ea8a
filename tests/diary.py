"""A diary: an environment whose observations say which episode and step they are from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def length_of(episode: int) -> int:
    return (3, 7, 1, 5, 2, 9)[episode % 6]


def reward_of(episode: int, step: int) -> float:
    return float((7 * episode + 3 * step) % 5 - 2)


def terminates(episode: int) -> bool:
    """Whether an episode ends by itself; else its time is up."""
    return episode % 4 < 2


def diary(pixels: bool = False, **_: Any) -> Any:
    """Observations [lane, episode, step]; an image has these as the gray values of its thirds."""
    import gymnasium
    import numpy as np

    class Diary(gymnasium.Env):
        shape = (84, 84, 1) if pixels else (3,)
        observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8 if pixels else np.float32)
        action_space = gymnasium.spaces.Discrete(3)

        def __init__(self) -> None:
            self.lane, self.episode, self.now = 0, -1, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.lane = self.lane if seed is None else seed % 10
            self.episode, self.now = self.episode + 1, 0
            return self.seen(), {}

        def step(self, action: Any) -> Any:
            reward = reward_of(self.episode, self.now)
            self.now += 1
            over = self.now == length_of(self.episode)
            ends = terminates(self.episode)
            return self.seen(), reward, over and ends, over and not ends, {}

        def seen(self) -> Any:
            values = [self.lane, self.episode, self.now]
            if not pixels:
                return np.array(values, np.float32)
            return np.repeat(np.array(values, np.uint8), 28)[:, None, None] * np.ones((1, 84, 1), np.uint8)

    return Diary()


@contextmanager
def registered() -> Iterator[None]:
    """Knows `Diary-v0` and `PixelDiary-v0` for a while."""
    import gymnasium

    for name, pixels in (("Diary-v0", False), ("PixelDiary-v0", True)):
        gymnasium.register(name, diary, kwargs={"pixels": pixels}, max_episode_steps=1000, disable_env_checker=True)
    yield
    for name in ("Diary-v0", "PixelDiary-v0"):
        del gymnasium.registry[name]
