"""Rows of predictions on disk: one per input, with its answer or its error."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import explain_write_errors, write_whole
from common.kinds.answer import Answer


@dataclass(frozen=True)
class Layout:
    """What the rows of a model hold.

    Attributes:
        answer: the kind of the answer.
        inputs: whether a row repeats its input, under the key "input".
    """

    answer: Answer
    inputs: bool = False

    @property
    def columns(self) -> list[str]:
        first, *others = self.answer.columns
        return [*self._about, first, "error", *others]

    def cells(self, row: dict[str, Any]) -> list[Any]:
        """A row in the order of the columns; empty where it has no value."""
        first, *others = self.answer.cells(row)
        return [*(row.get(name, "") for name in self._about), first, row.get("error", ""), *others]

    @property
    def _about(self) -> list[str]:
        return ["file", "input"] if self.inputs else ["file"]


def rows_done(path: Path, layout: Layout) -> dict[str, str]:
    """Inputs that have a row already, each with its error or ""; a torn last row is cut off.

    Raises:
        UserError: the file was not written by this program for a model with these classes; it is not touched.
    """
    if not path.exists():
        return {}
    with explain_write_errors(path), path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        try:
            text = content[:whole].decode("utf-8")
            if path.suffix == ".csv":
                done = _read_csv(text, content[whole:], layout.columns)
            else:
                done = _read_jsonl(text, content[whole:], layout)
        except (KeyError, TypeError, AttributeError, ValueError, csv.Error):
            what = f"{path} is there already, and not from common.predict with this model."
            raise UserError(what, "Choose another --out.") from None
        file.truncate(whole)
    return done


def _read_jsonl(text: str, torn: bytes, layout: Layout) -> dict[str, str]:
    start = b'{"file": '
    if torn[: len(start)] != start[: len(torn)]:
        raise ValueError("the last line is no row")
    done = {}
    for line in text.splitlines():
        row = json.loads(line)
        if "error" not in row and not layout.answer.is_row(row):
            raise ValueError("a row of another model")
        done[row["file"]] = row.get("error", "")
    return done


def _read_csv(text: str, torn: bytes, columns: Sequence[str]) -> dict[str, str]:
    header = io.StringIO()
    csv.writer(header).writerow(columns)
    first = text or torn.decode("utf-8", "ignore")
    if first[: len(header.getvalue())] != header.getvalue()[: len(first)]:
        raise ValueError("other columns")
    return {row["file"]: row["error"] for row in csv.DictReader(io.StringIO(text, newline=""))}


def file_stem(name: str) -> str:
    """What a file is called that belongs to an input; the digest keeps names apart that read alike."""
    readable = "".join(c if c.isalnum() else "-" for c in name).strip("-")[:40]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class RowWriter:
    """Appends rows to a JSON Lines or CSV file, or to stdout; each batch is on the disk when `write` returns.

    What of an answer is a file is written beside the rows, which then name it; on stdout it stays in the row.
    """

    def __init__(self, path: Path | None, layout: Layout) -> None:
        self._path = path
        self._layout = layout

    def __enter__(self) -> RowWriter:
        if self._path is None:
            self._file: Any = sys.stdout
            return self
        with explain_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            empty = not self._path.exists() or self._path.stat().st_size == 0
            self._file = self._path.open("a", encoding="utf-8", newline="")
            if empty and self._path.suffix == ".csv":
                csv.writer(self._file).writerow(self._layout.columns)
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self._path is not None and self._layout.answer.in_files:
            rows = [self._with_files(row, self._path.parent) for row in rows]
        # A closed pipe behind stdout is no mistake, and the command line ends quietly on it.
        with explain_write_errors(self._path) if self._path is not None else nullcontext():
            if self._path is not None and self._path.suffix == ".csv":
                csv.writer(self._file).writerows(self._layout.cells(row) for row in rows)
            else:
                self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self._file.flush()

    def _with_files(self, row: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The row with the names of its files in their places, once they are written."""
        stem = file_stem(row["file"])
        names = {}
        for key, (suffix, content) in self._layout.answer.files(row).items():
            names[key] = stem + suffix
            with write_whole(folder / names[key]) as file:
                file.write(content)
        return row | names

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()


class OneFile:
    """Gathers rows, and writes all of them at the end as the kind of the answer has them in one file."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> OneFile:
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows += rows

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with write_whole(self._path) as file:
                file.write(self._answer.as_file(self._rows))
