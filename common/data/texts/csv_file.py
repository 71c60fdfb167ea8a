"""Texts and labels from a CSV file of the user's."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from common.data.texts.splits import TextData, Texts, split
from common.errors import UserError

MOST_CLASSES = 1000
SEPARATORS = (",", ";", "\t", "|")  # of several as often, the first
BINARY = {b"PK": "a ZIP archive, such as .npz or .xlsx", b"\x1f\x8b": "packed by gzip", b"\x93NUMPY": "a NumPy array"}
NAMES = {"text": ("text", "sentence", "review", "content"), "label": ("label", "class", "target", "category")}


def csv_texts(path: Path, text_column: str | None, label_column: str | None, seed: int, limit: int | None) -> TextData:
    """A table with a header, UTF-8, one row a text; 80 / 10 / 10 %, stratified and drawn by `seed`.

    Fields are separated by commas, semicolons, tabs or bars, whichever the header has most of; a .jsonl file holds an
    object on each line.

    Args:
        text_column, label_column: names in the header; a usual one, such as "text" and "label", where not given.

    Raises:
        UserError: the file, an encoding, a quote, a column or a label is wrong; the line is named.
    """
    rows = _rows(path)
    header = next(rows, (1, []))[1]
    if not header:
        raise UserError(f"{path} is empty.", "It needs a header line and one row for each text.")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path} has two columns called {twice[0]!r}.", "Rename one of them in the first line.")
    columns = [_column(path, header, asked, kind) for asked, kind in ((text_column, "text"), (label_column, "label"))]
    if columns[0] == columns[1]:
        raise UserError(f"{path}: text and label are the same column, {header[columns[0]]!r}.")
    texts, labels = [], []
    for line, row in rows:
        if len(row) != len(header):
            what = f"{path} line {line} has {len(row)} fields, but the header has {len(header)}."
            raise UserError(what, "A text that holds commas needs quotes around it.")
        if not row[columns[1]].strip():
            raise UserError(f"{path} line {line} has no {header[columns[1]]}.", "Every text needs a label.")
        texts.append(row[columns[0]])
        labels.append(row[columns[1]].strip())
    empty = sum(not text.strip() for text in texts)
    if texts and empty > len(texts) / 2:
        what = f"{path}: {empty:,} of {len(texts):,} texts in column {header[columns[0]]!r} are empty."
        raise UserError(what, "Name another by --text-column.")
    classes, targets = _classes(path, header[columns[1]], labels)
    return split(Texts(texts, targets), classes, f"csv:{path.name}", seed=seed, limit=limit)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of every row that is not blank; the header first."""
    lines = _decode(path)
    if path.suffix.lower() == ".jsonl":
        yield from _objects(path, lines)
        return
    separator = max(SEPARATORS, key=(lines or [""])[0].count)
    most = csv.field_size_limit(2**31 - 1)  # 128 KiB by default; a document may be longer
    try:
        reader = csv.reader(lines, strict=True, delimiter=separator)
        begin = 1
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = f"{path} line {begin}: a quote that opens here is not closed as it should be ({error})."
                if '"' not in "".join(lines[begin - 1 : reader.line_num]):
                    what = f"{path} line {begin} is not CSV: {error}."
                raise UserError(what, 'A quote within a quoted field is written twice: "".') from None
            if row:
                yield begin, row
            begin = reader.line_num + 1
    finally:
        csv.field_size_limit(most)


def _objects(path: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """The same of JSON Lines; the keys of the first object are the header."""
    keys: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number} is not JSON: {str(error)[:80]}.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number} is no JSON object.", 'Such as {"text": "...", "label": "..."}.')
        if not keys:
            keys = list(row)
            yield 1, keys
        missing = [key for key in keys if key not in row]
        if missing:
            raise UserError(f"{path} line {number} has no {missing[0]!r}.", "Every line needs the keys of the first.")
        yield number, ["" if row[key] is None else str(row[key]) for key in keys]


def _decode(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.", "Give csv:FILE the path of a CSV file.") from None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16.", f"Convert it: iconv -f UTF-16 -t UTF-8 {path.name} > new.csv")
    known = next((name for start, name in BINARY.items() if content.startswith(start)), "")
    if known:
        raise UserError(f"{path} is {known}, not a text file.", "Give csv:FILE a file of text and labels.")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise UserError(f"{path} line {line} holds a NUL byte: it is damaged, or no text file.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"{path} line {line} is not UTF-8 (byte 0x{content[error.start]:02x})."
        raise UserError(what, f"Convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new.csv") from None
    lines = text.split("\n")  # not splitlines, which also splits at stranger ends that belong to a text
    return [line + "\n" for line in lines[:-1]] + lines[-1:]


def _column(path: Path, header: list[str], asked: str | None, kind: str) -> int:
    columns = f"Columns: {', '.join(header)[:300]}."
    if asked is not None:
        if asked not in header:
            raise UserError(f"{path} has no column {asked!r}.", f"{columns} Choose one by --{kind}-column.")
        return header.index(asked)
    names = [name.strip().lower() for name in header]
    for usual in NAMES[kind]:
        if usual in names:
            return names.index(usual)
    raise UserError(f"{path}: which column is the {kind}?", f"{columns} Choose one by --{kind}-column.")


def _classes(path: Path, column: str, labels: list[str]) -> tuple[list[str], torch.Tensor]:
    """Names of the classes in their order, by number where all are numbers, and the class of each label."""
    numbers = [_number(label) for label in labels]
    if all(math.isfinite(number) for number in numbers):  # 1, 1.0 and 01 are one class
        labels = [f"{number:.15g}" for number in numbers]
        names = sorted(set(labels), key=float)
    else:
        names = sorted(set(labels))
    if len(names) < 2:
        found = f"only one class, {names[0]!r}" if names else "no rows"
        raise UserError(f"{path} has {found} in column {column!r}.", "Classification needs at least two classes.")
    if len(names) > MOST_CLASSES or (len(names) > 20 and len(names) > len(labels) / 2):
        what = f"{path}: column {column!r} holds {len(names):,} different values in {len(labels):,} rows."
        raise UserError(what, "Those are no classes; choose another --label-column.")
    if Counter(labels).most_common(1)[0][1] == 1:
        raise UserError(f"{path}: every label in column {column!r} occurs only once.", "Nothing can be learnt of that.")
    order = {name: number for number, name in enumerate(names)}
    return names, torch.tensor([order[label] for label in labels])


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return math.nan
