"""Environments of gymnasium, many at once: made, seeded, stepped and described, and one of our own for tests."""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray

from common.errors import UserError, nearest

FRAMES = 4  # stacked into one observation of images
SIZE = 84  # side of an image in pixels, as in Mnih et al. 2015
TINY = "Corridor-v0"
LIMIT = 1000  # steps of an episode where the environment has no limit: an agent may walk in circles for ever
# From so many on, gymnasium's vectorised implementations are faster than one environment after the other.
WORTH_VECTORS = 4

# What the actions of well-known environments are called; Atari games name their own.
ACTIONS = {
    "CartPole": ("push left", "push right"),
    "Acrobot": ("torque -1", "torque 0", "torque +1"),
    "MountainCar": ("push left", "do nothing", "push right"),
    "LunarLander": ("do nothing", "fire left engine", "fire main engine", "fire right engine"),
    "Corridor": ("left", "right"),
}


class Step(NamedTuple):
    """What N environments answered.

    Attributes:
        observations: to act on next, [N, *shape]; the last one of an episode where it ended.
        rewards: float32 [N].
        terminated, truncated: bool [N].
        real: false where an episode had ended before, so that this step only reset, bool [N].
    """

    observations: ndarray
    rewards: ndarray
    terminated: ndarray
    truncated: ndarray
    real: ndarray


class Environments:
    """N environments of one kind that step together.

    They reset in the step after an episode's end, whatever the action (AutoresetMode.NEXT_STEP). Of many, gymnasium's
    own vectorised implementation is taken where there is one, else one environment after the other is stepped.
    Images are turned gray, shrunk to 84 × 84 and stacked, four to an observation; Atari games also skip four frames,
    take the brighter of the last two, and start with up to 30 steps of doing nothing (Mnih et al. 2015).
    What goes in and comes out are arrays, as gymnasium's; they become tensors where a network takes them.

    Args:
        name: id in gymnasium.
        once: play one episode in each environment, then stand still: for evaluation.
        clip_rewards: keep only their sign.
        life_loss: the loss of a life ends the episode; Atari only.
        render: `render` gives a picture.
        limit: steps after which an episode is cut; None for the environment's own limit, or LIMIT where it has none.

    Attributes:
        limit: that was put on an environment which has none of its own; None where nothing was put on.

    Raises:
        UserError: there is no such environment, a library for it is missing, or its actions are not discrete.
    """

    def __init__(
        self,
        name: str,
        count: int,
        *,
        once: bool = False,
        clip_rewards: bool = False,
        life_loss: bool = False,
        render: bool = False,
        limit: int | None = None,
    ) -> None:
        import gymnasium
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        self.name, self.count, self.clip_rewards = name, count, clip_rewards
        first = make(name, life_loss=life_loss, render=render, limit=limit)
        self.vector: Any = None
        spec = first.spec
        self.limit = None if _limits_itself(spec.id) else limit or LIMIT
        vectorised = spec.vector_entry_point is not None and not spec.additional_wrappers
        vectorised = vectorised and limit is None and self.limit is None
        if vectorised and count >= WORTH_VECTORS and not render:
            first.close()
            self.vector = gymnasium.make_vec(name, num_envs=count, vectorization_mode="vector_entry_point")
            if self.vector.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
                self.vector = None
        if self.vector is None:
            made = [first, *(make(name, life_loss=life_loss, limit=limit) for _ in range(count - 1))]
            if once:
                made = [_once(environment) for environment in made]
            made_already = iter(made)
            self.vector = SyncVectorEnv(
                [lambda: next(made_already)] * count, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP
            )
        space = self.vector.single_observation_space
        self.pixels = len(space.shape) == 2
        self.frame = tuple(space.shape)
        self.shape = (FRAMES, *self.frame) if self.pixels else self.frame
        self.dtype = torch.uint8 if self.pixels else torch.float32
        self._start = int(self.vector.single_action_space.start)
        self.actions = action_names(name, first, int(self.vector.single_action_space.n))
        self.threshold: float | None = spec.reward_threshold
        self._stack = np.zeros(0)
        self._over = np.zeros(count, np.bool_)

    def reset(self, seed: int) -> ndarray:
        """Begins an episode in each; observations [N, *shape]."""
        frames = self._frames(self.vector.reset(seed=seed)[0])
        self._over = np.zeros(self.count, np.bool_)
        if not self.pixels:
            return frames
        self._stack = np.repeat(frames[:, None], FRAMES, 1)
        return self._stack

    def step(self, actions: ndarray) -> Step:
        """One step of each with actions int64 [N]."""
        chosen = actions + self._start if self._start else actions
        seen, rewards, terminated, truncated, _ = self.vector.step(chosen)
        frames = observations = self._frames(seen)
        resets, self._over = self._over, terminated | truncated
        if self.pixels:
            moved = np.concatenate([self._stack[:, 1:], frames[:, None]], 1)
            self._stack = observations = np.where(resets[:, None, None, None], frames[:, None], moved)
        if self.clip_rewards:
            rewards = np.sign(rewards)
        return Step(observations, rewards.astype(np.float32), terminated, truncated, ~resets)

    def newest(self, observations: ndarray) -> ndarray:
        """The part of observations that no earlier one has, [N, *frame]: of images the last of the stack."""
        return observations[:, -1] if self.pixels else observations

    def _frames(self, seen: ndarray) -> ndarray:
        return seen.astype(np.uint8 if self.pixels else np.float32)  # a copy: gymnasium writes into its own again

    def render(self) -> Any:
        """A picture of the first environment, uint8 [H, W, 3]."""
        return self.vector.render()[0]

    def close(self) -> None:
        self.vector.close()


