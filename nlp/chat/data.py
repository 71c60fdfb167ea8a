"""Conversations to learn from: files, templated tasks, and what installed packages say of their own functions."""

from __future__ import annotations

import ast
import json
import platform
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from common.data.texts.docstrings import LARGEST, source_files
from common.errors import UserError
from common.files import located
from common.kinds.base import shown
from common.kinds.messages import ROLES, Message
from nlp.chat.tasks import BY_NAME, NUMBERS, TASKS, questions

SOURCES: dict[str, str] = {
    "tasks": "templated questions with exact answers, and what functions of installed packages do, no download",
    "numbers": "numbers in words, one template, no download",
    "instructions:FILE": "JSON or JSON Lines: instruction, input and output (Alpaca), or messages",
    "preferences:FILE": "the same with a chosen and a rejected answer",
}
SPLIT_SEED = 0  # runs with other seeds are measured on the same questions
TEST, VALID = 0.1, 0.05  # shares of a file
PER_TASK = {"train": 3000, "valid": 40, "test": 100}  # questions at most; of a task with few, tenths of them
MOST = 9500  # questions of a task
QUIZ = {"train": 400, "valid": 40, "test": 100}
QUARTER = 0.25  # of the training questions come after another one
QUIZ_LETTERS = 100  # of an answer
LARGEST_FILE = 2**28  # bytes
ROLE_OF = {"human": "user", "gpt": "assistant"}  # in files of ShareGPT's kind


