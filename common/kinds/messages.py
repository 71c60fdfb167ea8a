"""A conversation whose next message is to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from common.errors import UserError, nearest
from common.kinds.base import shown
from common.kinds.sampling import MOST_LETTERS, SampledInput, Sampling

ROLES = ("system", "user", "assistant")
MOST_MESSAGES = 512


class Message(NamedTuple):
    """What was said, and who said it: "system", "user" or "assistant"."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Messages of which the last is the user's; the assistant's answer to it is to be written."""

    messages: tuple[Message, ...]
    sampling: Sampling


@dataclass(frozen=True)
class MessagesInput(SampledInput):
    """A text, which is the user's only message, or an object such as
    `{"messages": [{"role": "user", "content": "What is 2 + 2?"}], "temperature": 0}`.

    Args:
        example: a message that the model can answer.
    """

    kind: ClassVar[str] = "messages"
    key: ClassVar[str] = "messages"
    noun: ClassVar[str] = "conversation"
    usage: ClassVar[str] = '--value "What is 2 + 2?"'
    elsewhere: ClassVar[str] = "This model converses and continues no texts: ask /v1/chat/completions."

    example: str = "Hello"

    def alone_as(self, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text.rstrip("\r\n")}]  # with which files end

    def so_far(self, turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in turns]

    def asked(self, content: Any, sampling: Sampling, name: str) -> Conversation:
        """The conversation; other keys of a message than "role" and "content" are passed over.

        Raises:
            UserError: there is no message, one is no message, the last is not the user's or is blank, or they are too
                many or too long.
        """
        if not isinstance(content, list) or not content:
            raise UserError(f'{name}: "messages" is {shown(content)}; it must be a list of at least one message.')
        if len(content) > MOST_MESSAGES:
            raise UserError(f"{name} has {len(content):,} messages; {MOST_MESSAGES} are the most.")
        messages = tuple(self._message(value, f"{name}: message {i}") for i, value in enumerate(content, 1))
        letters = sum(len(message.content) for message in messages)
        if letters > MOST_LETTERS:
            raise UserError(f"{name} has {letters:,} letters; {MOST_LETTERS:,} are the most.")
        if messages[-1].role != "user":
            raise UserError(f"{name} ends with a message of the {messages[-1].role}.", "The last must be the user's.")
        if not messages[-1].content.strip():
            raise UserError(f"{name} ends with a message without a text.")
        return Conversation(messages, sampling)

    def _message(self, value: Any, name: str) -> Message:
        if not isinstance(value, dict):
            raise UserError(f'{name} is {shown(value)}, not an object with "role" and "content".')
        role = value.get("role")
        if role not in ROLES:
            raise UserError(f"{name} has the role {shown(role)}.", nearest(str(role), ROLES))
        return Message(role, self.known(_text(value.get("content"), name), name))


def _text(content: Any, name: str) -> str:
    """The text of a message, also of one in parts: `[{"type": "text", "text": "What is"}, …]`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UserError(f'{name}: "content" is {shown(content)}, not a text.')
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise UserError(f"{name} has the part {shown(part)}; this model reads only texts.")
    return "".join(part["text"] for part in content)
