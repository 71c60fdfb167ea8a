"""A game that a model plays, step by step, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Scene:
    """A moment of a game.

    Attributes:
        picture: a PNG file.
        observation: what the agent sees, as numbers; None where that is a picture.
        values: that the agent expects of each action now.
        action: number of the one that led here; None at the start.
        reward: that it gave.
        total: of all rewards so far.
        step: 0 at the start.
        over: the episode has ended.
    """

    picture: bytes
    observation: list[float] | None
    values: list[float]
    action: int | None
    reward: float
    total: float
    step: int
    over: bool


class Game(Protocol):
    """An agent in its environment, step by step."""

    actions: Sequence[str]

    def reset(self, seed: int) -> Scene:
        """Begins an episode; the same seed gives the same start."""

    def step(self, action: int | None) -> Scene:
        """One step with an action, the agent's own where it is None; after the end nothing changes any more."""

    def close(self) -> None:
        """Gives the environment back."""
