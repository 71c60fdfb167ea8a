"""A row of a table with numbers, categories and gaps."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.kinds.base import Explain, Kind, dumps, json_of, shown, text_of
from common.kinds.sheet import is_number, separator_of

GAPS = ("", "?", "na", "n/a", "nan", "null")  # how a missing value is written, in any case of letters
LARGEST = 1e30  # float32 ends at 3e38, and squares of sums must fit too
MOST_VARIANTS = 2048  # rows that are predicted to explain one


def is_gap(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in GAPS)


@dataclass(frozen=True)
class Column:
    """What a model knows of a column.

    Args:
        name: of the column.
        categories: in the order of their numbers; empty for a column of numbers.
        gaps: whether values may be missing.
        points: of numbers, evenly spaced quantiles of the training rows, from the least to the greatest; of categories
            the share of each among them.
        usual: the median, or the number of the most frequent category.
    """

    name: str
    categories: tuple[str, ...]
    gaps: bool
    points: tuple[float, ...]
    usual: float

    def read(self, value: Any, where: str) -> float:
        """The number, the number of the category, or NaN for a gap.

        Args:
            value: as JSON has it, or the text of a cell.
            where: the row, for the texts of errors.

        Raises:
            UserError: a text where a number belongs, a category that training never saw, a gap where it saw none.
        """
        where = f"{where}: column {shown(self.name)}"
        if is_gap(value) or (isinstance(value, float) and math.isnan(value)):
            if self.gaps:
                return math.nan
            raise UserError(f"{where} is empty, which it never was in training.", "Give it a value.")
        if self.categories:
            return self._category(value, where)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not is_number(value):
            raise UserError(f"{where} is {shown(value)}, not a number.")
        if not math.isfinite(float(value)) or abs(float(value)) > LARGEST:
            raise UserError(f"{where} is {shown(value)}; only finite numbers up to {LARGEST:g} go.")
        return float(value)

    def _category(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise UserError(f"{where} is {shown(value)}, not a text.")
        if str(value) not in self.categories:
            hint = nearest(str(value), self.categories) if len(self.categories) <= 50 else ""
            raise UserError(f"{where} is {shown(value)}, a category that training never saw.", hint)
        return float(self.categories.index(str(value)))

    def write(self, value: float) -> Any:
        """The reverse of `read`, for JSON."""
        if math.isnan(value):
            return None
        return self.categories[int(value)] if self.categories else value

    def others(self, count: int) -> list[tuple[float, float]]:
        """Values as the training rows have them, at most about `count`, each with its share."""
        if self.categories:
            likely = sorted(enumerate(self.points), key=lambda each: -each[1])[:count]
            return [(float(number), share) for number, share in likely]
        step = max(1, math.ceil((len(self.points) - 1) / count))
        chosen = self.points[step // 2 :: step]
        return [(value, 1 / len(chosen)) for value in chosen]


@dataclass(frozen=True)
class RecordInput(Kind):
    """A row of a table: a number, a category or a gap for each named column.

    Args:
        columns: that the model takes, in its order.
        ignored: further columns of the table it was trained on, which a row may have too, such as the target.
    """

    kind: ClassVar[str] = "record"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".csv")
    usage: ClassVar[str] = "--lines rows.csv"

    columns: tuple[Column, ...]
    ignored: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def sample(self) -> bytes:
        return dumps({column.name: column.write(column.usual) for column in self.columns}).encode()

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """float32 [F] of a JSON object by column name, a JSON list, or one line of comma-separated cells.

        Categories are their numbers, and gaps NaN.

        Raises:
            UserError: a column is missing or unknown; see `Column.read`.
        """
        name = name or "The row"
        text = text_of(source, name).strip()
        value = json_of(text, name) if text.startswith(("{", "[")) else _cells(text, name)
        if isinstance(value, dict):
            value = self._in_order(value, name)
        if len(value) != len(self.columns):
            raise UserError(f"{name} has {len(value)} values; the model takes {len(self.columns)}.")
        read = [column.read(cell, name) for column, cell in zip(self.columns, value, strict=True)]
        return torch.tensor(read, dtype=torch.float32)

    def _in_order(self, value: Mapping[str, Any], name: str) -> list[Any]:
        known = set(self.names)
        for key in value:
            if key not in known and key not in self.ignored:
                raise UserError(f"{name} has an unknown column {shown(key)}.", nearest(key, self.names))
        missing = [column for column in self.names if column not in value]
        if missing:
            raise UserError(f"{name} lacks {len(missing)} of {len(self.columns)} columns: {missing[0]!r}, …")
        return [value[column] for column in self.names]

    def network_input(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))  # [B, F]

    def lines(self, first: list[str]) -> tuple[Callable[[list[str]], bytes], bool]:
        """With a header in any order, or without one in the model's."""
        header = [cell.strip() for cell in first]
        if 2 * len(set(header) & set(self.names)) >= min(len(header), len(self.columns)):
            return lambda cells: dumps(_by_name(header, cells)).encode(), True
        return self.cells, False

    def cells(self, cells: list[str]) -> bytes:
        return dumps([cell.strip() for cell in cells]).encode()

    def is_one(self, value: Any) -> bool:
        """A row may be a list itself."""
        return not isinstance(value, list) or (bool(value) and not isinstance(value[0], (list, dict)))

    def has_key(self, key: str) -> bool:
        return key in self.names or key in self.ignored

    def explainer(self, predictor: Any) -> tuple[str, Explain]:
        """What an answer loses when a column is unknown: when it has every value that training rows have, by its share.

        The method is that of interventional expectations, one column at a time (Strumbelj and Kononenko 2014, doi
        10.1007/s10115-013-0679-x, without coalitions): of columns that say the same, each may seem to say little.
        """

        def explain(item: Tensor, target: int) -> dict[str, Any]:
            answer, name = predictor.answer, predictor.answer.names[target]
            count = max(1, min(10, MOST_VARIANTS // len(self.columns)))
            variants, shares = [item], [1.0]
            owners = [-1]
            for place, column in enumerate(self.columns):
                others = column.others(count)
                whole = sum(share for _, share in others)
                for value, share in others:
                    other = item.clone()
                    other[place] = value
                    variants.append(other)
                    shares.append(share / whole)
                    owners.append(place)
            said = [answer.evidence(row, name) for row in predictor.predict(variants)]
            lost = [said[0]] * len(self.columns)
            for owner, share, value in zip(owners[1:], shares[1:], said[1:], strict=True):
                lost[owner] -= share * value
            columns = [
                [column.name, column.write(float(value)), round(score, 6)]
                for column, value, score in zip(self.columns, item, lost, strict=True)
            ]
            return {"method": "occlusion", "unit": answer.unit, "columns": columns}

        return "columns", explain

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "columns": [asdict(column) for column in self.columns], "ignored": self.ignored}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> RecordInput:
        """The reverse of `to_json`; UserError where a field is missing or of a wrong type."""
        try:
            columns = tuple(_column(column) for column in fields["columns"])
            ignored = tuple(fields["ignored"])
            if not columns or not all(isinstance(name, str) for name in ignored):
                raise TypeError("ignored")
            return cls(columns, ignored)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            what = f"The model's description of its {cls.kind} input is not valid: {str(fields)[:200]}."
            raise UserError(what) from error


def _column(fields: dict[str, Any]) -> Column:
    column = Column(
        fields["name"], tuple(fields["categories"]), fields["gaps"], tuple(map(float, fields["points"])),
        float(fields["usual"]),
    )  # fmt: skip
    texts = all(isinstance(text, str) for text in (column.name, *column.categories))
    expected = len(column.categories) or len(column.points)
    if not texts or type(column.gaps) is not bool or not expected or len(column.points) != expected:
        raise TypeError(column.name)
    column.write(column.usual)
    return column


def _by_name(header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise UserError(f"A line has {len(cells)} cells, but the header has {len(header)}.")
    return {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def _cells(text: str, name: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader(io.StringIO(text), delimiter=separator_of(text)), [])]
    except csv.Error as error:  # a cell of more than 131,072 letters, and what is no CSV
        raise UserError(f"{name} is not a row of a table: {error}.") from error
