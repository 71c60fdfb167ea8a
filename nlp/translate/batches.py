"""From pairs of texts to batches of about as many tokens each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.data.loaders import Batch, Loader
from common.errors import UserError
from common.machine.device import mix_seed
from nlp import vocabulary
from nlp.translate.data import PairData, Pairs
from nlp.translate.search import padded
from nlp.vocabulary import END, Symbols, Vocabulary

FILE, TARGET_FILE = vocabulary.FILE, "target-vocabulary.json"  # of an artifact; the second unless they are one
SMALLEST = 300  # tokens of byte-pair encoding, of which 256 are bytes
FEWEST = 8  # pairs of a batch, and the most processes that can share one


@dataclass(frozen=True)
class Languages:
    """The vocabularies of the two sides, which may be one."""

    source: Vocabulary
    target: Vocabulary

    @property
    def joint(self) -> bool:
        return self.source is self.target

    def read(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of sources, each with END."""
        return [[*ids, END] for ids in self.source.encode(texts)]

    def write(self, ids: Sequence[int]) -> str:
        """The text of a target's tokens; bytes that are no UTF-8 become �."""
        return self.target.decode(ids).decode("utf-8", "replace").strip()

    def files(self) -> dict[str, bytes]:
        """What an artifact keeps of them."""
        files = {FILE: self.source.to_bytes()}
        return files if self.joint else files | {TARGET_FILE: self.target.to_bytes()}


def languages_of(data: PairData, size: int) -> Languages:
    """The vocabularies of some data: letters and symbols, or one of byte-pair encoding for both sides.

    Args:
        size: of the latter.
    """
    sources, targets = zip(*data.train.each(), strict=True)
    if not data.symbols:
        if size < SMALLEST:
            raise UserError(f"--vocabulary is {size}; it must be at least {SMALLEST}, of which 256 are bytes.")
        joint = vocabulary.train_pieces([*sources, *targets], size)
        return Languages(joint, joint)
    letters = vocabulary.characters(sources, [*data.valid.sources, *data.test.sources], len(set("".join(sources))))
    held = [reference for part in (data.valid, data.test) for _, reference in part.each()]
    return Languages(letters, Symbols.of([*targets, *held]))


class Encoded:
    """Pairs as token ids, each ending with END.

    Args:
        context: tokens of either side; longer pairs are left out of training, elsewhere cut.
        keep: whether all pairs are kept.

    Attributes:
        dropped: pairs left out.
        lengths: of sources and targets, int64 [N, 2].
    """

    def __init__(self, pairs: Pairs, languages: Languages, context: int, keep: bool = False) -> None:
        sources, targets = (list(side) for side in zip(*pairs.each(), strict=True))
        both = list(zip(languages.read(sources), languages.target.encode(targets), strict=True))
        if keep:
            both = [(cut(source, context), target[: context - 1]) for source, target in both]
        kept = [(source, [END, *target]) for source, target in both if max(len(source), len(target) + 1) <= context]
        if not kept:
            raise UserError(f"All {len(both)} pairs are longer than --context {context}.", "Use a larger one.")
        self.dropped = len(both) - len(kept)
        self.sources, self.targets = zip(*kept, strict=True)
        self.lengths = torch.tensor([[len(source), len(target)] for source, target in kept])

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def tokens(self) -> int:
        """Of all targets, with END."""
        return int(self.lengths[:, 1].sum())

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, indices: Sequence[int]) -> Batch:
        """Sources [B, S] with the targets so far [B, T], and the token after each: PAD where there is none."""
        cpu = torch.device("cpu")
        source = padded([self.sources[i] for i in indices], cpu)
        target = padded([[*self.targets[i], END] for i in indices], cpu)  # END, tokens, END
        before = padded([self.targets[i] for i in indices], cpu)
        return (source, before), target[:, 1:]


class TokenLoader(Loader):
    """Batches of pairs of similar length, with at most `batch_size` tokens of the longer side, padding counted.

    Pairs are sorted by length and cut into batches, FEWEST pairs or more in each, which come in random order; those of
    the same lengths change places in every epoch. The number of batches is always the same.

    Args:
        batch_size: tokens per batch, over all processes.
    """

    def __init__(self, pairs: Encoded, batch_size: int, *, train: bool, device: torch.device, seed: int = 0) -> None:
        self._lengths = pairs.lengths
        super().__init__(pairs, batch_size, train=train, device=device, seed=seed, workers=0)
        longest = self._lengths[self._by_length(torch.arange(self.size))].amax(1).tolist()
        self._ends: list[int] = []
        start = 0
        while start < self.size:
            end = start + 1
            while end < self.size and (
                end - start < FEWEST or max(longest[start : end + 1]) * (end + 1 - start) <= batch_size
            ):
                end += 1
            if self.size - end < FEWEST:
                end = self.size  # too few for a batch of their own
            self._ends.append(end)
            start = end

    def _check(self) -> None:
        if self.train and self._world > FEWEST:
            raise UserError(
                f"{self._world} processes can't share batches of {FEWEST} pairs.", f"Start {FEWEST} or fewer."
            )

    def __len__(self) -> int:
        return len(self._ends)

    def _by_length(self, order: Tensor) -> Tensor:
        """Samples in this order, sorted by the length of the target, then of the source."""
        lengths = self._lengths[order]
        return order[(lengths[:, 1] * (int(self._lengths.max()) + 1) + lengths[:, 0]).argsort(stable=True)]

    def batches(self, epoch: int) -> list[Tensor]:
        ordered = self._by_length(self.order(epoch))
        batches = ordered.tensor_split(self._ends[:-1])
        if not self.train:
            return list(batches)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "batches", epoch))
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def cut(source: list[int], context: int) -> list[int]:
    """The token ids of a source; of one that is too long the beginning, and END."""
    return source if len(source) <= context else [*source[: context - 1], END]
