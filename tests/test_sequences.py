"""Batches of sequences: every one once, the same in every run, and with little padding."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common.command.arguments import Options
from common.command.execute import execute
from common.data.loaders import Batch
from common.data.sequences import SequenceLoader, Sequences
from common.kinds.labels import Labels
from common.metrics import Metrics
from common.training.fit import fit, make_optimizer, predict_all
from common.training.run import Run
from tests import toy

CPU = torch.device("cpu")


def sequences(n: int = 1000) -> Sequences:
    draw = random.Random(0)
    tokens = [[i + 1] * draw.randint(0 if i else 1, 60) for i in range(n)]  # each made of its own number
    return Sequences(tokens, torch.arange(n))


def loader(data: Sequences, train: bool, seed: int = 0, size: int = 16) -> SequenceLoader:
    return SequenceLoader(data, size, train=train, device=CPU, seed=seed)


def test_an_evaluation_sees_every_sequence_once_with_its_own_target() -> None:
    data = sequences(45)
    seen = []
    for inputs, targets in loader(data, train=False).epoch(0):
        for row, target in zip(inputs, targets.tolist(), strict=True):
            assert set(row.tolist()) <= {0, target + 1}
            assert int((row != 0).sum()) in (int(data.lengths[target]), 0)
            seen.append(target)
    assert sorted(seen) == list(range(45))
    assert loader(data, train=False).shard().tolist() == seen


def test_training_batches_hold_similar_lengths_and_change_with_the_epoch() -> None:
    data = sequences()
    batches = loader(data, train=True)
    epochs = [[inputs for inputs, _ in batches.epoch(e)] for e in (0, 1)]
    padding = sum(int((b == 0).sum()) for b in epochs[0]) / sum(b.numel() for b in epochs[0])
    assert padding < 0.1  # drawn without regard to length it is a half
    firsts = [[int(b[0, 0]) for b in epoch] for epoch in epochs]
    assert firsts[0] != firsts[1]
    widths = [b.shape[1] for b in epochs[0]]
    assert widths != sorted(widths)  # short ones do not come first
    middle = [inputs for inputs, _ in batches.epoch(1, start=20)]
    assert all(torch.equal(a, b) for a, b in zip(middle, epochs[1][20:], strict=True))


def test_an_empty_sequence_is_a_single_pad() -> None:
    data = Sequences([[], [5, 6]], torch.tensor([0, 1]), pad=9)
    assert data.padded(torch.tensor([1, 0])).tolist() == [[5, 6], [9, 9]]


class Counting(nn.Module):
    """Logits that depend on the tokens and not on the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(50, 3, mode="sum", padding_idx=0)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.table(tokens)
        return logits


def test_predictions_come_in_the_order_of_the_data() -> None:
    data = sequences(45)
    model = Counting()
    together = predict_all(model, loader(data, train=False))
    alone = torch.cat([model(data.padded(torch.tensor([i]))) for i in range(45)])
    torch.testing.assert_close(together, alone.detach())


def test_a_classifier_of_sequences_learns_by_fit(tmp_path: Path) -> None:
    draw = random.Random(1)
    labels = [draw.randrange(3) for _ in range(300)]
    tokens = [[1 + label] + [draw.randint(4, 49) for _ in range(draw.randint(1, 20))] for label in labels]
    data = Sequences(tokens, torch.tensor(labels))
    scores: dict[str, float] = {}

    def train(config: toy.ToyConfig, run: Run) -> Metrics:
        model = run.place(Counting(), torch.zeros(1, 4, dtype=torch.int64))
        optimizer = make_optimizer("adamw", model, 0.1, 0.0)
        fit(run, model, nn.CrossEntropyLoss(), loader(data, train=True), replace(config, epochs=5), optimizer=optimizer)
        scores.update(Labels(["a", "b", "c"]).validate(predict_all(model, loader(data, train=False)), data.targets))
        return Metrics("accuracy", {"accuracy": scores["val_accuracy"]})

    example = toy.Example(**{**vars(toy.example), "train": train})
    execute(example, Options(out=str(tmp_path), quiet=True), {})
    assert scores["val_accuracy"] > 0.95


def test_every_process_sees_its_part_of_the_same_noise() -> None:
    def noisy(inputs: Tensor, targets: Tensor) -> Batch:
        return torch.where(torch.rand(inputs.shape) < 0.3, 0, inputs), targets

    data = sequences(64)
    whole = SequenceLoader(data, 16, train=True, device=CPU, augment=noisy)
    parts = []
    for rank in range(2):
        part = SequenceLoader(data, 16, train=True, device=CPU, augment=noisy)
        part._rank, part._world = rank, 2
        parts.append([inputs for inputs, _ in part.epoch(0)])
    for (inputs, _), left, right in zip(whole.epoch(0), *parts, strict=True):
        assert torch.equal(inputs, torch.cat([left, right]))
