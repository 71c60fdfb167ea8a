"""How a text is sampled, token by token, and what every input that asks for one shares."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from common.errors import UserError, nearest
from common.kinds.base import CSV, JSON, TEXT, Kind, dumps, json_of, shown, text_of

MOST_TOKENS = 2048  # that are written after one prompt
MOST_LETTERS = 2**18  # of an input
MOST_NAMED = 12  # unknown characters that an error names
MOST_STOPS, LONGEST_STOP = 4, 256  # stop strings, and their letters
BOUNDS = {  # of each number, both included
    "max_tokens": (1, MOST_TOKENS),
    "temperature": (0, 10),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.1, 10),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, again and again.

    Attributes:
        max_tokens: after which the text ends.
        temperature: logits are divided by it; 0 takes the likeliest token always.
        top_k: only the k likeliest tokens; 0 for all.
        top_p: only the likeliest tokens that together have this probability (Holtzman et al. 2020, arXiv 1904.09751).
        min_p: only tokens with this share of the likeliest one's probability (Nguyen et al. 2024, arXiv 2407.01082).
        repetition_penalty: of tokens that were there before, positive logits are divided by it and negative ones
            multiplied (Keskar et al. 2019, arXiv 1909.05858); 1 for none.
        stop: texts before which the answer ends.
        seed: of the choices; the same gives the same text.
    """

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


OPTIONS = {field.name: field.default for field in dataclasses.fields(Sampling)}


