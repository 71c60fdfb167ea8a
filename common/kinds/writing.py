"""Texts that are written piece by piece: what a predictor that streams offers to a server or a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Writing(Protocol):
    """A text that is being written.

    Attributes:
        prompt_tokens: that the model reads before it writes.
        tokens: written so far.
    """

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens(self) -> int: ...


class News(NamedTuple):
    """What one step added to a text.

    Args:
        writing: the text.
        pieces: that can be shown now, each with its probability in 0..1. What may still become a part of a stop string,
            or is not yet a whole character, is held back.
        finish: why the text has ended, "stop" or "length"; "" while it goes on.
    """

    writing: Any
    pieces: list[tuple[str, float]]
    finish: str

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)


class Writer(Protocol):
    """Texts that are written at the same time, each from when it is added until it ends."""

    def add(self, item: Any) -> Any:
        """Begins a text for a decoded input; it is written from the next step on."""

    def step(self) -> list[News]:
        """Writes one more token of every text; empty where there is none."""
        ...

    def drop(self, writing: Any) -> None:
        """Ends a text that nobody waits for any more."""


def stream(writer: Writer, item: Any) -> Iterator[News]:
    """One text, token by token, until it ends."""
    writing = writer.add(item)
    try:
        while True:
            for news in writer.step():
                if news.writing is writing:
                    yield news
                    if news.finish:
                        return
    finally:
        writer.drop(writing)
