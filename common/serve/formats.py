"""The bodies of requests and answers, by content type; the same for the server and for SageMaker's classic handlers.

In, by Content-Type; without one raw bytes for an image or a sound, JSON for anything else. UTF-8 always.

application/octet-stream
    one input as it stands in a file, of any kind
image/*, audio/*, application/x-image
    an image or sound file as it is
application/json
    one input, a list of them, either under the key "inputs", or {"instances": [inputs...]}
application/jsonlines (also x-jsonlines, x-ndjson)
    one input on each line
text/csv
    a row of the table each line, with or without its header; one quoted text; one seed; or the numbers of one
    observation
text/plain
    one text, whatever its lines; or one input as `common.predict --value` takes it
application/x-npy
    one observation; nothing is ever unpickled

An input in JSON is, by what the model takes: a file in base64 (or {"b64": ...}, or a data URL); a text; a row
as {column: number} or list; a seed, {"seed": 7, "class": "cat"} or {"latent": [...]}; an observation as nested lists.
It may stand alone or as {"inputs": ...} or under the name of its kind, such as {"text": "..."}.

Out, by Accept: application/json (one row for one input, a list for several, {"predictions": [...]} for "instances"),
application/jsonlines (a row each line), text/csv (no header: the answer, then the score of each class in the model's
order). The line formats do not end in a newline, because batch transform joins answers with one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from common.errors import UserError
from common.kinds.answer import Answer
from common.kinds.base import FILE, Kind, decoded

JSON, JSON_LINES, CSV = "application/json", "application/jsonlines", "text/csv"
MOST_INPUTS = 1024  # of a request; AWS's own notebooks send 500 rows, and no example needs a minute for as many
PART = 16  # of a kind's most work: what is decoded of a request before somebody else's turn
JSON_LINES_NAMES = (JSON_LINES, "application/x-jsonlines", "application/x-ndjson")


class Problem(Exception):
    """Why a request is not answered as it was meant: an HTTP status and one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = " ".join(text[:1000].split())  # it may quote what came in


@dataclass(frozen=True)
class Inputs:
    """What a request asks.

    Attributes:
        raw: each input as its kind's `decode` takes it.
        form: of a JSON answer: "one" row, a "list", or "predictions".
    """

    raw: list[bytes]
    form: str = "list"


def parse(body: bytes, content_type: str, kind: Kind, most: int = MOST_INPUTS) -> Inputs:
    """The raw inputs of a request.

    Args:
        kind: of the model's input.
        most: inputs that are taken.

    Raises:
        Problem: 415 for a content type that this kind of input has none of, 400 for a body that is not what it says,
            413 for too many inputs.
    """
    media = _media(content_type) or kind.plain
    reader = _reader(media, kind)
    if reader is None:
        raise Problem(415, f"This model takes {', '.join((JSON, JSON_LINES, *kind.media))}, not {media[:80]}.")
    try:
        values, form = reader(body, kind)
        inputs = Inputs(list(islice(values, most + 1)), form)
    except Problem:
        raise
    except UserError as error:
        raise Problem(400, str(error)) from error
    except Exception as error:  # ValueError, csv.Error, RecursionError, MemoryError: parsers raise nearly anything
        raise Problem(400, f"The body is not valid {media[:80]}: {error or type(error).__name__}.") from error
    if not inputs.raw:
        raise Problem(400, "The body holds no input.")
    if len(inputs.raw) > most:
        raise Problem(413, f"The body holds more than {most:,} inputs, the limit. Send them in several requests.")
    return inputs


