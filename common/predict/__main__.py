"""Predictions by any trained model, for files or for what is typed.

python -m common.predict RUN photos/ --out answers.csv         a file, a folder or a pattern each
python -m common.predict RUN --value "what a film"             the input itself: a text, a seed, numbers as JSON
python -m common.predict RUN --lines reviews.txt               one input on each line; a .csv of rows may have a header
python -m common.predict RUN --value 7 --value 8 --out faces   answers that are pictures, as PNG files in a folder
python -m common.predict RUN photos/ --out found.json --draw seen   boxes in COCO's format, and drawn on the photos
"""

from __future__ import annotations

import csv
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from common import artifact, example, trust
from common.command import exits as command
from common.errors import UserError
from common.files import write_whole
from common.kinds.answer import Answer, Predictor
from common.kinds.base import Kind, decoded
from common.kinds.sheet import separator_of
from common.predict.rows import Layout, OneFile, RowWriter, file_stem, rows_done

HOPELESS = 20  # lines that fail, the first ones of a file, after which the rest is not tried
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
        str | None,
        typer.Option("--out", "-o", help="FILE.jsonl or FILE.csv, for pictures a folder; stdout if none"),
    ] = None,
    draw: Annotated[str | None, typer.Option(metavar="FOLDER", help="inputs with their answers drawn on them")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="inputs per call of the model")] = 64,
    trust_export: trust.Flag = False,
) -> int:
    """Predicts with a trained model, one row per input.

    With --out it continues where it was stopped: inputs that have a row already are passed over. An input that
    cannot be read gets a row with its error, and the exit code is then 1.
    """
    trust.allow(trust_export)
    saved = artifact.load(Path(run))
    predictor = example.predictor_of(saved)
    answer = predictor.answer
    together = out is not None and answer.together != "" and out.endswith(answer.together)
    target = _check_new(out or "") if together else _check_out(out, files=answer.in_files)
    if draw is not None and not answer.drawn:
        raise UserError(f"--draw: the answers of {saved.example} can't be drawn on their inputs.")
    sources = find_sources(files or [], value or [], lines or [], predictor.input)
    layout = Layout(answer)
    done = rows_done(target, layout) if target and not together else {}
    from common.machine import device  # here: a mistake in the arguments is said without waiting for torch

    device.set_threads()
    errors = [error for source in sources if (error := done.get(source.name))]
    left = [source for source in sources if source.name not in done]
    batches = predict_all(predictor, left, batch_size, first=HOPELESS if lines else batch_size)
    # A file of another kind has an error on every line: said once, instead of a hundred thousand times.
    begun = _first_rows(batches, len(left)) if lines and not done else []
    contents = {source.name: source.content for source in left}
    with OneFile(target, answer) if together and target else RowWriter(target, layout) as writer:
        for rows in chain(begun, batches):
            if draw is not None:
                _draw(answer, rows, contents, Path(draw))
            writer.write(rows)
            errors += [row["error"] for row in rows if "error" in row]
    passed_over = sum(s.name in done for s in sources)
    note = f"{len(sources)} inputs, {len(errors)} failed" + (f", {passed_over} done before" if passed_over else "")
    sys.stderr.write(note + (f": {out}\n" if target else "\n"))
    if errors:
        sys.stderr.write(f"the first error: {errors[0]}\n")
    return FAILED if errors else 0


def _draw(answer: Answer, rows: list[dict[str, Any]], contents: dict[str, Path | bytes], folder: Path) -> None:
    """Draws each answer on its input, as a PNG file under the name of the input's row."""
    for row in rows:
        if "error" not in row:
            with write_whole(folder / f"{file_stem(row['file'])}.png", sync=False) as file:
                file.write(answer.draw(row, contents[row["file"]]))


def _check_new(out: str) -> Path:
    """The one file for all answers, which is written once they are all there."""
    path = Path(out)
    if path.exists():
        raise UserError(f"--out {out} is there already.", "Remove it, or choose another name.")
    return path


def _first_rows(batches: Iterator[list[dict[str, Any]]], count: int) -> list[list[dict[str, Any]]]:
    """The batches up to the first answer.

    Raises:
        UserError: there is none among the first HOPELESS inputs, and there are more.
    """
    begun: list[list[dict[str, Any]]] = []
    for rows in batches:
        begun.append(rows)
        tried = sum(map(len, begun))
        if any("error" not in row for row in rows):
            break
        if HOPELESS <= tried < count:
            first = begun[0][0]["error"]
            raise UserError(
                f"None of the first {tried} lines is an input of this model: {first}", "Is it the right file?"
            )
    return begun


