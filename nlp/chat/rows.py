"""Conversations as rows of tokens: each by itself, beside others of about its length, and what counts by its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.data.loaders import Batch
from common.data.sequences import SequenceLoader
from common.errors import UserError
from common.kinds.messages import Message
from common.machine import nests
from nlp.chat.data import Example
from nlp.chat.template import Chat
from nlp.losses import IGNORED
from nlp.vocabulary import END

Row = tuple[Tensor, Tensor]  # tokens and the token after each, IGNORED where it is not to be learnt: int64 [T] each


def row_of(chat: Chat, messages: Sequence[Message], last: bool = False) -> Row:
    """A conversation as inputs and targets.

    Args:
        last: only the last answer counts.
    """
    ids, counts = chat.conversation(messages)
    if last:
        begin = len(chat.prompt(messages[:-1]))
        counts = [counted and place >= begin for place, counted in enumerate(counts)]
    tokens = torch.tensor(ids, dtype=torch.int64)
    return tokens[:-1], tokens[1:].masked_fill(~torch.tensor(counts[1:]), IGNORED)


def filled(rows: Sequence[Row]) -> Batch:
    """Rows filled up at their ends to the longest: inputs and targets, int64 [B, T]."""
    if not rows:
        return torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.int64)
    inputs, targets = zip(*rows, strict=True)
    return pad_sequence(list(inputs), True, END), pad_sequence(list(targets), True, IGNORED)


def answered(targets: Tensor) -> Tensor:
    """Targets of a batch; UserError where none counts, whose mean loss would be no number."""
    if len(targets) and not (targets != IGNORED).any():
        raise UserError("A batch of conversations has no answer to learn from.")
    return targets


class Conversations:
    """Conversations whose answers are learnt; those longer than `most` tokens are left out.

    Attributes:
        skipped: how many were left out.

    Raises:
        UserError: all of them are longer.
    """

    def __init__(self, examples: Sequence[Example], chat: Chat, most: int) -> None:
        rows = [row_of(chat, example.messages) for example in examples]
        self.rows = [row for row in rows if len(row[0]) <= most]
        self.skipped = len(rows) - len(self.rows)
        self.lengths = torch.tensor([len(inputs) for inputs, _ in self.rows])
        if not self.rows:
            raise too_long(len(rows), most)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def collate(self, rows: list[Row]) -> Batch:
        inputs, targets = filled(rows)
        return inputs, answered(targets)


def too_long(count: int, most: int) -> UserError:
    return UserError(f"All {count:,} conversations are longer than {most} tokens.", "Use a larger --context.")


class Pairs:
    """A chosen and a rejected answer to each question; pairs of which one is longer than `most` tokens are left out.

    Inputs are {"tokens", "targets"}, int64 [B, 2, T] each; targets are what the reference said of both answers,
    [B, 2], once `reference` is there.

    Attributes:
        examples: the pairs that are used.
        skipped: how many were left out.
        reference: log-probability of each answer before the training, [N, 2].
    """

    def __init__(self, examples: Sequence[Example], chat: Chat, most: int) -> None:
        known = [example for example in examples if example.rejected is not None]
        self.examples, self.rows = [], []
        for example in known:
            both = [row_of(chat, (*example.question, Message("assistant", text)), last=True) for text in _both(example)]
            if max(len(inputs) for inputs, _ in both) <= most:
                self.examples.append(example)
                self.rows.append(both)
        self.skipped = len(known) - len(self.rows)
        self.lengths = torch.tensor([max(len(inputs) for inputs, _ in both) for both in self.rows])
        if not self.rows:
            raise too_long(len(known), most)
        self.reference = torch.zeros(len(self.rows), 2)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[list[Row], Tensor]:
        return self.rows[index], self.reference[index]

    def collate(self, pairs: list[tuple[list[Row], Tensor]]) -> Batch:
        inputs, targets = filled([row for both, _ in pairs for row in both])
        shape = (len(pairs), 2, inputs.shape[1])
        reference = torch.stack([said for _, said in pairs]) if pairs else torch.zeros(0, 2)
        return {"tokens": inputs.view(shape), "targets": answered(targets).view(shape)}, reference


def _both(example: Example) -> tuple[str, str]:
    assert example.rejected is not None
    return example.answer, example.rejected


class RowLoader(SequenceLoader):
    """Batches of Conversations or Pairs of similar length."""

    def __init__(self, rows: Any, batch_size: int, *, train: bool, device: torch.device, seed: int = 0) -> None:
        super().__init__(rows, batch_size, train=train, device=device, seed=seed)

    def _read(self, batches: Sequence[Tensor], places: Sequence[Tensor]) -> Iterator[Any]:
        rows: Any = self._sequences
        for indices in batches:
            yield nests.move(rows.collate([rows[i] for i in indices.tolist()]), self.device)
