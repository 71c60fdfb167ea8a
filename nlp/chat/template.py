"""How a conversation becomes tokens, and which of them are to be learnt.

Who speaks is said by tokens that no text can contain: whatever a user types stays text. Each message is made into
tokens by itself and the template's own parts around it, once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, NamedTuple

from common.errors import UserError
from common.kinds.messages import ROLES, Message
from nlp.vocabulary import END, END_NAME, Vocabulary

FILE = "chat.json"  # of an artifact


@dataclass(frozen=True)
class Template:
    """What stands around messages; names of marks in it are single tokens.

    Args:
        opening: before a conversation that begins with a message of the system.
        unled: before any other.
        before, after: around a message, by role.
        ends: names of the marks that end an answer.
    """

    opening: str
    unled: str
    before: dict[str, str]
    after: dict[str, str]
    ends: tuple[str, ...]


# A mark for each role, and one for the end of a message, behind the vocabulary that a language model has learnt.
MARKS = {role: f"<|{role}|>" for role in ROLES}
STOP = "<|end|>"


class Encoded(NamedTuple):
    """A conversation as tokens, and which of them the assistant has to say: those of its answers, and their ends."""

    ids: list[int]
    counts: list[bool]


class Chat(Vocabulary):
    """A vocabulary that can also say who speaks.

    Args:
        words: of the texts.
        template: around them.
        marks: ids of the template's marks by name; they may lie behind `words`.
        size: tokens of the network, where it has more than have a meaning.
    """

    def __init__(self, words: Vocabulary, template: Template, marks: dict[str, int], size: int = 0) -> None:
        self.words, self.template, self.marks = words, template, marks
        size = max(size, len(words), 1 + max(marks.values()))
        self.pieces = words.pieces + [b""] * (size - len(words))
        self.alphabet = words.alphabet
        self.ends = frozenset(marks[name] for name in template.ends)
        self._marks = re.compile("(" + "|".join(re.escape(name) for name in sorted(marks, key=len, reverse=True)) + ")")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.words.encode(texts)

    def begin(self, item: Any) -> list[int]:
        return self.prompt(item.messages)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens behind which the assistant answers."""
        parts = [self._opening(messages), *(part for message in messages for part in self._message(message))]
        return list(chain(*parts, self._own(self.template.before["assistant"])))

    def conversation(self, messages: Sequence[Message]) -> Encoded:
        """The tokens of messages, of which those of the assistant are to be learnt."""
        ids = self._opening(messages)
        counts = [False] * len(ids)
        for message in messages:
            before, content, after = self._message(message)
            learnt = message.role == "assistant"
            end = next((i + 1 for i, token in enumerate(after) if token in self.ends), len(after))
            ids += before + content + after
            counts += [False] * len(before) + [learnt] * (len(content) + end) + [False] * (len(after) - end)
        last = max((i for i, counted in enumerate(counts) if counted), default=-1)
        return Encoded(ids[: last + 1], counts[: last + 1])  # what comes behind the last answer teaches nothing

    def _opening(self, messages: Sequence[Message]) -> list[int]:
        led = bool(messages) and messages[0].role == "system"
        return self._own(self.template.opening if led else self.template.unled)

    def _message(self, message: Message) -> tuple[list[int], list[int], list[int]]:
        (content,) = self.words.encode([message.content])
        return self._own(self.template.before[message.role]), content, self._own(self.template.after[message.role])

    def _own(self, text: str) -> list[int]:
        """The tokens of a part of the template, in which marks have their meaning."""
        parts = [part for part in self._marks.split(text) if part]
        found = iter(self.words.encode([part for part in parts if part not in self.marks]))
        return [token for part in parts for token in ([self.marks[part]] if part in self.marks else next(found))]

    def to_bytes(self) -> bytes:
        """The file that `from_bytes` reads beside that of the words."""
        fields = {"template": asdict(self.template), "marks": self.marks, "size": len(self)}
        return json.dumps(fields, indent=1).encode()


def ours(words: Vocabulary, size: int, begin: str = END_NAME, begin_id: int = END) -> Chat:
    """The vocabulary of a language model that does not converse yet, with marks behind it.

    Args:
        size: tokens of the network.
        begin: name of the token before a text; and its id.
    """
    marks = {name: number for number, name in enumerate((*MARKS.values(), STOP), size)}
    template = Template(begin, begin, dict(MARKS), dict.fromkeys(ROLES, STOP), (STOP, begin))
    return Chat(words, template, {**marks, begin: begin_id})


def from_bytes(words: Vocabulary, content: bytes) -> Chat:
    """The reverse of `to_bytes`; UserError where it is damaged."""
    try:
        fields = json.loads(content)
        said = fields["template"]
        template = Template(**{**said, "ends": tuple(said["ends"])})
        marks = {str(name): int(number) for name, number in fields["marks"].items()}
        around = (template.before, template.after)
        if any(set(texts) != set(ROLES) or not all(isinstance(t, str) for t in texts.values()) for texts in around):
            raise ValueError("roles")
        return Chat(words, template, marks, int(fields["size"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"The model's chat template is damaged: {str(error)[:100]}."
        raise UserError(what, "Train the model again.") from error


# --- templates of other models -----------------------------------------------------------------------------


def learned(tokenizer: Any, special: Iterable[str]) -> Template:
    """What a tokenizer of transformers puts around messages, found by asking it.

    Its template is a program, which only runs here, in a sandbox: what is kept are the texts around the messages.

    Args:
        special: names of its tokens that are no text.

    Raises:
        UserError: what it puts around a message depends on more than who speaks.
    """
    said = {role: f"\x02{role}\x03" for role in ROLES}

    def rendered(*roles: str, asks: bool = False) -> str:
        messages = [{"role": role, "content": said[role]} for role in roles]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))

    turns = ("user", "assistant")
    try:
        alone, led, twice = rendered(*turns), rendered("system", *turns), rendered(*turns, *turns)
        asked = rendered("user", asks=True).partition(said["user"])[2]
        between = twice.split(said["assistant"])[1]
    except Exception as error:  # whatever a program of somebody else's raises
        reason = str(error)[:150] or type(error).__name__
        raise UserError(f"The model's chat template can't be used: {reason}.") from error
    after = alone.partition(said["assistant"])[2]
    user = between.partition(said["user"])[0].removeprefix(after)
    system, _, rest = led.partition(said["system"])
    begin = getattr(tokenizer, "bos_token", None) or ""
    first = begin and system.startswith(begin) and alone.startswith(begin) and not user.startswith(begin)
    begin = begin if first else ""
    template = Template(
        opening=begin,
        unled=alone.partition(said["user"])[0].removesuffix(user),
        before={"system": system.removeprefix(begin), "user": user, "assistant": asked},
        after={"system": rest.partition(said["user"])[0].removesuffix(user), "user": "", "assistant": after},
        ends=tuple(name for name in special if name in after or name == tokenizer.eos_token),
    )
    for text, roles in ((alone, turns), (led, ("system", *turns)), (twice, (*turns, *turns))):
        if plain(template, [Message(role, said[role]) for role in roles]) != text:
            what = "The model's chat template is not one that puts fixed texts around messages."
            raise UserError(what, "Choose a model with a plainer one, such as ChatML.")
    return template


def plain(template: Template, messages: Sequence[Message]) -> str:
    """A conversation as one text, for people; it is never made into tokens again."""
    led = bool(messages) and messages[0].role == "system"
    parts = [template.opening if led else template.unled]
    parts += [template.before[role] + content + template.after[role] for role, content in messages]
    return "".join(parts)
