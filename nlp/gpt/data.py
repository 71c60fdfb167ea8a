"""From documents to tokens, and to windows of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from common.data.loaders import Batch, Loader
from common.data.texts.corpora import Corpus
from common.errors import UserError
from common.machine.device import mix_seed
from nlp.gpt.ngram import joined
from nlp.losses import IGNORED
from nlp.vocabulary import END, Vocabulary, characters, train_pieces

SMALLEST = 257  # tokens of a byte-level vocabulary: the bytes and END


@dataclass(frozen=True)
class Split:
    """One split as tokens, and as bytes.

    Args:
        tokens: END, the tokens of a document, END, the next, ...: int64 [N + 1], of which N are predicted.
        content: the same bytes for every vocabulary: documents, and a byte between two of them.
    """

    tokens: Tensor
    content: bytes

    def __len__(self) -> int:
        """Tokens that are predicted."""
        return len(self.tokens) - 1


def vocabulary_of(corpus: Corpus, kind: str, size: int) -> Vocabulary:
    """Learns a vocabulary from the training split.

    Args:
        kind: "char", a token for each of the most frequent characters, or "bpe", byte-pair encoding.
        size: at most so many characters, or tokens in all.
    """
    if kind == "char":
        return characters(corpus.train, [*corpus.valid, *corpus.test], size)
    if size < SMALLEST:
        raise UserError(f"--vocabulary is {size}; with --tokenizer bpe it must be at least {SMALLEST}.")
    return train_pieces(corpus.train, size)


def split_of(documents: Sequence[str], vocabulary: Vocabulary) -> Split:
    """Documents one after the other."""
    ids = vocabulary.encode(documents)
    flat = torch.tensor(list(chain.from_iterable([END, *document] for document in ids)), dtype=torch.int64)
    return Split(flat, joined(documents))


class Windows(Loader):
    """Batches of runs of T tokens, each with the token after it as its target: inputs and targets int64 [B, T].

    For training the runs of a pass over the text lie side by side from a random place on, and come in random order;
    passes follow each other, and an epoch is a number of batches. Otherwise each token is a target once, in order, and
    the last run is filled up: its targets are IGNORED there.

    Args:
        split: the text.
        context: T.
        steps: batches of an epoch, for training.

    Raises:
        UserError: the text has fewer tokens than a batch.
    """

    def __init__(
        self,
        split: Split,
        context: int,
        batch_size: int,
        *,
        train: bool,
        device: torch.device,
        seed: int = 0,
        steps: int = 0,
    ) -> None:
        self._context, self._steps = context, steps
        if train:
            check_length(split, context)
        super().__init__(_Runs(runs(split, context, train)), batch_size, train=train, device=device, seed=seed)
        padding = torch.full((self.size * context + 1 - len(split.tokens),), IGNORED) if not train else torch.tensor([])
        self._tokens = torch.cat([split.tokens, padding.long()]).to(device)
        self._span = torch.arange(context + 1, device=device)

    def __len__(self) -> int:
        return self._steps if self.train else super().__len__()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if not self.train:
            for indices in self.batches(epoch)[start:]:
                yield self._cut((self._share(indices) * self._context).to(self.device))
            return
        for step in range(epoch * len(self) + start, (epoch + 1) * len(self)):
            number, place = divmod(step, self.size // self.batch_size)
            if place == 0 or step == epoch * len(self) + start:  # another pass over the text
                offset, order = self._pass(number)
            indices = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield self._cut(offset + self._share(indices) * self._context)

    def _pass(self, number: int) -> tuple[int, Tensor]:
        """Where the runs of a pass begin, and in what order they come."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "pass", number))
        offset = int(torch.randint(self._context, (), generator=generator))
        return offset, torch.randperm(self.size, generator=generator).to(self.device)  # once: each copy waits for a GPU

    def _cut(self, begins: Tensor) -> Batch:
        return inputs_and_targets(self._tokens[begins.unsqueeze(1) + self._span])


def runs(split: Split, context: int, train: bool) -> int:
    """Runs of T tokens in a text: whole ones, wherever a pass begins, or all of it."""
    return (len(split) - context + 1) // context if train else -(-len(split) // context)


def check_length(split: Split, context: int) -> None:
    """Raises UserError for a training text that is too short."""
    if runs(split, context, train=True) < 1:
        what = f"The training text has {len(split)} tokens, too few for a context of {context}."
        raise UserError(what, f"Use more text, or --context {max(1, len(split) // 8)} or less.")


def inputs_and_targets(runs: Tensor) -> Batch:
    """Runs of tokens [B, T + 1] as inputs [B, T] and the token after each, [B, T]."""
    return runs[:, :-1].clamp(min=0), runs[:, 1:]


class _Runs:
    """The data set as the loader counts it; its batches are cut from the text on the device."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def collate(self, runs: list[Tensor]) -> Batch:
        return inputs_and_targets(torch.stack(runs))