def make(name: str, *, render: bool = False, life_loss: bool = False, limit: int | None = None) -> Any:
    """One environment whose observations are vectors or gray images of 84 × 84 pixels.

    Args:
        render: its `render()` gives pictures, uint8 [H, W, 3].

    Raises:
        UserError: as of Environments.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it would greet on stdout
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures are drawn in memory; it would miss a screen
    import gymnasium
    from gymnasium import error, spaces, wrappers

    atari = name.startswith("ALE/")
    if atari:
        _need(name, "ale_py", "atari")
        _need(name, "cv2", "atari")
        ale = importlib.import_module("ale_py")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # it would greet on stderr
        gymnasium.register_envs(ale)
    if name == TINY and name not in gymnasium.registry:
        gymnasium.register(name, corridor, max_episode_steps=30)
    options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    if atari:
        options["frameskip"] = 1  # the wrapper below does it, and takes the brighter of two frames
    try:
        environment: Any = gymnasium.make(name, max_episode_steps=limit, **options)
    except (error.UnregisteredEnv, error.DeprecatedEnv) as mistake:
        raise UserError(f"There is no environment {name}.", _similar(name)) from mistake
    except (error.DependencyNotInstalled, ImportError) as mistake:
        raise UserError(f"{name} needs {_library(str(mistake))}", _extra(str(mistake))) from mistake
    except error.Error as mistake:
        raise UserError(f"{name} can't be made: {str(mistake).splitlines()[0]}") from mistake
    if not isinstance(environment.action_space, spaces.Discrete):
        kind = type(environment.action_space).__name__
        environment.close()
        raise UserError(
            f"The actions of {name} are not discrete but a {kind}; DQN chooses among a few.",
            "Try CartPole-v1, Acrobot-v1, MountainCar-v0, LunarLander-v3 or ALE/Pong-v5.",
        )
    if limit is None and not _limits_itself(environment.spec.id):
        environment = wrappers.TimeLimit(environment, LIMIT)
    if atari:
        return wrappers.AtariPreprocessing(environment, screen_size=SIZE, terminal_on_life_loss=life_loss)
    space = environment.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == "uint8":
        _need(name, "cv2", "atari")
        if space.shape[2] == 3:
            environment = wrappers.GrayscaleObservation(environment)
        elif space.shape[2] == 1:
            environment = wrappers.ReshapeObservation(environment, space.shape[:2])
        return wrappers.ResizeObservation(environment, (SIZE, SIZE))
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        return wrappers.FlattenObservation(environment)  # whole numbers become one-hot vectors
    return environment


def _limits_itself(id: str) -> bool:
    """Whether episodes end by themselves, after so many steps at the latest; Atari's emulator counts its frames.

    Args:
        id: of the environment once it is made, with its version.
    """
    import gymnasium

    return id.startswith("ALE/") or gymnasium.spec(id).max_episode_steps is not None


def action_names(name: str, environment: Any, count: int) -> list[str]:
    """What the actions are called: known names, the game's own, or numbers."""
    known = ACTIONS.get(name.partition("-")[0], ())
    if name.startswith("ALE/"):
        known = tuple(meaning.lower() for meaning in environment.unwrapped.get_action_meanings())
    return list(known) if len(known) == count else [str(i) for i in range(count)]


