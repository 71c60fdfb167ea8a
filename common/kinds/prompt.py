"""The beginning of a text, and how it is to be continued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from common.errors import UserError
from common.kinds.base import shown
from common.kinds.sampling import MOST_LETTERS, SampledInput, Sampling


class Prompt(NamedTuple):
    """A text that is to be continued."""

    text: str
    sampling: Sampling


@dataclass(frozen=True)
class PromptInput(SampledInput):
    """A text, or an object such as `{"prompt": "To be", "temperature": 0}`."""

    kind: ClassVar[str] = "prompt"
    key: ClassVar[str] = "prompt"
    noun: ClassVar[str] = "prompt"
    usage: ClassVar[str] = '--value "To be"'
    elsewhere: ClassVar[str] = "This model continues texts and has not learned to converse: ask /v1/completions."

    def so_far(self, turns: Sequence[tuple[str, str]]) -> str:
        """All that was written, by whomever: the model goes on where the user has stopped."""
        if any(role == "system" for role, _ in turns):
            raise UserError("This model continues texts and takes no instructions.", "Leave out --system.")
        return "".join(content for _, content in turns)

    def asked(self, content: Any, sampling: Sampling, name: str) -> Prompt:
        if not isinstance(content, str):
            raise UserError(f'{name}: "prompt" is {shown(content)}, not a text.')
        if len(content) > MOST_LETTERS:
            raise UserError(f"{name} has {len(content):,} letters; {MOST_LETTERS:,} are the most.")
        return Prompt(self.known(content, name), sampling)
