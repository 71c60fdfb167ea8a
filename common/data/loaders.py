"""Batches that depend on nothing but the seed, the epoch and the position.

Not on the number of workers, not on the number of processes, and not on whether the run was interrupted:
batch `i` of epoch `e` is a function of (data, seed, e, i).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.machine import distributed, nests
from common.machine.device import isolated_rng, mix_seed

Batch: TypeAlias = tuple[Any, Any]  # inputs and targets, each any nest of B samples (`common.machine.nests`)
Transform: TypeAlias = Callable[[Any, Any], Batch]


class Batches(Protocol):
    """What `Run.loop` and `evaluate` take."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch, from position `start`."""


class Loader:
    """Batches of a data set, from memory where it fits, else through workers.

    A data set held in memory (`in_memory` returns its tensor) is moved to the device once; its batches are
    cut and augmented there, whole. Any other is read item by item by a DataLoader with workers, and its
    batches are augmented on the device in the same way.

    Args:
        dataset: `len`, `[i]` gives an input, `.targets` holds all targets, and `.in_memory()` all inputs or None. Or
            `len`, `[i]` gives a sample, and `.collate(samples)` makes a batch of them: (inputs, targets).
        batch_size: samples per batch, over all processes. Each process gets its share of every batch.
        train: shuffle each epoch anew and drop the incomplete last batch; otherwise in order, to the last sample.
        seed: of the order and of the augmentation.
        prepare: deterministic, on the device: inputs [B, ...] as stored to inputs as the model takes them.
        augment: random, on the device, before `prepare`: (inputs, targets) to (inputs, targets).
        workers: processes that read items; None takes one per core (never more than 8).

    Raises:
        UserError: the batch is larger than the data or cannot be shared among the processes.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        train: bool,
        device: torch.device,
        seed: int = 0,
        prepare: Callable[[Any], Any] | None = None,
        augment: Transform | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        workers: int | None = None,
    ) -> None:
        self.size = len(dataset)
        self.batch_size = batch_size
        self.train = train
        self.device = device
        self.seed = seed
        self.prepare = prepare
        self.augment = augment
        self.memory_format = memory_format
        self._rank, self._world = distributed.rank(), distributed.world()
        self._check()
        self._collated = hasattr(dataset, "collate")
        self.targets: Any = None if self._collated else nests.move(dataset.targets, device)
        inputs = None if self._collated else dataset.in_memory()
        self._inputs = None if inputs is None else nests.move(inputs, device)
        self._dataset, self._workers = dataset, workers
        self._stream: _Stream | None = None  # its processes start with the first batch
        # In memory every process augments the whole batch and keeps its share: N processes see what one would.
        # Reading all of it from files N times would cost too much: there each process augments its own share.
        self._whole = augment is not None and inputs is not None

    def _check(self) -> None:
        if self.train and self.batch_size > self.size:
            raise UserError(
                f"--batch-size {self.batch_size} is larger than the training data ({self.size} samples).",
                f"Use --batch-size {max(1, self.size // 4)} or less.",
            )
        if self.train and self.batch_size % self._world:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be shared equally among {self._world} processes.",
                f"Use a multiple of {self._world}.",
            )

    def __len__(self) -> int:
        if self.train:
            return self.size // self.batch_size
        return -(-self.size // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The permutation of one epoch, int64 [N], on the CPU."""
        if not self.train:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "order", epoch))
        return torch.randperm(self.size, generator=generator)

    def batches(self, epoch: int) -> list[Tensor]:
        """Which samples each batch of an epoch holds, over all processes, int64."""
        return list(self.order(epoch).split(self.batch_size))[: len(self)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from position `start`, on the device."""
        batches = self.batches(epoch)[start:]
        wanted = batches if self._whole else [self._share(b) for b in batches]
        rank = 0 if self._whole else self._rank
        # Moved at once: a copy for each batch would make the CPU wait until the GPU has done all that was asked before.
        places = torch.cat(wanted).to(self.device).split([len(b) for b in wanted]) if wanted else ()
        for position, (indices, inputs) in enumerate(zip(places, self._read(wanted, places), strict=True), start):
            if self._collated:
                inputs, targets = inputs
            else:
                targets = nests.take(self.targets, indices)
            if self.augment:
                with isolated_rng(mix_seed(self.seed, "augment", epoch, position, rank), self.device):
                    inputs, targets = self.augment(inputs, targets)
            if self._whole:
                inputs, targets = (nests.share(part, self._rank, self._world) for part in (inputs, targets))
            if self.prepare:
                inputs = self.prepare(inputs)
            yield nests.change(inputs, self._laid_out), targets

    def _laid_out(self, part: Tensor) -> Tensor:
        return part.contiguous(memory_format=self.memory_format) if part.dim() == 4 else part

    def _read(self, batches: Sequence[Tensor], places: Sequence[Tensor]) -> Iterator[Any]:
        """The inputs of batches of indices, which come as they are and on the device."""
        if self._inputs is not None:
            for indices in places:
                yield nests.take(self._inputs, indices)
            return
        if self._stream is None:
            self._stream = _Stream(self._dataset, _workers(self._workers), self.device)
        yield from self._stream.read(batches)

    def _share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; the last incomplete batch of an evaluation is shared unevenly."""
        return batch.tensor_split(self._world)[self._rank] if self._world > 1 else batch

    def shard(self) -> Tensor:
        """Which samples this process sees in an evaluation epoch, int64, in the order it sees them."""
        return torch.cat([self._share(batch) for batch in self.batches(0)])


class _Stream:
    """Reads items through worker processes, in the order asked for."""

    def __init__(self, dataset: Any, workers: int, device: torch.device) -> None:
        self._device = device
        self._batches: list[list[int]] = []
        self._loader: DataLoader[Any] = DataLoader(
            _Items(dataset),
            batch_sampler=_Fixed(self._batches),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=partial(_collate, getattr(dataset, "collate", _stack)),
            generator=torch.Generator(),  # its own: starting an epoch must not draw from the global one
        )

    def read(self, batches: Sequence[Tensor]) -> Iterator[Any]:
        self._batches[:] = [b.tolist() for b in batches]
        for inputs in self._loader:
            if isinstance(inputs, UserError):
                raise inputs
            yield nests.move(inputs, self._device)


class _Fixed:
    """A batch sampler that hands out a list which its owner may change between epochs."""

    def __init__(self, batches: list[list[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(list(self._batches))

    def __len__(self) -> int:
        return len(self._batches)


def _collate(collate: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """A batch, or the first error: raised in a worker it would arrive wrapped in the worker's traceback."""
    errors = [item for item in items if isinstance(item, UserError)]
    return errors[0] if errors else collate(items)


def _stack(items: list[Any]) -> Any:
    """Inputs of one shape as a batch."""
    return nests.join([nests.change(item, lambda part: part[None]) for item in items])


class _Items(Dataset[Any]):
    """The items of a data set, for workers."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except UserError as error:
            return error


def _workers(asked: int | None) -> int:
    if asked is not None:
        return asked
    import os

    return min(8, max(1, (os.cpu_count() or 1) // distributed.local_world()))
