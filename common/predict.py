"""Predictions by any trained model, for files or for what is typed.

python -m common.predict RUN photos/ --out answers.csv         a file, a folder or a pattern each
python -m common.predict RUN --value "what a film"             the input itself: a text, a seed, numbers as JSON
python -m common.predict RUN --lines reviews.txt               one input on each line
python -m common.predict RUN --value 7 --value 8 --out faces   answers that are pictures, as PNG files in a folder
"""

from __future__ import annotations

import base64
import csv
import glob
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from common import artifact, command, device, example
from common.errors import UserError
from common.example import Predictor
from common.files import explain_write_errors, write_whole

FAILED = 1  # exit code: everything was tried, some files gave an error instead of an answer


class Source(NamedTuple):
    """One input: what its row is called, and the file or the bytes that hold it."""

    name: str
    content: Path | bytes


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="folder of a run, or of its model")],
    files: Annotated[list[str] | None, typer.Argument(metavar="FILES|FOLDER|GLOB...", help="what to predict")] = None,
    value: Annotated[list[str] | None, typer.Option(help="an input itself; may be repeated")] = None,
    lines: Annotated[list[str] | None, typer.Option(metavar="FILE", help="an input on each line; - for stdin")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="FILE.jsonl or FILE.csv, for pictures a folder; stdout if none")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="inputs per call of the model")] = 64,
) -> int:
    """Predicts with a trained model, one row per input.

    With --out it continues where it was stopped: inputs that have a row already are passed over. An input that
    cannot be read gets a row with its error, and the exit code is then 1.
    """
    saved = artifact.load(Path(run))
    declared = example.get(saved.example)
    predictor = declared.load(saved)
    target = _check_out(out, pictures=predictor.answer == "png")
    sources = find_sources(files or [], value or [], lines or [], predictor.input.suffixes)
    columns = _columns(predictor, saved.classes)
    done = rows_done(target, columns, saved.classes, predictor.scores) if target else {}
    device.set_threads()
    failed = sum(1 for source in sources if done.get(source.name))
    with RowWriter(target, predictor, saved.classes) as writer:
        for rows in predict_all(predictor, [s for s in sources if s.name not in done], batch_size):
            writer.write(rows)
            failed += sum("error" in row for row in rows)
    passed_over = sum(s.name in done for s in sources)
    note = f"{len(sources)} inputs, {failed} failed" + (f", {passed_over} done before" if passed_over else "")
    sys.stderr.write(note + (f": {out}\n" if target else "\n"))
    return FAILED if failed else 0


def find_sources(
    files: Sequence[str], values: Sequence[str], lines: Sequence[str], suffixes: Sequence[str]
) -> list[Source]:
    """Every input that the command names, each once.

    Raises:
        UserError: none at all, or an argument means no file.
    """
    if not (files or values or lines):
        raise UserError("There is nothing to predict.", "Name files, or give --value INPUT or --lines FILE.")
    sources = [Source(str(path), path) for path in find_files(files, suffixes)]
    sources += [Source(text, text.encode()) for text in values]
    for name in lines:
        sources += [Source(f"{name}:{number}", line) for number, line in enumerate(_read_lines(name), start=1)]
    return list({source.name: source for source in sources}.values())


def _read_lines(name: str) -> list[bytes]:
    if name == "-":
        return sys.stdin.buffer.read().splitlines()
    try:
        return Path(name).read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"Can't read {name}: {error.strerror}.") from error


def predict_all(predictor: Predictor, sources: Sequence[Source], batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows for inputs, a batch at a time and in order; the next batch is read while the model works.

    Yields:
        lists of `{"file": ..., **answer}`, or `{"file": ..., "error": ...}` for an input that cannot be read.
    """
    chunks = [sources[i : i + batch_size] for i in range(0, len(sources), batch_size)]
    with ThreadPoolExecutor() as pool:
        ahead = [pool.submit(_decode, predictor, p) for p in chunks[0]] if chunks else []
        for number, chunk in enumerate(chunks):
            items = [future.result() for future in ahead]
            following = chunks[number + 1] if number + 1 < len(chunks) else []
            ahead = [pool.submit(_decode, predictor, p) for p in following]
            good = [item for item in items if not isinstance(item, UserError)]
            answers = iter(predictor.predict(good) if good else [])
            yield [
                {"file": source.name, "error": item.what} if isinstance(item, UserError)
                else {"file": source.name, **next(answers)}
                for source, item in zip(chunk, items, strict=True)
            ]  # fmt: skip


def _decode(predictor: Predictor, source: Source) -> Any:
    try:
        return predictor.input.decode(source.content, name=_short(source.name))
    except UserError as error:
        return error


def find_files(arguments: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files that the arguments mean: files as they are, folders searched for known suffixes, patterns.

    Raises:
        UserError: an argument means no file.
    """
    found: dict[Path, None] = {}  # keeps order, drops repetitions
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and p.is_file())
            matches = [p for p in inside if not p.name.startswith(".")]
            if not matches:
                raise UserError(f"The folder {path} holds no file ending in {', '.join(suffixes)}.")
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(p) for p in sorted(glob.glob(argument, recursive=True)) if Path(p).is_file()]
            if not matches:
                raise UserError(
                    f"There is no file {argument}.", "Name files, folders, or a pattern such as 'in/*.png'."
                )
        found.update(dict.fromkeys(matches))
    return list(found)