def find_sources(files: Sequence[str], values: Sequence[str], lines: Sequence[str], kind: Kind) -> list[Source]:
    """Every input that the command names, each once.

    The lines of a .csv file may stand under a header, where the kind of the input has one.

    Raises:
        UserError: none at all, or an argument means no file.
    """
    if not (files or values or lines):
        raise UserError("There is nothing to predict.", "Name files, or give --value INPUT or --lines FILE.")
    sources = [Source(readable(str(path)), path) for path in find_files(files, kind.suffixes)]
    sources += [Source(readable(text), os.fsencode(text)) for text in values]  # as the shell gave them
    for name in lines:
        read = _read_lines(name)
        under = _under_header(read, kind) if name.lower().endswith(".csv") else None
        numbered = enumerate(read, start=1) if under is None else enumerate(under, start=2)
        sources += [Source(f"{readable(name)}:{number}", line) for number, line in numbered]
    return list({source.name: source for source in sources}.values())


def readable(text: str) -> str:
    """A file name or an argument as text that can be written; bytes that are no UTF-8 become \\xNN."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _read_lines(name: str) -> list[bytes]:
    if name == "-":
        return sys.stdin.buffer.read().splitlines()
    try:
        return Path(name).read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"Can't read {readable(name)}: {error.strerror}.") from error


def _under_header(lines: Sequence[bytes], kind: Kind) -> list[bytes] | None:
    """The inputs of the lines of a CSV file below its header; None where it has none."""
    head = lines[0].decode("utf-8-sig", "replace") if lines else ""
    separator = separator_of(head)
    found = kind.lines(next(csv.reader([head], delimiter=separator), [])) if head else None
    if found is None or not found[1]:
        return None
    return [_read_cells(found[0], line, separator) for line in lines[1:]]


def _read_cells(read: Callable[[list[str]], bytes], line: bytes, separator: str) -> bytes:
    """The input of a line; one that is none stays as it is, for decoding to say what is wrong."""
    try:
        return read(next(csv.reader([line.decode("utf-8")], delimiter=separator), []))
    except (UserError, ValueError, csv.Error):
        return line


def predict_all(
    predictor: Predictor, sources: Sequence[Source], batch_size: int, first: int | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Rows for inputs, a batch at a time and in order; the next batch is read while the model works.

    Args:
        first: most inputs of the first batch; as many as of the others by default.

    Yields:
        lists of `{"file": ..., **answer}`, or `{"file": ..., "error": ...}` for an input that cannot be read.
    """
    begin = min(first or batch_size, batch_size)
    chunks = [sources[:begin], *(sources[i : i + batch_size] for i in range(begin, len(sources), batch_size))]
    with ThreadPoolExecutor() as pool:
        ahead = [pool.submit(_decode, predictor, p) for p in chunks[0]]
        for number, chunk in enumerate(chunks):
            items = [future.result() for future in ahead]
            following = chunks[number + 1] if number + 1 < len(chunks) else []
            ahead = [pool.submit(_decode, predictor, p) for p in following]
            good = [item for item in items if not isinstance(item, UserError)]
            answers = iter(predictor.predict(good) if good else [])
            yield [
                {"file": source.name, "error": readable(item.what)}
                if isinstance(item, UserError)
                else {"file": source.name, **next(answers)}
                for source, item in zip(chunk, items, strict=True)
            ]


def _decode(predictor: Predictor, source: Source) -> Any:
    try:
        return decoded(predictor.input, source.content, _short(source.name))
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
            inside = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and _is_file(p))
            matches = [p for p in inside if not p.name.startswith(".")]
            if not matches:
                raise UserError(f"The folder {path} holds no file ending in {', '.join(suffixes)}.")
        elif path.exists() or path.is_symlink():
            matches = [path]
        else:
            matches = [Path(p) for p in sorted(glob.glob(argument, recursive=True)) if Path(p).is_file()]
            if not matches:
                raise UserError(
                    f"There is no file {argument}.", "Name files, folders, or a pattern such as 'in/*.png'."
                )
        found.update(dict.fromkeys(matches))
    return list(found)


def _is_file(path: Path) -> bool:
    """Whether a row is due: for a file, and for a link to one that is gone."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _check_out(out: str | None, files: bool) -> Path | None:
    """The file for the rows; for answers that are files the index of the folder that they go to."""
    if out is None:
        return None
    path = Path(out)
    if files:
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {out} is a file; the answers of this model are files: name a folder.")
        return path / "index.jsonl"
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--out {out}: the name must end in .jsonl or .csv.")
    if path.is_dir():
        raise UserError(f"--out {out} is a folder; name a file.")
    return path


def _short(name: str, length: int = 60) -> str:
    """A name for an error text; a long --value is cut."""
    return name if len(name) <= length else name[: length - 1] + "…"


if __name__ == "__main__":
    command.run(main, "python -m common.predict")
