"""A row of a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from common.errors import UserError, nearest
from common.kinds.base import Kind, dumps, json_of, shown, tensor_of, text_of


@dataclass(frozen=True)
class RowInput(Kind):
    """A row of a table: one number for each named column.

    Args:
        names: of the columns, in the order in which the model takes them.
        usual: a value for each of them, such as its mean over the training data; zeros by default.
    """

    kind: ClassVar[str] = "row"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".csv")
    usage: ClassVar[str] = "--lines rows.csv"

    names: tuple[str, ...]
    usual: tuple[float, ...] = ()

    def sample(self) -> bytes:
        values = self.usual or (0.0,) * len(self.names)
        return json.dumps(dict(zip(self.names, values, strict=True))).encode()

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """float32 [F] of a JSON object by column name, a JSON list, or one line of comma-separated numbers.

        Raises:
            UserError: a column is missing or unknown, or a value is no finite number.
        """
        name = name or "The row"
        text = text_of(source, name).strip()
        value = json_of(text, name) if text.startswith(("{", "[")) else [_number(cell) for cell in _cells(text, name)]
        if isinstance(value, dict):
            for key in value:
                if key not in self.names:
                    raise UserError(f"{name} has an unknown column {shown(key)}.", nearest(key, self.names))
            missing = [n for n in self.names if n not in value]
            if missing:
                raise UserError(f"{name} lacks {len(missing)} of {len(self.names)} columns: {missing[0]!r}, …")
            value = [value[n] for n in self.names]
        return tensor_of(value, (len(self.names),), name)

    def lines(self, first: list[str]) -> tuple[Callable[[list[str]], bytes], bool]:
        """With a header in any order, or without one in the model's."""
        if sorted(first) == sorted(self.names):
            return lambda cells: dumps(dict(zip(first, map(float, cells), strict=True))).encode(), True
        return self.cells, False

    def cells(self, cells: list[str]) -> bytes:
        return dumps([float(cell) for cell in cells]).encode()

    def is_one(self, value: Any) -> bool:
        """A row may be a list itself."""
        return not isinstance(value, list) or (bool(value) and not isinstance(value[0], (list, dict)))

    def has_key(self, key: str) -> bool:
        return key in self.names


def _cells(text: str, name: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text)), [])
    except csv.Error as error:  # a cell of more than 131,072 letters, and what is no CSV
        raise UserError(f"{name} is not a row of numbers: {error}.") from error


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
