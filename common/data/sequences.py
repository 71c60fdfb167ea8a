"""Batches of sequences of different lengths, with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from common.data.loaders import Loader, Transform
from common.machine.device import mix_seed

POOL = 50  # batches that are shuffled together before they are cut by length


class Sequences:
    """Sequences of token ids with a target each, stored end to end.

    Args:
        tokens: the ids of each sequence; an empty one is kept as a single `pad`.
        targets: int64 [N].
        pad: the id that fills the short ones up.

    Raises:
        ValueError: tokens and targets differ in number.
    """

    def __init__(self, tokens: Sequence[Sequence[int]], targets: Tensor, pad: int = 0) -> None:
        if len(tokens) != len(targets):
            raise ValueError(f"{len(tokens)} sequences but {len(targets)} targets")
        tokens = [t if len(t) else [pad] for t in tokens]
        self.targets = targets
        self.pad = pad
        self.lengths = torch.tensor([len(t) for t in tokens], dtype=torch.int64)
        self._ends = self.lengths.cumsum(0)
        self._flat = torch.tensor(list(chain.from_iterable(tokens)), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Tensor:
        """The ids of one sequence, int64 [T]."""
        end = int(self._ends[index])
        return self._flat[end - int(self.lengths[index]) : end]

    def padded(self, indices: Tensor) -> Tensor:
        """Several sequences, filled up to the longest of them: int64 [B, T]."""
        return torch.nn.utils.rnn.pad_sequence([self[i] for i in indices.tolist()], True, self.pad)

    def in_memory(self) -> None:
        """None: they have no common shape."""


class SequenceLoader(Loader):
    """A Loader of sequences: inputs int64 [B, T], padded to the longest of the batch, and targets [B].

    For training, POOL batches are drawn at random together, sorted by length and cut, and the batches come in random
    order: lengths are similar within a batch, and each epoch is another. Otherwise all are sorted by length; read
    `shard` for the order.

    Args: as for Loader; `augment` gets the padded batch.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        *,
        train: bool,
        device: torch.device,
        seed: int = 0,
        augment: Transform | None = None,
    ) -> None:
        self._sequences = sequences
        super().__init__(sequences, batch_size, train=train, device=device, seed=seed, augment=augment)
        self._whole = augment is not None

    def batches(self, epoch: int) -> list[Tensor]:
        lengths = self._sequences.lengths
        if not self.train:
            return list(lengths.argsort(stable=True).split(self.batch_size))
        order = self.order(epoch)[: len(self) * self.batch_size]
        pools = order.split(POOL * self.batch_size)
        ordered = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools])
        batches = ordered.split(self.batch_size)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "batches", epoch))
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _read(self, batches: Sequence[Tensor], places: Sequence[Tensor]) -> Iterator[Tensor]:
        for indices in batches:
            yield self._sequences.padded(indices).to(self.device, non_blocking=True)