@dataclass(frozen=True)
class Example:
    """A conversation that ends with the answer that is to be learnt.

    Args:
        messages: of which the last is the assistant's.
        rejected: an answer that is worse; None where none is known.
        task: of BY_NAME, whose answers can be checked; "" for any other conversation.
    """

    messages: tuple[Message, ...]
    rejected: str | None = None
    task: str = ""

    @property
    def question(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content


@dataclass(frozen=True)
class ChatData:
    """Conversations in disjoint splits, no question in two of them.

    Args:
        train, valid, test: conversations of each.
        provenance: source, licence or citation, counts and how the split was made.
    """

    train: list[Example]
    valid: list[Example]
    test: list[Example]
    provenance: str


def load(name: str, data_dir: Path | None = None) -> ChatData:
    """Load one of SOURCES.

    Raises:
        UserError: a file is not there or has a mistake, which is named with its place.
    """
    kind, _, path = name.partition(":")
    if kind == "tasks":
        return _templated([task.name for task in TASKS], quiz=True)
    if kind == "numbers":
        return _templated([NUMBERS.name], quiz=False)
    found = read_file(located(path, data_dir), preferences=kind == "preferences")
    differ = [example for example in found if example.answer != example.rejected]
    source = f"{kind}:{Path(path).name}"
    if len(differ) < len(found):
        source += f"; {len(found) - len(differ):,} left out, whose two answers are the same"
    return _split(differ, source)


# --- templates ---------------------------------------------------------------------------------------------


def asked(question: str, answer: str, rejected: str | None = None, task: str = "") -> Example:
    """A conversation of one question."""
    return Example((Message("user", question), Message("assistant", answer)), rejected, task)


def _templated(names: Sequence[str], quiz: bool) -> ChatData:
    splits: dict[str, list[Example]] = {"test": [], "valid": [], "train": []}
    for name in names:
        found = [asked(q.question, q.answer, q.wrong, name) for q in islice(questions(BY_NAME[name], SPLIT_SEED), MOST)]
        sizes = {part: min(PER_TASK[part], max(1, len(found) // 10)) for part in ("test", "valid")}
        for part, size in sizes.items():
            splits[part] += found[:size]
            del found[:size]
        most = round(BY_NAME[name].share * PER_TASK["train"]) if quiz else len(found)
        splits["train"] += [found[i % len(found)] for i in range(most)]
    source = f"questions of {len(names)} template{'s' * (len(names) > 1)} ({', '.join(names)})"
    if quiz:
        known = list(docstring_quiz())
        for part in splits:
            splits[part] += known[: QUIZ[part]]
            del known[: QUIZ[part]]
        source += f", and first sentences of docstrings of Python {platform.python_version()}'s library"
    for split in splits.values():
        random.Random(SPLIT_SEED).shuffle(split)
    splits["train"] = _joined(splits["train"], QUARTER if quiz else 0)
    return ChatData(splits["train"], splits["valid"], splits["test"], f"{source}; {_counts(splits)}; by question")


def _joined(examples: list[Example], share: float) -> list[Example]:
    """Examples of which a share are joined in twos, so that a second question can be asked."""
    count = round(share * len(examples)) // 2 * 2
    twos = zip(examples[:count:2], examples[1:count:2], strict=True)
    joined = [Example((*a.messages, *b.messages), b.rejected, b.task) for a, b in twos]
    return joined + examples[count:]


def docstring_quiz() -> Iterator[Example]:
    """What does `X` do? Answered by the first sentence of the docstring of a function in Python's own library.

    Files are read and parsed, never imported, in a fixed random order; a name that was there before is left out.
    """
    seen: set[str] = set()
    for file in source_files(""):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files' own, such as invalid escapes
            try:
                content = file.read_bytes()
                if len(content) > LARGEST or content.count(b'"""') < 2:
                    continue
                body = ast.parse(content).body
            except (SyntaxError, ValueError, OSError, RecursionError):
                continue
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
                continue
            sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
            name = f"{file.stem}.{node.name}"
            if 10 <= len(sentence) <= QUIZ_LETTERS and sentence.isascii() and name not in seen:
                seen.add(name)
                yield asked(f"What does `{name}` do?", f"{sentence}.")


# --- files -------------------------------------------------------------------------------------------------


def read_file(path: Path, preferences: bool) -> list[Example]:
    """The conversations of a JSON list or of JSON Lines; UserError names the first one that has a mistake."""
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_FILE else None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    if content is None:
        raise UserError(f"{path} is larger than {LARGEST_FILE >> 20} MB.", "Take a part of it.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error
    found = [_example(value, where, preferences) for where, value in _values(text, path)]
    if not found:
        raise UserError(f"{path} holds no conversations.", "It should be a JSON list, or an object on each line.")
    return found


def _values(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """The objects of a file, each with its place in words."""
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON: {str(error)[:120]}.") from error
        yield from ((f"{path}, entry {number}", value) for number, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number} is not valid JSON: {str(error)[:120]}.") from error


def _example(value: Any, where: str, preferences: bool) -> Example:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {shown(value)}, not an object.")
    question = _question(value, where, preferences)
    if preferences:
        chosen, rejected = (_answer(value, name, where) for name in ("chosen", "rejected"))
        return Example((*question, Message("assistant", chosen)), rejected)
    if "messages" in value:
        return Example(question)
    return Example((*question, Message("assistant", _answer(value, "output", where))))


def _question(value: dict[str, Any], where: str, preferences: bool) -> tuple[Message, ...]:
    """What comes before the answer; of `messages` without preferences the answer too."""
    if "messages" not in value:
        text = _text(value.get("instruction", value.get("prompt")), f'{where}: "instruction"')
        more = value.get("input") or ""
        more = _text(more, f'{where}: "input"') if more else ""
        return (Message("user", f"{text}\n\n{more}" if more else text),)
    said = value["messages"]
    if not isinstance(said, list) or not all(isinstance(message, dict) for message in said):
        raise UserError(f'{where}: "messages" is {shown(said)}, not a list of objects.')
    messages = tuple(
        Message(_role(message.get("role"), where), _text(message.get("content"), f'{where}: "content"'))
        for message in said
    )
    last = "user" if preferences else "assistant"
    if not messages or messages[-1].role != last:
        raise UserError(f"{where} does not end with a message of the {last}.")
    return messages


def _role(role: Any, where: str) -> str:
    role = ROLE_OF.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise UserError(f"{where} has the role {shown(role)}.", f"Roles are {', '.join(ROLES)}.")
    return str(role)


def _answer(value: dict[str, Any], name: str, where: str) -> str:
    """An answer as a text, or as messages of which it is the last."""
    found = value.get(name)
    if isinstance(found, list) and found and isinstance(found[-1], dict):
        found = found[-1].get("content")
    return _text(found, f'{where}: "{name}"')


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {shown(value)}; it must be a text.")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in value):
        raise UserError(f"{where} holds half of a surrogate pair, which is no character.")
    return value


def _split(found: list[Example], source: str) -> ChatData:
    """Conversations with the same question stay in one split."""
    groups: dict[str, list[Example]] = {}
    for example in found:
        groups.setdefault(" ".join(m.content for m in example.question).casefold(), []).append(example)
    order = list(groups.values())
    random.Random(SPLIT_SEED).shuffle(order)
    ends = [round(TEST * len(order)), round((TEST + VALID) * len(order))]
    parts = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    whole = ([example for group in part for example in group] for part in parts)
    splits = dict(zip(("test", "valid", "train"), whole, strict=True))
    for name, part in splits.items():
        if not part:
            raise UserError(f"{source} leaves no conversations for {name}.", "Give 20 different questions at least.")
    how = f"by question, seed {SPLIT_SEED}"
    return ChatData(splits["train"], splits["valid"], splits["test"], f"{source}; {_counts(splits)}; {how}")


def _counts(splits: dict[str, list[Example]]) -> str:
    return " / ".join(f"{len(splits[name]):,} {name}" for name in ("train", "valid", "test"))