def _check_out(out: str | None, pictures: bool) -> Path | None:
    """The file for the rows; for pictures the index of the folder that they go to."""
    if out is None:
        return None
    path = Path(out)
    if pictures:
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {out} is a file; this model makes pictures: name a folder.")
        return path / "index.jsonl"
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--out {out}: the name must end in .jsonl or .csv.")
    if path.is_dir():
        raise UserError(f"--out {out} is a folder; name a file.")
    return path


def _short(name: str, length: int = 60) -> str:
    """A name for an error text; a long --value is cut."""
    return name if len(name) <= length else name[: length - 1] + "…"


def rows_done(path: Path, columns: Sequence[str], classes: Sequence[str], scores: str) -> dict[str, str]:
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
                done = _read_csv(text, content[whole:], columns)
            else:
                done = _read_jsonl(text, content[whole:], classes, scores)
        except (KeyError, TypeError, AttributeError, ValueError, csv.Error):
            what = f"{path} is there already, and not from common.predict with this model."
            raise UserError(what, "Choose another --out.") from None
        file.truncate(whole)
    return done


def _read_jsonl(text: str, torn: bytes, classes: Sequence[str], scores: str) -> dict[str, str]:
    start = b'{"file": '
    if torn[: len(start)] != start[: len(torn)]:
        raise ValueError("the last line is no row")
    done = {}
    for line in text.splitlines():
        row = json.loads(line)
        if "error" not in row and scores and row[scores].keys() != set(classes):
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


def _columns(predictor: Predictor, classes: Sequence[str]) -> list[str]:
    return ["file", predictor.answer, "error", *(classes if predictor.scores else [])]


class RowWriter:
    """Appends rows to a JSON Lines or CSV file, or to stdout; each batch is on the disk when `write` returns.

    Answers that are pictures become PNG files beside the rows, which then name them; on stdout they stay base64.
    """

    def __init__(self, path: Path | None, predictor: Predictor, classes: Sequence[str]) -> None:
        self._path = path
        self._predictor = predictor
        self._classes = classes
        self._columns = _columns(predictor, classes)

    def __enter__(self) -> RowWriter:
        if self._path is None:
            self._file: Any = sys.stdout
            return self
        with explain_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            empty = not self._path.exists() or self._path.stat().st_size == 0
            self._file = self._path.open("a", encoding="utf-8", newline="")
            if empty and self._path.suffix == ".csv":
                csv.writer(self._file).writerow(self._columns)
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self._path is not None and self._predictor.answer == "png":
            rows = [self._keep_picture(row, self._path.parent) for row in rows]
        # A closed pipe behind stdout is no mistake, and the command line ends quietly on it.
        with explain_write_errors(self._path) if self._path is not None else nullcontext():
            if self._path is not None and self._path.suffix == ".csv":
                csv.writer(self._file).writerows(self._cells(row) for row in rows)
            else:
                self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self._file.flush()

    def _keep_picture(self, row: dict[str, Any], folder: Path) -> dict[str, Any]:
        if "png" not in row:
            return row
        readable = "".join(c if c.isalnum() else "-" for c in row["file"]).strip("-")[:40]
        # The digest keeps names apart that read alike, and the same input always has the same name.
        path = folder / f"{readable}-{hashlib.sha256(row['file'].encode()).hexdigest()[:8]}.png"
        with write_whole(path) as file:
            file.write(base64.b64decode(row["png"]))
        return {**row, "png": path.name}

    def _cells(self, row: dict[str, Any]) -> list[Any]:
        scores = row.get(self._predictor.scores, {})
        names = self._classes if self._predictor.scores else []
        answer = row.get(self._predictor.answer, "")
        return [row["file"], answer, row.get("error", ""), *(scores.get(name, "") for name in names)]

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()


if __name__ == "__main__":
    command.run(main, "python -m common.predict")