def split(inputs: Inputs, kind: Kind, largest: int) -> list[tuple[range, int]]:
    """Parts of a request of about the same work: which inputs, and how much work their decoding is.

    Args:
        largest: inputs of a part; also no more than a PART of the kind's most work together, or one alone.

    Raises:
        Problem: 413, decoding all of them is more work than one may be.
    """
    parts, begin, work, total = [], 0, 0, 0
    for index, raw in enumerate(inputs.raw):
        more = kind.work(raw)
        total += more
        if total > kind.most_work:
            raise Problem(413, f"{kind.too_much} Send them in several requests.")
        if index > begin and (index - begin == largest or work + more > kind.most_work // PART):
            parts.append((range(begin, index), work))
            begin, work = index, 0
        work += more
    return [*parts, (range(begin, len(inputs.raw)), work)]


def decode(inputs: Inputs, kind: Kind, which: range | None = None) -> list[Any]:
    """Each input as the model's batch takes it.

    Args:
        which: of them; all by default.

    Raises:
        Problem: 400 with the first input that is none, and why.
    """
    count = len(inputs.raw)
    try:
        return [
            decoded(kind, inputs.raw[index], f"Input {index + 1}" if count > 1 else "The input")
            for index in (range(count) if which is None else which)
        ]
    except UserError as error:
        raise Problem(400, str(error)) from error


def accepted(header: str, default: str = JSON) -> str:
    """The format of the answer that an Accept header prefers among JSON, JSON_LINES and CSV.

    Args:
        default: what `*/*` and an empty header mean.

    Raises:
        Problem: 406, none of them is wanted.
    """
    formats = {"*/*": default, "application/*": JSON, "text/*": CSV, JSON: JSON, CSV: CSV}
    formats |= dict.fromkeys(JSON_LINES_NAMES, JSON_LINES)
    wanted = []
    for part in (header.strip() or "*/*").split(","):
        name, _, parameters = part.partition(";")
        wanted.append((_quality(parameters), formats.get(name.strip().lower())))
    best = max((quality for quality, found in wanted if found), default=0.0)
    if best <= 0:
        raise Problem(406, f"Answers come as {JSON}, {JSON_LINES} or {CSV}, not {header[:80]}.")
    return next(found for quality, found in wanted if found and quality == best)


def render(rows: Sequence[dict[str, Any]], form: str, media: str, answer: Answer) -> str:
    """Rows as the body of an answer.

    Args:
        form: of a JSON answer, from `Inputs`.
        media: JSON, JSON_LINES or CSV.
    """
    if media == JSON:
        value = rows[0] if form == "one" else {"predictions": list(rows)} if form == "predictions" else list(rows)
        return _dumps(value)
    if media == JSON_LINES:
        return "\n".join(map(_dumps, rows))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(answer.cells, rows))
    return text.getvalue()[:-1]


# --- reading, by content type -----------------------------------------------------------------------------

Reader = Callable[[bytes, Kind], tuple[Iterable[bytes], str]]  # the inputs, one by one, and the form of the answer


def _reader(media: str, kind: Kind) -> Reader | None:
    if media == JSON:
        return _from_json
    if media in JSON_LINES_NAMES:
        return _from_json_lines
    if media == FILE or kind.alone(media):
        return _from_file
    return _from_csv if media == CSV and kind.lines([]) is not None else None


def _media(content_type: str) -> str:
    media, _, parameters = content_type.partition(";")
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
            raise Problem(415, "Text must be UTF-8.")
    return media.strip().lower()


def _from_file(body: bytes, kind: Kind) -> tuple[Iterable[bytes], str]:
    # An empty text is a text; of the other kinds decode says that nothing is there.
    return [body], "one"


def _from_json(body: bytes, kind: Kind) -> tuple[Iterable[bytes], str]:
    value = json.loads(body.decode("utf-8-sig"))
    if isinstance(value, dict) and not kind.has_key("instances") and "instances" in value:
        value = _only(value, "instances")
        if not isinstance(value, list):
            raise Problem(400, '"instances" is a list of inputs.')
        return (_raw(v, kind) for v in value), "predictions"
    if isinstance(value, dict) and not kind.has_key("inputs") and "inputs" in value:
        value = _only(value, "inputs")
    if kind.is_one(value):
        return [_raw(value, kind)], "one"
    return (_raw(v, kind) for v in value), "list"


def _from_json_lines(body: bytes, kind: Kind) -> tuple[Iterable[bytes], str]:
    lines = io.StringIO(body.decode("utf-8-sig"), newline="\n")
    return (_raw(json.loads(line), kind) for line in lines if line.strip()), "list"


def _from_csv(body: bytes, kind: Kind) -> tuple[Iterable[bytes], str]:
    lines = io.StringIO(body.decode("utf-8-sig"), newline="")
    rows = (row for row in csv.reader(lines, strict=True) if row)
    first = next(rows, [])
    found = kind.lines(first)
    assert found is not None  # `_reader` asked
    read, header = found
    return (read(row) for row in (rows if header or not first else chain([first], rows))), "list"


# --- one value of JSON ------------------------------------------------------------------------------------


def _only(value: dict[str, Any], key: str) -> Any:
    if len(value) > 1:
        other = next(k for k in value if k != key)
        raise Problem(400, f"The body has the key {other[:80]!r} beside {key!r}; there is no such setting.")
    return value[key]


def _raw(value: Any, kind: Kind) -> bytes:
    """A value of JSON as the bytes that the kind's `decode` takes."""
    if isinstance(value, dict) and len(value) == 1:
        (key,) = value
        if key in ("inputs", kind.kind, *kind.keys) and not kind.has_key(key):
            value = value[key]
    raw: bytes = kind.value(value)
    return raw


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _quality(parameters: str) -> float:
    """The q of one entry of an Accept header; 1 where it has none, 0 where it is malformed."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0
