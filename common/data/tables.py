"""Tables: rows of numbers, each with a class. Where they come from and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.data.splits import stratified
from common.errors import UserError, nearest
from common.machine.device import mix_seed

TABLES = ("breast-cancer", "synthetic")
SPLIT = (0.6, 0.2, 0.2)  # train, valid, test


@dataclass(frozen=True)
class Rows:
    """Rows of a table, as `Loader` takes them.

    Args:
        features: float32 [N, F].
        targets: [N], int64 classes; a training may use rows with targets of its own, such as float 0 and 1.
    """

    features: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Tensor:
        return self.features[index]

    def in_memory(self) -> Tensor:
        return self.features

    def subset(self, indices: Tensor) -> Rows:
        """The rows at `indices`, int64 [M]."""
        return Rows(self.features[indices], self.targets[indices])


@dataclass(frozen=True)
class TableData:
    """Three disjoint splits of a table.

    Args:
        train, valid, test: the splits, raw as in the source.
        feature_names: of the columns.
        classes: name of each class.
        provenance: source, licence or citation, counts and how the split was made.
        best_accuracy: what the true rule behind made-up data reaches on test; None where nobody knows it.
    """

    train: Rows
    valid: Rows
    test: Rows
    feature_names: list[str]
    classes: list[str]
    provenance: str
    best_accuracy: float | None = None

    @property
    def whole(self) -> Rows:
        """All rows, for cross-validation: train, then valid, then test."""
        parts = (self.train, self.valid, self.test)
        return Rows(torch.cat([p.features for p in parts]), torch.cat([p.targets for p in parts]))


class Standardize(nn.Module):
    """Brings every column to mean 0 and standard deviation 1: [N, F] to [N, F].

    Mean and deviation are buffers, so that they travel with the weights and a saved model takes raw rows.

    Args:
        mean, std: of each column, [F].
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def of(cls, features: Tensor) -> Standardize:
        """Measured on training rows, [N, F]; a column without spread is only centred."""
        std = features.std(0, correction=0)
        return cls(features.mean(0), torch.where(std > 0, std, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


def load_table(name: str, seed: int) -> TableData:
    """A table by name, split 60/20/20 with the classes in proportion.

    Args:
        name: "breast-cancer": 569 tumours by 30 measurements of their cells, inside scikit-learn.
            "synthetic": 600 rows by 8 columns, made up; a logistic rule with noise, so that no model is always right.
        seed: of the split, and of the made-up rows.

    Raises:
        UserError: there is no such table.
    """
    if name == "breast-cancer":
        rows, names, classes, source = _breast_cancer()
        right = None
    elif name == "synthetic":
        rows, names, classes, right = _synthetic(seed)
        source = "made-up rows, labelled by a logistic rule with noise"
    else:
        raise UserError(f"There is no table {name!r}.", nearest(name, TABLES))
    parts = stratified(rows.targets, SPLIT, seed)
    train, valid, test = (rows.subset(part) for part in parts)
    best = right[parts[2]].float().mean().item() if right is not None else None
    counts = f"{len(train)} train / {len(valid)} valid / {len(test)} test"
    provenance = f"{source}; {counts}; split at random, classes in proportion, seed {seed}"
    return TableData(train, valid, test, names, classes, provenance, best)


def _breast_cancer() -> tuple[Rows, list[str], list[str], str]:
    """Breast Cancer Wisconsin (Diagnostic): Street, Wolberg and Mangasarian 1993, doi 10.1117/12.148698."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    rows = Rows(torch.from_numpy(table.data).float(), torch.from_numpy(table.target).long())
    names, classes = ([str(word) for word in words] for words in (table.feature_names, table.target_names))
    return rows, names, classes, "Breast Cancer Wisconsin (Diagnostic), UCI, CC BY 4.0, as shipped with scikit-learn"


def _synthetic(seed: int, count: int = 600, columns: int = 8) -> tuple[Rows, list[str], list[str], Tensor]:
    """Rows, names, classes, and for each row whether the true rule is right about it, bool [N]."""
    generator = torch.Generator().manual_seed(mix_seed(seed, "table"))
    standard = torch.randn(count, columns, generator=generator)
    scores = standard @ torch.linspace(-2, 2, columns)  # the log of the odds of the second class
    targets = (torch.rand(count, generator=generator) < scores.sigmoid()).long()
    # Columns in units of their own, from thousandths to thousands, as in real tables.
    features = standard * 10.0 ** torch.linspace(-3, 3, columns) + 10.0 ** torch.linspace(-2, 3, columns)
    names = [f"column {i + 1}" for i in range(columns)]
    return Rows(features, targets), names, ["negative", "positive"], (scores > 0).long() == targets
