"""How the rows of a table become training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.data.splits import stratified
from common.data.tables import Rows
from common.errors import UserError
from common.kinds.record import RecordInput
from research.tabular.tables import Table, columns_of

NAMES = ("random", "grouped", "blocked")
SHARES = (0.6, 0.2, 0.2)  # train, valid, test
BLOCKS = 20  # stretches of time; of every five the third is for validation, the fifth for the test
PIECES = 10  # of each block, which a bootstrap draws whole: neighbouring rows are alike
FEWEST = 10  # rows of a split


@dataclass(frozen=True)
class Folds:
    """The three splits of a table.

    Args:
        train, valid, test: rows float32 [N, F], categories as their numbers and gaps as NaN; targets int64, or float32
            in the units of the source.
        inputs: the kind of the input.
        table: where they come from.
        parts: which rows of it each split has.
        split: one of NAMES.
        units: of each test row the number of what is drawn with it in a bootstrap, int64 [N].
        notes: what a reader must know of the splits.
        provenance: source, counts and split.
    """

    train: Rows
    valid: Rows
    test: Rows
    inputs: RecordInput
    table: Table
    parts: tuple[Tensor, Tensor, Tensor]
    split: str
    units: Tensor
    notes: list[str]
    provenance: str


def divide(table: Table, split: str, seed: int) -> Folds:
    """Divides a table.

    "random" keeps classes in proportion; "grouped" keeps the rows of a group together; "blocked" cuts the rows, which
    are in the order of time, into BLOCKS stretches.

    Raises:
        UserError: the split does not suit the table, a fold has too few rows or one class, or a class no training row.
    """
    if len(table) < 5 * FEWEST:
        raise UserError(f"The table has {len(table)} rows; {5 * FEWEST} are the fewest that can be divided.")
    units = torch.arange(len(table))
    if split == "blocked":
        block = torch.arange(len(table)) * BLOCKS // len(table)
        place = block % 5
        parts = [((place != 2) & (place != 4)).nonzero()[:, 0], *((place == i).nonzero()[:, 0] for i in (2, 4))]
        units = torch.arange(len(table)) * (BLOCKS * PIECES) // len(table)
        how = f"{BLOCKS} blocks of time, every fifth for the test"
    else:
        groups = table.groups if split == "grouped" else None
        if split == "grouped" and groups is None:
            raise UserError("--split grouped needs --group COLUMN.")
        parts = stratified(_strata(table), SHARES, seed, groups)
        how = f"at random, {'classes' if table.classes else 'quarters of the target'} in proportion, seed {seed}"
        if groups is not None:
            numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
            units = torch.tensor([numbers[name] for name in groups])
            how = f"{len(numbers)} groups, none in two splits, {how}"
    _check(table, parts)
    values, notes = _without_unseen(table, parts)
    inputs = RecordInput(columns_of(table, parts[0], values), _ignored(table))
    train, valid, test = (Rows(values[part].float(), _targets(table, part)) for part in parts)
    if split == "random":
        notes += _repeated(train, test)
    counts = " / ".join(f"{len(part):,} {name}" for part, name in zip(parts, ("train", "valid", "test"), strict=True))
    gaps = int(values.isnan().sum())
    columns = f"{len(table.names)} columns" + (f" with {gaps:,} gaps" if gaps else "")
    provenance = f"{table.source}; {len(table):,} rows, {columns}; {counts}; {how}"
    return Folds(
        train, valid, test, inputs, table, (parts[0], parts[1], parts[2]), split, units[parts[2]], notes, provenance
    )


def _ignored(table: Table) -> tuple[str, ...]:
    """Names that a row to be predicted may have besides: those of the file, or of the target."""
    return table.ignored or tuple({table.target_name} - set(table.names))


def _strata(table: Table) -> Tensor:
    if table.classes:
        return table.target
    quarters = table.target.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return torch.bucketize(table.target, quarters)


def _targets(table: Table, part: Tensor) -> Tensor:
    return table.target[part] if table.classes else table.target[part].float()


def _check(table: Table, parts: list[Tensor]) -> None:
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) < FEWEST:
            what = f"The {name} split has {len(part)} rows; {FEWEST} are the fewest."
            raise UserError(what, "Give more rows or groups, or another --seed.")
        if table.classes and len(table.target[part].unique()) < 2:
            only = table.classes[int(table.target[part[0]])]
            what = f"The {name} split has only one class, {only!r}."
            raise UserError(what, "Choose another --seed, or --split random.")
    for number, name in enumerate(table.classes):
        if not bool((table.target[parts[0]] == number).any()):
            what = f"No training row is of class {name!r}, which {int((table.target == number).sum())} others are."
            raise UserError(what, "Choose another --seed, or --split random.")


def _without_unseen(table: Table, parts: list[Tensor]) -> tuple[Tensor, list[str]]:
    """Values in which a category that no training row has is a gap."""
    values, notes = table.values.clone(), []
    for place, categories in enumerate(table.categories):
        if not categories:
            continue
        column = values[:, place]
        known = set(column[parts[0]].tolist())
        unseen = torch.tensor([value == value and value not in known for value in column.tolist()])
        if bool(unseen.any()):
            column[unseen] = torch.nan
            count = int(unseen.sum())
            notes.append(f"{count} rows have a {table.names[place]!r} that no training row has: it counts as a gap")
    return values, notes


def _repeated(train: Rows, test: Rows) -> list[str]:
    seen = {tuple(row) for row in train.features.nan_to_num(nan=-1e30).tolist()}
    again = sum(tuple(row) in seen for row in test.features.nan_to_num(nan=-1e30).tolist())
    if not again:
        return []
    return [f"{again} of {len(test)} test rows stand among the training rows too, which makes them easy"]
