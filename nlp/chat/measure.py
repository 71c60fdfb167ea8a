"""What is measured of answers, without anyone's judgement: right or wrong, of the form asked for, ended, varied."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from common.artifact import Artifact
from common.errors import UserError
from common.kinds.messages import Conversation
from common.kinds.sampling import Sampling
from common.machine import distributed
from common.machine.device import of
from common.metrics import Metrics
from common.report import page as report
from common.report import plots
from common.training.fit import mean_figures
from nlp import decoding
from nlp.chat.base import Base
from nlp.chat.data import ChatData, Example
from nlp.chat.preferences import PreferenceLoss, likelihoods
from nlp.chat.rows import Conversations, Pairs, RowLoader, too_long
from nlp.chat.tasks import BY_NAME
from nlp.chat.template import Chat
from nlp.losses import sums

FILE = "before.json"  # of an artifact
AT_ONCE = 64  # answers that are written at the same time
SHOWN = 12  # questions whose answers a report shows: the first of each task, and of all others
LONGEST_SHOWN = 400  # letters of a text in a report


@dataclass(frozen=True)
class Answered:
    """What a network answered.

    Args:
        text: of the answer.
        ended: whether by itself.
        tokens: of it.
    """

    text: str
    ended: bool
    tokens: int


@dataclass(frozen=True)
class Before:
    """What the network was before the training, kept with the artifact so that it can be compared with.

    Args:
        loss: answer-only, of the test conversations.
        answers: to the test questions.
        reference: log-probabilities of both answers of the test pairs, where there are such.
    """

    loss: float
    answers: list[Answered]
    reference: list[list[float]] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def of(cls, saved: Artifact) -> Before:
        """Of an artifact; UserError where it is damaged."""
        try:
            fields = json.loads(saved.file(FILE))
            answers = [Answered(**one) for one in fields["answers"]]
            return cls(float(fields["loss"]), answers, [[float(x) for x in pair] for pair in fields["reference"]])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{saved.folder}/{FILE} is damaged: {str(error)[:80]}.", "Train the model again."
            ) from error


# --- the test ----------------------------------------------------------------------------------------------


class Exam:
    """What a network is measured on before and after a training.

    Args:
        context: tokens of a conversation at most; longer ones are left out.
        questions: that are answered, at most.
        most: tokens of an answer.
        preferences: how two answers are compared; None where none are.

    Attributes:
        questions: test questions that are answered.
        pairs: of a chosen and a rejected answer; None where they are not compared.
    """

    def __init__(
        self,
        chat: Chat,
        data: ChatData,
        *,
        context: int,
        questions: int,
        most: int,
        batch_size: int,
        preferences: PreferenceLoss | None,
    ) -> None:
        self.conversations = Conversations(data.test, chat, context)
        fitting = [example for example in data.test if len(chat.prompt(example.question)) < context]
        self.questions = fitting[:questions]
        if not self.questions:
            raise too_long(len(data.test), context)
        self.pairs = Pairs(data.test, chat, context) if preferences else None
        self._most, self._batch_size, self._preferences = most, batch_size, preferences

    def before(self, base: Base) -> Before:
        """Of the network as it is."""
        reference: list[list[float]] = []
        if self.pairs is not None:
            reference = likelihoods(base.network, self.pairs, self._batch_size)[:, :, 0].tolist()
        found = answers(base, self.questions, self._most)
        return Before(loss(base, self.conversations, self._batch_size), found, reference)

    def after(self, base: Base, before: Before) -> tuple[Metrics, list[report.Section]]:
        """Of the trained network, beside the one of before; and what a report shows."""
        found = answers(base, self.questions, self._most)
        value = loss(base, self.conversations, self._batch_size)
        values: dict[str, float | int] = dict(figures(self.questions, found))
        was = figures(self.questions, before.answers)
        values |= {"loss": value, "perplexity": math.exp(min(value, 700)), "loss_before": before.loss}
        values |= {f"{name}_before": was[name] for name in ("exact_match", "stop_rate")}
        parts = sections(self.questions, before, found)
        notes = [
            "loss and perplexity are of the assistant's tokens alone, nats each; an answer's end is one of them",
            f"answers are the likeliest tokens, {self._most} at most; exact_match counts those that are the expected "
            "ones letter by letter, stop_rate those that end by themselves",
            "distinct_2 is the share of different pairs of neighbouring words in all answers together",
        ]
        if self.conversations.skipped:
            notes.append(f"{self.conversations.skipped:,} test conversations are longer than the context: left out")
        if self.pairs is not None and self._preferences is not None:
            self.pairs.reference = torch.tensor(before.reference)
            both = likelihoods(base.network, self.pairs, self._batch_size)
            values |= self._preferences.figures(both, self.pairs.reference)
            parts.append(preferred(both[:, :, 0], self.pairs.reference))
            notes.append("log-probabilities are of whole answers, the mean over the test pairs")
        values["n"] = len(self.questions)
        return Metrics("exact_match", values, notes), parts


def answers(base: Base, examples: Sequence[Example], most: int) -> list[Answered]:
    """The likeliest answers to the questions, each process its share.

    Args:
        most: tokens of an answer.
    """
    base.network.eval()
    found: dict[int, Answered] = {}
    mine = list(enumerate(examples))[distributed.rank() :: distributed.world()]
    for begin in range(0, len(mine), AT_ONCE):
        part = mine[begin : begin + AT_ONCE]
        items = [Conversation(e.question, Sampling(max_tokens=most, temperature=0.0)) for _, e in part]
        texts = decoding.write(base.network, base.chat, items, limit=base.context, cached=base.cached)
        for (number, _), text in zip(part, texts, strict=True):
            found[number] = Answered(text.row(base.chat)["text"], text.finish == "stop", text.tokens)
    together = {number: answer for some in distributed.gather(found) for number, answer in some.items()}
    return [together[number] for number in range(len(examples))]


def loss(base: Base, conversations: Conversations, batch_size: int) -> float:
    """Answer-only loss in nats per token, in fp32."""
    loader = RowLoader(conversations, batch_size, train=False, device=of(base.network))
    return mean_figures(base.network, loader, sums)["loss"]


def figures(examples: Sequence[Example], found: Sequence[Answered]) -> dict[str, float]:
    """Shares of answers that are the very one, have the form of the task, end by themselves; variety and length."""
    values = {"exact_match": _share([a.text == e.answer for e, a in zip(examples, found, strict=True)])}
    for task in dict.fromkeys(example.task for example in examples):
        some = [(e, a) for e, a in zip(examples, found, strict=True) if e.task == task]
        if task:
            values[f"exact_match_{task}"] = _share([a.text == e.answer for e, a in some])
    checked = [(e, a) for e, a in zip(examples, found, strict=True) if e.task]
    if checked:
        values["task_exact_match"] = _share([a.text == e.answer for e, a in checked])
        values["format_valid"] = _share([BY_NAME[e.task].fits(a.text) for e, a in checked])
    values["stop_rate"] = _share([a.ended for a in found])
    pairs = [pair for a in found for pair in zip(a.text.split(), a.text.split()[1:], strict=False)]
    if pairs:
        values["distinct_2"] = len(set(pairs)) / len(pairs)
    values["answer_tokens"] = sum(a.tokens for a in found) / len(found)
    return values


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


# --- report ------------------------------------------------------------------------------------------------


def shown(examples: Sequence[Example]) -> list[int]:
    """Which questions a report shows: the first ones of each task in turn, whatever came of them."""
    by_task: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        by_task.setdefault(example.task, []).append(number)
    rounds = max(map(len, by_task.values()))
    turns = [numbers[i] for i in range(rounds) for numbers in by_task.values() if i < len(numbers)]
    return turns[:SHOWN]


def sections(examples: Sequence[Example], before: Before, after: Sequence[Answered]) -> list[report.Section]:
    """The parts of a report about answers."""
    rows = [
        [
            _cut(examples[i].question[-1].content),
            _cut(before.answers[i].text),
            _cut(after[i].text),
            _cut(examples[i].answer),
        ]
        for i in shown(examples)
    ]
    note = "The first held-out questions of each kind, whatever came of them; the likeliest answer each time."
    parts = [report.table("Before and after", ("question", "before", "after", "expected"), rows, note)]
    tasks = [task for task in dict.fromkeys(example.task for example in examples) if task]
    if tasks:
        was, now = figures(examples, before.answers), figures(examples, after)
        names = [f"exact_match_{task}" for task in tasks]
        counts = [sum(example.task == task for example in examples) for task in tasks]
        lines: list[Sequence[Any]] = [
            [task, count, was[name], now[name]] for task, count, name in zip(tasks, counts, names, strict=True)
        ]
        note = "Shares of held-out questions whose likeliest answer is the expected one, letter by letter."
        parts.append(report.table("By task", ("task", "questions", "before", "after"), lines, note))
    return parts


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def preferred(found: Tensor, reference: Tensor) -> report.Section:
    """What became of chosen and rejected answers: log-probabilities [N, 2] after against before."""
    lists = [tensor[:, place].tolist() for place in (0, 1) for tensor in (reference, found)]
    with plots.canvas("Log-probability of held-out answers, after against before") as (figure, (ax,)):
        ax.scatter(lists[0], lists[1], s=8, color=plots.ACCENT, label="chosen")
        ax.scatter(lists[2], lists[3], s=8, color=plots.SECOND, label="rejected")
        ends = [min(map(min, lists)), max(map(max, lists))]
        ax.plot(ends, ends, color=plots.MUTED, linewidth=1)
        ax.set_xlabel("nats before")
        ax.set_ylabel("nats after")
        ax.legend(frameon=False)
    note = "On the line nothing has changed. Both may fall: what counts in the training is how far apart they are."
    return report.figure("Chosen and rejected", figure, note)
