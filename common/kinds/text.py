"""A text, and what its words say for an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from common.errors import UserError
from common.kinds.base import Explain, Kind, text_of

MOST_PIECES = 128  # words of a text that are hidden in turn; of a longer one several at once
MOST_LETTERS = 20_000
Span = tuple[int, int, float]  # of a text: where it begins and ends, and what it says for a class, in nats


@dataclass(frozen=True)
class TextInput(Kind):
    """A text, UTF-8."""

    kind: ClassVar[str] = "text"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)
    usage: ClassVar[str] = '--value "a text"'

    def sample(self) -> bytes:
        return b"It is a good day to learn something new."

    def longer(self) -> bytes:
        return b" ".join([self.sample()] * 3)

    def start(self) -> str:
        return self.sample().decode()

    def value(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise UserError(f"An input is a text, as a JSON string, not {type(value).__name__}.")
        return value.encode()

    def decode(self, source: Path | bytes, name: str = "") -> str:
        """The text of a file or of its bytes, as it is; an empty one is a text too.

        Raises:
            UserError: the file is missing, too large or not UTF-8.
        """
        return text_of(source, name or "The text")

    def explainer(self, predictor: Any) -> tuple[str, Explain]:
        """Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901): of what the example gives, else of words."""

        def explain(text: str, target: int) -> dict[str, Any]:
            if len(text) > MOST_LETTERS:
                raise UserError(f"Texts of more than {MOST_LETTERS:,} letters are not explained.")
            spans = predictor.explain(text, target) if predictor.explain else hide_words(predictor, text, target)
            return {"method": "occlusion", "tokens": pieces(text, spans)}

        return "tokens", explain


def hide_words(predictor: Any, text: str, target: int) -> list[Span]:
    """What the log-probability of a class loses without each word, or without some of them in a long text."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    step = max(1, math.ceil(len(words) / MOST_PIECES))
    spans = [(group[0][0], group[-1][1]) for group in (words[i : i + step] for i in range(0, len(words), step))]
    variants = [text, *(text[:start] + text[end:] for start, end in spans)]
    rows = predictor.predict(variants)
    answer, name = predictor.answer, predictor.answer.names[target]
    logs = [answer.evidence(row, name) for row in rows]
    return [(start, end, logs[0] - log) for (start, end), log in zip(spans, logs[1:], strict=True)]


def pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, float | None]]:
    """A text cut where spans begin and end; what lies between them has no score."""
    cut: list[tuple[str, float | None]] = []
    place = 0
    for start, end, score in spans:
        if start < place:
            continue
        if start > place:
            cut.append((text[place:start], None))
        cut.append((text[start:end], round(score, 4)))
        place = end
    if place < len(text):
        cut.append((text[place:], None))
    return cut