def _once(environment: Any) -> Any:
    """The environment, standing still after its first episode instead of beginning another."""
    import gymnasium

    class Once(gymnasium.Wrapper):
        def __init__(self) -> None:
            super().__init__(environment)
            self.over, self.last = False, None

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if self.over and seed is None:
                return self.last, {}
            self.over = False
            return self.env.reset(seed=seed, options=options)

        def step(self, action: Any) -> Any:
            if self.over:
                return self.last, 0.0, False, False, {}
            self.last, reward, terminated, truncated, info = self.env.step(action)
            self.over = terminated or truncated
            return self.last, reward, terminated, truncated, info

    return Once()


def _need(name: str, library: str, extra: str) -> None:
    try:
        importlib.import_module(library)
    except ImportError as missing:
        raise UserError(f"{name} needs {_library(library)}", _pip(extra)) from missing


def _library(text: str) -> str:
    for word, library in (("box2d", "Box2D."), ("ale", "ale-py."), ("cv2", "OpenCV."), ("pygame", "pygame.")):
        if word in text.lower():
            return library
    return f"what is not installed: {text.splitlines()[0]}"


def _extra(text: str) -> str:
    return _pip("box2d") if "box2d" in text.lower() else ""


def _pip(extra: str) -> str:
    return f"pip install -e '.[{extra}]'"


def _similar(name: str) -> str:
    import gymnasium

    hint = nearest(name, gymnasium.registry)
    return hint if hint.startswith("Did") else "Any id of gymnasium goes, such as CartPole-v1 or ALE/Pong-v5."


# --- an environment of our own -----------------------------------------------------------------------------

CELLS, STEP_COST, NEAR_PRIZE, FAR_PRIZE = 12, 0.02, 0.3, 1.0


def corridor(**options: Any) -> Any:
    """A corridor of 12 cells: a small prize at the left end, a large one at the right, every step costs a little.

    It begins in any cell between them, from where the large prize is always better, though often not the nearer one.
    Observations are one-hot, [12].
    """
    import gymnasium
    from gymnasium import spaces

    class Corridor(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012
        observation_space = spaces.Box(0, 1, (CELLS,), np.float32)
        action_space = spaces.Discrete(2)

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode, self.cell = render_mode, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.cell = int(self.np_random.integers(1, CELLS - 1))
            return self._seen(), {}

        def step(self, action: Any) -> Any:
            self.cell += 1 if action else -1
            prize = {0: NEAR_PRIZE, CELLS - 1: FAR_PRIZE}.get(self.cell, 0.0)
            return self._seen(), prize - STEP_COST, self.cell in (0, CELLS - 1), False, {}

        def _seen(self) -> Any:
            return np.eye(CELLS, dtype=np.float32)[self.cell]

        def render(self) -> Any:
            picture = np.full((16, 16 * CELLS, 3), 235, np.uint8)
            picture[:, :16] = (190, 205, 190)
            picture[:, -16:] = (120, 190, 120)
            picture[3:13, 16 * self.cell + 3 : 16 * self.cell + 13] = (36, 80, 184)
            return picture

    return Corridor(**options)


def best_return(cell: int) -> float:
    """What the best policy earns in the corridor from a cell: it walks to the right end."""
    return FAR_PRIZE - STEP_COST * (CELLS - 1 - cell)
