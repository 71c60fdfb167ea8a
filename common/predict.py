"""Predictions for files, by any trained model: `python -m common.predict RUN FILES|FOLDER|GLOB...`"""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from common import artifact, device, example
from common.cli import exit_with
from common.errors import UserError
from common.example import Predictor
from common.files import explain_write_errors

FAILED = 1  # exit code: everything was tried, some files gave an error instead of an answer


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="folder of a run, or of its model")],
    files: Annotated[list[str], typer.Argument(metavar="FILES|FOLDER|GLOB...", help="what to predict")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="FILE.jsonl or FILE.csv; stdout if not given")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="inputs per call of the model")] = 64,
) -> int:
    """Predicts with a trained model, one row per file.

    With --out it continues where it was stopped: files that have a row already are passed over. A file that
    cannot be read gets a row with its error, and the exit code is then 1.
    """
    target = _check_out(out)
    saved = artifact.load(Path(run))
    declared = example.get(saved.example)
    predictor = declared.load(saved)
    paths = find_files(files, predictor.input.suffixes)
    done = rows_done(target, saved.classes) if target else {}
    device.set_threads()
    failed = sum(1 for path in paths if done.get(str(path)))
    with RowWriter(target, saved.classes) as writer:
        for rows in predict_files(predictor, [p for p in paths if str(p) not in done], batch_size):
            writer.write(rows)
            failed += sum("error" in row for row in rows)
    passed_over = sum(str(p) in done for p in paths)
    note = f"{len(paths)} files, {failed} failed" + (f", {passed_over} done before" if passed_over else "")
    sys.stderr.write(note + (f": {target}\n" if target else "\n"))
    return FAILED if failed else 0


def predict_files(predictor: Predictor, paths: Sequence[Path], batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows for files, a batch at a time and in order; the next batch is read while the model works.

    Yields:
        lists of `{"file": ..., **answer}`, or `{"file": ..., "error": ...}` for a file that cannot be read.
    """
    chunks = [paths[i : i + batch_size] for i in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor() as pool:
        ahead = [pool.submit(_decode, predictor, p) for p in chunks[0]] if chunks else []
        for number, chunk in enumerate(chunks):
            items = [future.result() for future in ahead]
            following = chunks[number + 1] if number + 1 < len(chunks) else []
            ahead = [pool.submit(_decode, predictor, p) for p in following]
            good = [item for item in items if not isinstance(item, UserError)]
            answers = iter(predictor.predict(good) if good else [])
            yield [
                {"file": str(path), "error": item.what} if isinstance(item, UserError)
                else {"file": str(path), **next(answers)}
                for path, item in zip(chunk, items, strict=True)
            ]  # fmt: skip


def _decode(predictor: Predictor, path: Path) -> Any:
    try:
        return predictor.input.decode(path, name=str(path))
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


def _check_out(out: str | None) -> Path | None:
    if out is None:
        return None
    path = Path(out)
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--out {out}: the name must end in .jsonl or .csv.")
    if path.is_dir():
        raise UserError(f"--out {out} is a folder; name a file.")
    return path


def rows_done(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Files that have a row already, each with its error or ""; a torn last row is cut off.

    Raises:
        UserError: the file was not written by this program for a model with these classes; it is not touched.
    """
    if not path.exists():
        return {}
    with explain_write_errors(path), path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        try:
            read = _read_csv if path.suffix == ".csv" else _read_jsonl
            done = read(content[:whole].decode("utf-8"), content[whole:], classes)
        except (KeyError, TypeError, AttributeError, ValueError, csv.Error):
            what = f"{path} is there already, and not from common.predict with this model."
            raise UserError(what, "Choose another --out.") from None
        file.truncate(whole)
    return done


def _read_jsonl(text: str, torn: bytes, classes: Sequence[str]) -> dict[str, str]:
    start = b'{"file": '
    if torn[: len(start)] != start[: len(torn)]:
        raise ValueError("the last line is no row")
    done = {}
    for line in text.splitlines():
        row = json.loads(line)
        if "error" not in row and classes and row["probabilities"].keys() != set(classes):
            raise ValueError("a row of another model")
        done[row["file"]] = row.get("error", "")
    return done


def _read_csv(text: str, torn: bytes, classes: Sequence[str]) -> dict[str, str]:
    header = io.StringIO()
    csv.writer(header).writerow(_columns(classes))
    first = text or torn.decode("utf-8", "ignore")
    if first[: len(header.getvalue())] != header.getvalue()[: len(first)]:
        raise ValueError("other columns")
    return {row["file"]: row["error"] for row in csv.DictReader(io.StringIO(text, newline=""))}


def _columns(classes: Sequence[str]) -> list[str]:
    return ["file", "class", "error", *classes]


class RowWriter:
    """Appends rows to a JSON Lines or CSV file, or to stdout; each batch is on the disk when `write` returns."""

    def __init__(self, path: Path | None, classes: Sequence[str]) -> None:
        self._path = path
        self._classes = classes

    def __enter__(self) -> RowWriter:
        if self._path is None:
            self._file: Any = sys.stdout
            return self
        with explain_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            empty = not self._path.exists() or self._path.stat().st_size == 0
            self._file = self._path.open("a", encoding="utf-8", newline="")
            if empty and self._path.suffix == ".csv":
                csv.writer(self._file).writerow(_columns(self._classes))
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        # A closed pipe behind stdout is no mistake, and the command line ends quietly on it.
        with explain_write_errors(self._path) if self._path is not None else nullcontext():
            if self._path is not None and self._path.suffix == ".csv":
                csv.writer(self._file).writerows(self._cells(row) for row in rows)
            else:
                self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self._file.flush()

    def _cells(self, row: dict[str, Any]) -> list[Any]:
        probabilities = row.get("probabilities", {})
        return [
            row["file"],
            row.get("class", ""),
            row.get("error", ""),
            *(probabilities.get(c, "") for c in self._classes),
        ]

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    exit_with(lambda: typer.main.get_command(app).main(prog_name="python -m common.predict", standalone_mode=False))
