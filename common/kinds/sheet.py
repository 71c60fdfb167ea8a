"""Tables as people write them: lines of cells under a header, separated by what suits them."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Any

from common.errors import UserError
from common.kinds.base import shown

SEPARATORS = (",", ";", "\t", "|")  # of several as often, the first


def read_sheet(text: str, name: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table as CSV, cells without the blanks around them; the first row is line 2.

    Raises:
        UserError: it is empty, no CSV or without a header; two columns have one name; a row has more or fewer cells.
    """
    lines = text.lstrip("\ufeff").splitlines()
    separator = separator_of((lines or [""])[0])
    try:
        found = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error as error:
        raise UserError(f"{name} is not valid CSV: {error}.") from error
    if not found:
        raise UserError(f"{name} is empty.", "It needs a header line, and rows below it.")
    header, rows = found[0], found[1:]
    if all(is_number(cell) for cell in header):
        raise UserError(f"{name} begins with numbers.", "The first line holds the names of the columns.")
    check_header(header, name)
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{name} line {line} has {len(row)} cells, but the header has {len(header)}.")
    return header, rows


def separator_of(line: str) -> str:
    """What separates the cells of a line."""
    return max(SEPARATORS, key=line.count)


def check_header(header: list[str], name: str) -> None:
    """Raises UserError where two columns have one name."""
    twice = [cell for cell, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{name} has two columns called {shown(twice[0])}.", "Rename one of them.")


def is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