@dataclass(frozen=True)
class SampledInput(Kind):
    """What a text answers: an object with `key` and any of the fields of Sampling, or a text alone.

    Args:
        example: a text that the model can read.
        alphabet: all characters that it can read, where it can't read every one.

    Attributes:
        key: under which an object says what is to be answered.
        noun: what an input is called.
        elsewhere: what is said to a client that asks in the other of OpenAI's two ways.
    """

    key: ClassVar[str]
    noun: ClassVar[str]
    elsewhere: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".json")
    media: ClassVar[tuple[str, ...]] = (TEXT, CSV)
    plain: ClassVar[str] = JSON
    most_work: ClassVar[int] = 2**17
    too_much: ClassVar[str] = f"The inputs ask for more than {2**17:,} tokens together."

    example: str = ""
    alphabet: str = ""

    @abstractmethod
    def asked(self, content: Any, sampling: Sampling, name: str) -> Any:
        """The input of what stands under `key`; UserError where that is none."""

    def alone_as(self, text: str) -> Any:
        """What stands under `key` where an input is a text and nothing else."""
        return text

    def sample(self) -> bytes:
        return self._greedy(self.example)

    def longer(self) -> bytes:
        return self._greedy(self.example * 3)

    def many(self, count: int) -> list[bytes]:
        text = self.example or " "
        return [self._greedy(text[i % len(text) :] + text[: i % len(text)] * (i // len(text))) for i in range(count)]

    def _greedy(self, text: str) -> bytes:
        return dumps({self.key: self.alone_as(text), "max_tokens": 16, "temperature": 0}).encode()

    def start(self) -> dict[str, Any]:
        return {self.key: self.alone_as(self.example), **OPTIONS, "stop": []}

    def decode(self, source: Path | bytes, name: str = "") -> Any:
        """A text as it is, with the usual options; or JSON with `key` and options such as "temperature".

        Raises:
            UserError: an option is unknown, out of bounds or of a wrong type, or a character is not in the alphabet.
        """
        name = name or f"The {self.noun}"
        text = text_of(source, name)
        value = self._object(text)
        if value is None:
            return self.asked(self.alone_as(text), Sampling(), name)
        options = {key: value[key] for key in value if key != self.key}
        return self.asked(value[self.key], sampling_of(options, name), name)

    def known(self, text: str, name: str) -> str:
        """The text; UserError where it has characters that the model can't read, or halves of one."""
        if _is_cut(text):
            raise UserError(f"{name} holds half of a surrogate pair, which is no character.")
        unknown = sorted(set(text).difference(self.alphabet)) if self.alphabet else []
        if unknown:
            named = " ".join(map(repr, unknown[:MOST_NAMED])) + (" …" if len(unknown) > MOST_NAMED else "")
            raise UserError(f"{name} has characters that this model does not know: {named}.", "Leave them out.")
        return text

    def value(self, value: Any) -> bytes:
        if isinstance(value, str):
            text = value if self._object(value) is None else dumps({self.key: self.alone_as(value)})
        elif isinstance(value, dict) and self.key in value:
            text = dumps(value)
        else:
            raise UserError(f'An input is a text, or an object with "{self.key}".')
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise UserError(f"The {self.noun} holds half of a surrogate pair, which is no character.") from None

    def cells(self, cells: list[str]) -> bytes:
        if len(cells) != 1:
            return super().cells(cells)
        return self.value(cells[0])

    def request(self, given: dict[str, Any]) -> bytes:
        if self.key not in given:
            raise UserError(self.elsewhere)
        return self.value(given)

    @abstractmethod
    def so_far(self, turns: Sequence[tuple[str, str]]) -> Any:
        """What stands under `key` after some turns of a talk."""

    def talk(self, turns: Sequence[tuple[str, str]], options: Mapping[str, Any]) -> bytes:
        """The raw input that is answered by the next turn of a talk; UserError where this kind has no such.

        Args:
            turns: who said what, "system", "user" or "assistant"; the user was the last.
            options: fields of Sampling.
        """
        return self.value({self.key: self.so_far(turns), **options})

    def has_key(self, key: str) -> bool:
        return key == self.key or key in OPTIONS

    def work(self, raw: bytes) -> int:
        try:
            tokens: int = self.decode(raw).sampling.max_tokens
        except UserError:  # which `decode` says when it is this input's turn
            return 1
        return tokens

    def _object(self, text: str) -> dict[str, Any] | None:
        """An object with the key; None for anything else, which is a text itself."""
        if not text.lstrip().startswith("{") or f'"{self.key}"' not in text:
            return None
        try:
            value = json_of(text, f"The {self.noun}")
        except UserError:
            return None
        return value if isinstance(value, dict) and self.key in value else None


def sampling_of(options: dict[str, Any], name: str) -> Sampling:
    """Checked options; UserError where one is unknown, out of bounds or of a wrong type."""
    for key in options:
        if key not in OPTIONS:
            raise UserError(f"{name} has an unknown option {shown(key)}.", nearest(key, OPTIONS))
    return Sampling(**{key: _option(key, value, name) for key, value in options.items()})


def _option(key: str, value: Any, name: str) -> Any:
    """A checked option; UserError where it is none."""
    if key == "stop":
        stops = [value] if isinstance(value, str) else value
        fits = isinstance(stops, list) and len(stops) <= MOST_STOPS and all(map(_is_stop, stops))
        if not fits:
            raise UserError(
                f'{name}: "stop" is {shown(value)}; it must be a text or up to {MOST_STOPS} of them, of 1 to '
                f"{LONGEST_STOP} letters each."
            )
        return tuple(stops)
    low, high = BOUNDS[key]
    whole = type(OPTIONS[key]) is int
    number = type(value) is int or (not whole and isinstance(value, float) and math.isfinite(value))
    if not number or not low <= value <= high:
        raise UserError(
            f'{name}: "{key}" is {shown(value)}; it must be a {"whole " if whole else ""}number from {low} to {high}.'
        )
    return value if whole else float(value)


def _is_stop(stop: Any) -> bool:
    return isinstance(stop, str) and 0 < len(stop) <= LONGEST_STOP and not _is_cut(stop)


def _is_cut(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which is no character."""
    return any(0xD800 <= ord(letter) < 0xE000 for letter in text)
