"""Tables by name: embedded, made up, of UCI, or the user's own CSV; every mistake in one is found here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.files import located
from common.kinds.base import shown
from common.kinds.history import read_moment
from common.kinds.record import Column, is_gap
from common.kinds.sheet import is_number, read_sheet
from common.machine.device import mix_seed

SOURCES = ("wine", "diabetes", "breast-cancer", "uci:wall-following", "synthetic", "csv:FILE")
TASKS = ("classification", "regression")
WALL_FILE = "sensor_readings_24.data"
MOST_COLUMNS = 1000
MOSTLY = 0.9  # numbers among the values of a column, from which a text in it is a mistake
MOST_CLASSES = 20  # whole numbers in a target, from which on they are a quantity


@dataclass(frozen=True)
class Table:
    """Rows with a target each.

    Args:
        names: of the columns.
        values: float64 [N, F]: numbers, numbers of categories, and NaN for gaps.
        categories: of each column, empty for one of numbers.
        target: int64 [N], or float64 [N] where it is a quantity.
        target_name: its column.
        classes: in the order of their numbers; empty where the target is a quantity.
        source: where it comes from, and its licence.
        ordered: whether the rows are in the order of time.
        groups: of each row, such as a patient; None where each row is alone.
        ignored: columns of the source that are no inputs: the target, groups, times.
        best: what the rule behind made-up data says of each row: the probability of class 1, or the quantity; [N].
    """

    names: list[str]
    values: Tensor
    categories: list[tuple[str, ...]]
    target: Tensor
    target_name: str
    classes: list[str]
    source: str
    ordered: bool = False
    groups: list[str] | None = None
    ignored: tuple[str, ...] = ()
    best: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Asked:
    """What the user says of a CSV file: names of columns, those of several separated by commas."""

    target: str | None = None
    group: str | None = None
    time: str | None = None
    drop: str | None = None
    categories: str | None = None

    def said(self) -> bool:
        return any((self.target, self.group, self.time, self.drop, self.categories))


def load_table(name: str, *, data_dir: Path | None, asked: Asked, task: str | None, seed: int) -> Table:
    """One of SOURCES, checked.

    Args:
        data_dir: where a file is looked for first.
        task: one of TASKS; None for what the target looks like.

    Raises:
        UserError: the name is unknown, or something in the table is wrong; the line or the column is named.
    """
    kind, _, rest = name.partition(":")
    if kind == "csv" and rest:
        table = _csv(located(rest, data_dir), asked, task)
    elif asked.said():
        raise UserError("--target, --group, --time, --drop and --categories are for --data csv:FILE.")
    elif name == "synthetic":
        table = _synthetic(seed, task or "classification")
    elif name == "uci:wall-following":
        table = _wall_following(data_dir)
    elif name in ("wine", "diabetes", "breast-cancer"):
        table = _scikit(name)
    else:
        raise UserError(f"There is no table {name!r}.", nearest(name, SOURCES))
    found = "classification" if table.classes else "regression"
    if task not in (None, found):
        raise UserError(f"--task {task} does not suit {name}: it is a table for {found}.")
    check(table)
    return table


# --- what is wrong with a table ----------------------------------------------------------------------------


def check(table: Table) -> None:
    """Raises UserError for a column without information, and for one that is the target under another name."""
    if len(table.names) > MOST_COLUMNS:
        raise UserError(f"The table has {len(table.names)} columns; {MOST_COLUMNS} are the most.", _DROP)
    if table.classes and len(table.classes) < 2:
        raise UserError(
            f"The target {table.target_name!r} is always {table.classes[0]!r}: there is nothing to predict."
        )
    if not table.classes and table.target.unique().numel() < 2:
        raise UserError(f"The target {table.target_name!r} is constant: there is nothing to predict.")
    for place, name in enumerate(table.names):
        values = table.values[:, place]
        known = values[~values.isnan()]
        if not len(known):
            raise UserError(f"Column {name!r} is empty.", _DROP.format(name))
        if known.unique().numel() < 2 and len(known) == len(values):
            raise UserError(f"Column {name!r} is constant: there is nothing to learn from it.", _DROP.format(name))
        if _is_target(table, values):
            what = f"Column {name!r} is the target {table.target_name!r} under another name."
            raise UserError(what, _DROP.format(name))


_DROP = "Leave it out: --drop {}"


def _is_target(table: Table, values: Tensor) -> bool:
    """Whether each value of a column goes with one value of the target and back, or lies on a line with it."""
    if bool(values.isnan().any()):
        return False
    if table.classes:
        pairs = torch.stack([values, table.target.double()], dim=1).unique(dim=0)
        return len(pairs) == values.unique().numel() == len(table.classes)
    if values.unique().numel() <= 2 or table.target.unique().numel() <= 2:
        return False
    return bool(torch.corrcoef(torch.stack([values, table.target]))[0, 1].abs() > 1 - 1e-9)


# --- the user's own ----------------------------------------------------------------------------------------


def _csv(path: Path, asked: Asked, task: str | None) -> Table:
    header, rows = read_sheet(_text(path), path.name)
    if not asked.target:
        raise UserError("--data csv:FILE needs --target COLUMN.", f"The columns: {', '.join(header[:20])}.")
    listed = {name: _listed(getattr(asked, name)) for name in ("target", "group", "time", "drop", "categories")}
    for names in listed.values():
        for name in names:
            if name not in header:
                raise UserError(f"{path.name} has no column {shown(name)}.", nearest(name, header))
    ignored = [name for key in ("target", "group", "time", "drop") for name in listed[key]]
    twice = [name for name in ignored if ignored.count(name) > 1]
    if twice:
        raise UserError(f"Column {twice[0]!r} is named twice among --target, --group, --time and --drop.")
    if asked.time:
        rows = _in_time(rows, header.index(asked.time), path.name, asked.time)
    names = [name for name in header if name not in ignored]
    if not names:
        raise UserError(f"{path.name} has no column left beside the target.")
    cells = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    columns = [
        _column(name, cells[name], name in listed["categories"], path.name, asked.time is not None) for name in names
    ]
    target, classes = _target(asked.target, cells[asked.target], task, path.name)
    return Table(
        names, torch.stack([values for _, values in columns], dim=1), [categories for categories, _ in columns],
        target, asked.target, classes, f"csv:{path.name}", ordered=asked.time is not None,
        groups=cells[asked.group] if asked.group else None, ignored=tuple(ignored),
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()] if names else []


def _in_time(rows: list[list[str]], place: int, file: str, column: str) -> list[list[str]]:
    """The rows sorted by a column of times, those of one time as they were."""
    times: list[Any] = []
    for line, row in enumerate(rows, start=2):
        try:
            times.append(float(row[place]) if is_number(row[place]) else read_moment(row[place]))
        except ValueError:
            what = f"{file} line {line}: column {column!r} is {shown(row[place])}, which is no time."
            raise UserError(what, "Times are numbers, or dates such as 2024-05-31 or 2024-05-31 13:00.") from None
    try:
        order = sorted(range(len(rows)), key=lambda row: times[row])
    except TypeError:
        raise UserError(f"{file}: column {column!r} holds several kinds of time.", "Write all of them alike.") from None
    return [rows[row] for row in order]


def _column(
    name: str, cells: Sequence[str], as_category: bool, file: str, sorted_rows: bool
) -> tuple[tuple[str, ...], Tensor]:
    """The categories of a column, none for numbers, and its values float64 [N]."""
    known = [cell for cell in cells if not is_gap(cell)]
    numbers = sum(is_number(cell) for cell in known)
    categories: tuple[str, ...] = ()
    if as_category or numbers < MOSTLY * len(known):
        categories = tuple(_in_order(set(known)))
        if len(categories) > max(20, len(known) / 2):
            what = f"Column {name!r} of {file} holds {len(categories)} different texts in {len(cells)} rows."
            raise UserError(what, f"Nothing is learnt from what does not repeat. {_DROP.format(name)}")
    elif numbers < len(known):
        line, cell = next((n, c) for n, c in enumerate(cells, start=2) if not is_gap(c) and not is_number(c))
        where = f"{file}:" if sorted_rows else f"{file} line {line}:"
        what = f"{where} column {name!r} is {shown(cell)}, but nearly all others are numbers."
        raise UserError(what, f"Leave the cell empty if it is missing, or say --categories {name}.")
    column = Column(name, categories, True, (), 0.0)
    values = [column.read(cell, f"{file} line {line}") for line, cell in enumerate(cells, start=2)]
    return categories, torch.tensor(values, dtype=torch.float64)


def _in_order(texts: set[str]) -> list[str]:
    """Numbers by their size, texts by their letters."""
    return sorted(texts, key=float) if all(is_number(text) for text in texts) else sorted(texts)


def _target(name: str, cells: Sequence[str], task: str | None, file: str) -> tuple[Tensor, list[str]]:
    """The target, and its classes where it is none of quantities."""
    for line, cell in enumerate(cells, start=2):
        if is_gap(cell):
            raise UserError(f"{file} line {line}: the target {name!r} is empty.", "Leave out the row, or fill it in.")
    numeric = all(is_number(cell) for cell in cells)
    if task is None:
        whole = numeric and all(float(cell).is_integer() for cell in cells if float(cell) < 1e15)
        task = "regression" if numeric and not (whole and len(set(cells)) <= MOST_CLASSES) else "classification"
    if task == "regression":
        column = Column(name, (), False, (), 0.0)
        values = [column.read(cell, f"{file} line {line}") for line, cell in enumerate(cells, start=2)]
        return torch.tensor(values, dtype=torch.float64), []
    classes = _in_order(set(cells))
    if len(classes) > max(MOST_CLASSES, len(cells) / 10):
        what = f"The target {name!r} of {file} has {len(classes)} different values in {len(cells)} rows."
        raise UserError(what, "Say --task regression if it is a quantity.")
    numbers = {text: number for number, text in enumerate(classes)}
    return torch.tensor([numbers[cell] for cell in cells]), classes


# --- those with a name -------------------------------------------------------------------------------------


def _scikit(name: str) -> Table:
    """Wine (Aeberhard et al. 1992), diabetes (Efron et al. 2004), breast cancer (Street et al. 1993)."""
    from sklearn import datasets

    if name == "diabetes":
        found = datasets.load_diabetes(scaled=False)
        classes: list[str] = []
        source = "diabetes progression within a year, Efron et al. 2004, as shipped with scikit-learn"
    else:
        found = datasets.load_wine() if name == "wine" else datasets.load_breast_cancer()
        classes = [str(word) for word in found.target_names]
        source = {
            "wine": "wines of three growers, UCI, CC BY 4.0, as shipped with scikit-learn",
            "breast-cancer": "Breast Cancer Wisconsin (Diagnostic), UCI, CC BY 4.0, as shipped with scikit-learn",
        }[name]
    names = [str(word) for word in found.feature_names]
    values = torch.tensor(found.data, dtype=torch.float64)
    categories: list[tuple[str, ...]] = [()] * len(names)
    if name == "diabetes":
        sex = names.index("sex")
        categories[sex] = ("1", "2")  # as the source has it; which is which it does not say
        values[:, sex] -= 1
    target = torch.tensor(found.target)
    target_name = {"wine": "grower", "diabetes": "progression", "breast-cancer": "diagnosis"}[name]
    return Table(names, values, categories, target.long() if classes else target.double(), target_name, classes, source)


def _wall_following(data_dir: Path | None) -> Table:
    """One drive of a robot along the walls of a room: 24 sonar readings, 9 times a second (Freire et al. 2009)."""
    folder = data_dir or Path("data")
    path = next((p for p in (folder / WALL_FILE, folder / "wall-following" / WALL_FILE) if p.exists()), None)
    if path is None:
        raise UserError(
            f"There is no {WALL_FILE} in {folder}.",
            "Get “Wall-Following Robot Navigation Data” from archive.ics.uci.edu; name its folder by --data-dir.",
        )
    sonar = [f"S{number}" for number in range(1, 25)]
    text = _text(path)
    if not text.lstrip().startswith("S1"):  # UCI's own file has no header
        text = ",".join([*sonar, "OUTPUT"]) + "\n" + text
    header, rows = read_sheet(text, path.name)
    if header != [*sonar, "OUTPUT"]:
        raise UserError(f"{path} has other columns than S1 to S24 and OUTPUT.", "Use csv:FILE.")
    columns = [_column(name, [row[i] for row in rows], False, path.name, False)[1] for i, name in enumerate(sonar)]
    target, classes = _target("OUTPUT", [row[-1] for row in rows], "classification", path.name)
    source = "Wall-Following Robot Navigation, UCI, CC BY 4.0: one drive, in the order of time"
    return Table(
        sonar, torch.stack(columns, dim=1), [()] * 24, target, "movement", classes, source, ordered=True,
        ignored=("OUTPUT",),
    )  # fmt: skip


def _synthetic(seed: int, task: str, count: int = 800) -> Table:
    """A wave, a line with gaps, a category, and noise; what the rule knows is the best possible."""
    generator = torch.Generator().manual_seed(mix_seed(seed, "tabular"))

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    wave, line, idle = normal(), normal(), normal()
    group = torch.randint(4, (count,), generator=generator)
    gap = torch.rand(count, generator=generator) < 0.2
    effect = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64)[group]
    score = 2 * (2 * wave).sin() + effect + torch.where(gap, 1.0, 1.5 * line)
    # Units of their own, as real tables have them.
    columns = [100 + 10 * wave, torch.where(gap, torch.nan, 1000 * line), 0.01 * idle, group.double()]
    names = ["wave", "line", "idle", "group"]
    categories: list[tuple[str, ...]] = [(), (), (), ("east", "north", "south", "west")]
    values = torch.stack(columns, dim=1)
    source = "made-up rows: a wave, a line with gaps and a category, with noise"
    if task == "regression":
        target = 50 + 20 * (score + 0.7 * normal())
        return Table(names, values, categories, target, "yield", [], source, best=50 + 20 * score)
    chance = score.sigmoid()
    drawn = (torch.rand(count, generator=generator, dtype=torch.float64) < chance).long()
    return Table(names, values, categories, drawn, "outcome", ["no", "yes"], source, best=chance)


def columns_of(table: Table, train: Tensor, values: Tensor, points: int = 11) -> tuple[Column, ...]:
    """What the model knows of each column: from the training rows `train` [M] of `values` [N, F]."""
    found = []
    for place, name in enumerate(table.names):
        column = values[:, place]
        known = column[train]
        known = known[~known.isnan()]
        categories: Any = table.categories[place]
        gaps = bool(column.isnan().any())
        if categories:
            counts = torch.bincount(known.long(), minlength=len(categories)).double()
            shares = (counts / counts.sum().clamp(min=1)).tolist()
            found.append(Column(name, categories, gaps, tuple(_short(x) for x in shares), float(counts.argmax())))
        else:
            levels = torch.linspace(0, 1, points, dtype=torch.float64)
            quantiles = known.quantile(levels).tolist() if len(known) else [0.0] * points
            middle = quantiles[points // 2]
            found.append(Column(name, (), gaps, tuple(map(_short, quantiles)), _short(middle)))
    return tuple(found)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
