"""Games on the server: an agent in its environment, watched or helped by a visitor of the page."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.kinds.game import Game, Scene
from common.serve.formats import Problem

MOST_GAMES = 16  # at the same time, of all models together
IDLE = 300.0  # seconds after which a game is forgotten
MOST_STEPS = 30  # of one request
LARGEST_PICTURE = 2**18  # bytes


@dataclass
class Session:
    """One visitor's game."""

    model: str
    game: Game
    used: float  # when last, on time.monotonic()'s clock


class Games:
    """All games that are played; every call of one runs in the single thread of `pool`.

    A game lives in one process: with several workers a visitor may meet another one, and begins anew.
    """

    def __init__(self, pool: ThreadPoolExecutor, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._clock = pool, clock
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    async def begin(self, model: str, make: Callable[[], Game], seed: int) -> dict[str, Any]:
        """A new game: `{"game": its id, "actions": names, "scenes": [the first]}`.

        Raises:
            Problem: 503, there are MOST_GAMES already; 501, the game can't be played on this machine.
        """
        await self._forget_idle()
        if len(self._sessions) >= MOST_GAMES:
            raise Problem(503, f"{MOST_GAMES} games are played already. Try again later.")
        key = secrets.token_urlsafe(12)
        session = self._sessions[key] = Session(model, _Unmade(), self._clock())  # holds the place meanwhile
        try:
            session.game, scene = await self._run(lambda: _begun(make, seed))
        except BaseException as error:
            self._sessions.pop(key, None)
            if isinstance(error, UserError):  # such as an environment that is not installed here
                raise Problem(501, str(error)) from error
            raise
        return {"game": key, "actions": list(session.game.actions), "scenes": [to_json(scene)]}

    async def go_on(self, model: str, key: str, asked: dict[str, Any]) -> dict[str, Any]:
        """`{"scenes": [...]}` of steps, or of the start after a reset.

        Args:
            asked: from `parse`.

        Raises:
            Problem: 404, there is no such game of this model.
        """
        session = self._find(model, key)
        session.used = self._clock()
        return {"scenes": await self._run(lambda: [to_json(scene) for scene in _played(session.game, asked)])}

    async def end(self, model: str, key: str) -> None:
        """Forgets a game; Problem 404 where there is none."""
        self._find(model, key)
        await self._run(self._sessions.pop(key).game.close)

    async def _forget_idle(self) -> None:
        idle = [key for key, session in self._sessions.items() if self._clock() - session.used > IDLE]
        for session in [self._sessions.pop(key) for key in idle]:
            await self._run(session.game.close)

    def _find(self, model: str, key: str) -> Session:
        session = self._sessions.get(key)
        if session is None or session.model != model:
            raise Problem(404, "There is no such game any more; begin another.")
        return session

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class _Unmade:
    """In the place of a game that is being made."""

    actions: Sequence[str] = ()

    def reset(self, seed: int) -> Scene:
        raise Problem(404, "The game is not there yet.")

    def step(self, action: int | None) -> Scene:
        raise Problem(404, "The game is not there yet.")

    def close(self) -> None:
        pass


def parse(body: bytes, actions: int) -> dict[str, Any]:
    """`{"seed": 7}` begins (again); `{"steps": 10}` lets the agent play, `{"action": 1}` is the visitor's own step.

    Raises:
        Problem: 400 for anything else.
    """
    try:
        asked = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not valid JSON: {error}.") from error
    limits = {"seed": (0, 2**31 - 1), "steps": (1, MOST_STEPS), "action": (0, actions - 1)}
    if not isinstance(asked, dict) or len(asked) > 1 or not asked.keys() <= limits.keys():
        raise Problem(400, 'A game takes one of "seed", "steps" and "action".')
    for key, value in asked.items():
        low, high = limits[key]
        if type(value) is not int or not low <= value <= high:
            raise Problem(400, f'"{key}" is a whole number from {low} to {high}.')
    return asked


def _begun(make: Callable[[], Game], seed: int) -> tuple[Game, Scene]:
    game = make()
    return game, game.reset(seed)


def _played(game: Game, asked: dict[str, Any]) -> list[Scene]:
    if "seed" in asked:
        return [game.reset(asked["seed"])]
    if "action" in asked:
        return [game.step(asked["action"])]
    scenes = []
    for _ in range(asked.get("steps", 1)):
        scenes.append(game.step(None))
        if scenes[-1].over:
            break
    return scenes


def to_json(scene: Scene) -> dict[str, Any]:
    """A scene with its picture in base64; a picture larger than LARGEST_PICTURE is left out."""
    picture = base64.b64encode(scene.picture).decode() if len(scene.picture) <= LARGEST_PICTURE else ""
    return {
        "png": picture,
        "observation": scene.observation,
        "values": scene.values,
        "action": scene.action,
        "reward": scene.reward,
        "total": scene.total,
        "step": scene.step,
        "over": scene.over,
    }
