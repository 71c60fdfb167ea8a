"""The input of a batch transform job: its files, their content type, and how they are cut into requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

NONE, LINE = "None", "Line"  # SplitType: a request for each file, or for as many lines as fit
ROWS = "application/jsonlines"  # what is asked for as an answer: a row on each line
MEGABYTE = 2**20


@dataclass(frozen=True)
class Format:
    """How files of a kind are sent: their content type, and SplitType."""

    content_type: str
    split: str = NONE


# By suffix; any other file is one input, and the model knows how to read it.
FORMATS = {
    ".csv": Format("text/csv", LINE),
    ".jsonl": Format("application/jsonlines", LINE),
    ".ndjson": Format("application/jsonlines", LINE),
    ".json": Format("application/json"),
    ".txt": Format("text/plain"),
}
ONE = Format("application/octet-stream")


@dataclass(frozen=True)
class File:
    """One input object.

    Attributes:
        name: that its rows bear.
        key: its name below the input's prefix, with slashes; its answers have the same and `.out`.
        path: on this machine.
    """

    name: str
    key: str
    path: Path


@dataclass(frozen=True)
class Piece:
    """What one request sends: some bytes of a file."""

    path: Path
    start: int
    length: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)


def format_of(names: Sequence[str]) -> Format:
    """The format that the suffixes of files, or of a prefix in S3, say.

    Raises:
        UserError: several formats (a job sends one content type), or a prefix without a suffix.
    """
    kinds: dict[Format, str] = {}
    for name in names:
        if name.startswith("s3://") and not Path(name).suffix:
            raise UserError(f"{name}: no content type is known for what lies there.", "Say it with --content-type.")
        kinds.setdefault(FORMATS.get(Path(name).suffix.lower(), ONE), name)
    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        raise UserError(f"{first} and {second} are of different kinds.", "Give each kind of file to a job of its own.")
    return next(iter(kinds))


def find_files(source: str) -> list[File]:
    """The file, or the files of a folder, hidden ones left out; in order of their names.

    Raises:
        UserError: there is none.
    """
    path = Path(source)
    if path.is_file():
        return [File(str(path), path.name, path)]
    if not path.is_dir():
        raise UserError(f"There is no file or folder {source}.", "Name one, or s3://BUCKET/PREFIX.")
    inside = [(p.relative_to(path), p) for p in sorted(path.rglob("*")) if p.is_file()]
    files = [File(str(p), key.as_posix(), p) for key, p in inside if not any(x.startswith(".") for x in key.parts)]
    if not files:
        raise UserError(f"The folder {source} is empty.")
    return files


def pieces(path: Path, split: str, single: bool, limit: int) -> Iterator[Piece]:
    """The requests for a file, as batch transform cuts it.

    Args:
        split: NONE for the whole file, LINE to cut between lines.
        single: BatchStrategy SingleRecord, one line each; else MultiRecord, as many whole lines as fit.
        limit: bytes of a request; a longer line goes alone, and the server refuses it.
    """
    if split == NONE:
        yield Piece(path, 0, path.stat().st_size)
        return
    start = position = 0
    with path.open("rb") as file:
        for line in file:
            if position > start and (single or position + len(line) - start > limit):
                yield Piece(path, start, position - start)
                start = position
            position += len(line)
    if position > start:
        yield Piece(path, start, position - start)
