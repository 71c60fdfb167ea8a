"""Batches depend on the seed, the epoch and the position, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.data.loaders import Loader
from common.errors import UserError
from tests.toy import Points, jitter

CPU = torch.device("cpu")


def data(streamed: bool, n: int = 50) -> Points:
    return Points(torch.arange(float(n * 2)).view(n, 2), torch.arange(n), streamed)


def all_batches(loader: Loader, epoch: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    return [(x.clone(), y.clone()) for x, y in loader.epoch(epoch, start)]


def equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_memory_and_any_number_of_workers_give_the_same_batches() -> None:
    reference = Loader(data(False), 8, train=True, device=CPU, seed=3, augment=jitter)
    for workers in (0, 1, 2):
        streamed = Loader(data(True), 8, train=True, device=CPU, seed=3, augment=jitter, workers=workers)
        for epoch in (0, 1):
            assert equal(all_batches(streamed, epoch), all_batches(reference, epoch))


def test_an_epoch_from_the_middle_is_the_rest_of_the_epoch() -> None:
    loader = Loader(data(False), 8, train=True, device=CPU, seed=3, augment=jitter)
    assert equal(all_batches(loader, 2, start=4), all_batches(loader, 2)[4:])


def test_order_changes_with_epoch_and_seed_and_nothing_global() -> None:
    loader = Loader(data(False), 8, train=True, device=CPU, seed=3, augment=jitter)
    before = torch.get_rng_state()
    first, second = all_batches(loader, 0), all_batches(loader, 1)
    assert not equal(first, second)
    assert equal(first, all_batches(loader, 0))
    assert not equal(first, all_batches(Loader(data(False), 8, train=True, device=CPU, seed=4, augment=jitter), 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_training_drops_the_incomplete_batch_and_evaluation_keeps_every_sample() -> None:
    train = Loader(data(False), 8, train=True, device=CPU)
    assert len(train) == len(all_batches(train, 0)) == 6
    test = Loader(data(False), 8, train=False, device=CPU)
    assert len(test) == 7
    assert torch.cat([y for _, y in all_batches(test, 0)]).tolist() == list(range(50))


def test_every_sample_is_seen_once_per_epoch() -> None:
    loader = Loader(data(False, 48), 8, train=True, device=CPU)
    assert sorted(torch.cat([y for _, y in all_batches(loader, 5)]).tolist()) == list(range(48))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"--batch-size 64 is larger than the training data \(50 samples\)"):
        Loader(data(False), 64, train=True, device=CPU)


class Broken(Points):
    def __getitem__(self, index: int) -> Tensor:
        if index == 7:
            raise UserError("photo-7.jpg is broken.", "Remove it.")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_found_by_a_worker_arrives_as_it_is(workers: int) -> None:
    points = data(True)
    loader = Loader(Broken(points.inputs, points.targets, True), 8, train=False, device=CPU, workers=workers)
    with pytest.raises(UserError) as error:
        all_batches(loader, 0)
    assert str(error.value) == "photo-7.jpg is broken.\nRemove it."
