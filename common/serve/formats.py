"""The bodies of requests and answers, by content type; the same for the server and for SageMaker's classic handlers.

In, by Content-Type; without one raw bytes for an image, JSON for anything else. UTF-8 always.

image/*, application/octet-stream, application/x-image
    an image file as it is
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

An input in JSON is, by what the model takes: an image file in base64 (or {"b64": ...}, or a data URL); a text; a row
as {column: number} or list; a seed, {"seed": 7, "class": "cat"} or {"latent": [...]}; an observation as nested lists.
It may stand alone or as {"inputs": ...} or under the name of its kind, such as {"text": "..."}.

Out, by Accept: application/json (one row for one input, a list for several, {"predictions": [...]} for "instances"),
application/jsonlines (a row each line), text/csv (no header: the answer, then the score of each class in the model's
order). The line formats do not end in a newline, because batch transform joins answers with one.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.example import Predictor

JSON, JSON_LINES, CSV = "application/json", "application/jsonlines", "text/csv"
JSON_LINES_NAMES = (JSON_LINES, "application/x-jsonlines", "application/x-ndjson")
IMAGE_BYTES = ("application/octet-stream", "binary/octet-stream", "application/x-image")


class Problem(Exception):
    """Why a request is not answered as it was meant: an HTTP status and one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = " ".join(text.split())


@dataclass(frozen=True)
class Inputs:
    """What a request asks.

    Attributes:
        raw: each input as its kind's `decode` takes it.
        form: of a JSON answer: "one" row, a "list", or "predictions".
    """

    raw: list[bytes]
    form: str = "list"


def parse(body: bytes, content_type: str, kind: Any) -> Inputs:
    """The raw inputs of a request.

    Args:
        kind: the `common.example.Input` of the model.

    Raises:
        Problem: 415 for a content type that this kind of input has none of, 400 for a body that is not what it says.
    """
    media = _media(content_type) or (IMAGE_BYTES[0] if kind.kind == "image" else JSON)
    reader = _reader(media, kind)
    if reader is None:
        raise Problem(415, f"This model takes {_takes(kind)}, not {media[:80]}.")
    try:
        inputs = reader(body, kind)
    except (ValueError, RecursionError, csv.Error) as error:  # UnicodeError and JSONDecodeError are ValueErrors
        raise Problem(400, f"The body is not valid {media[:80]}: {error}.") from error
    if not inputs.raw:
        raise Problem(400, "The body holds no input.")
    return inputs


def decode(inputs: Inputs, kind: Any) -> list[Any]:
    """Each input as the model's batch takes it.

    Raises:
        Problem: 400 with the first input that is none, and why.
    """
    names = ["The input"] if len(inputs.raw) == 1 else [f"Input {number}" for number in range(1, len(inputs.raw) + 1)]
    try:
        return [kind.decode(raw, name) for raw, name in zip(inputs.raw, names, strict=True)]
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


def render(rows: Sequence[dict[str, Any]], form: str, media: str, predictor: Predictor, classes: Sequence[str]) -> str:
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
    names = classes if predictor.scores else ()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([row[predictor.answer], *(row[predictor.scores][name] for name in names)] for row in rows)
    return text.getvalue()[:-1]


# --- reading, by content type -----------------------------------------------------------------------------

Reader = Callable[[bytes, Any], Inputs]


def _reader(media: str, kind: Any) -> Reader | None:
    if media == JSON:
        return _from_json
    if media in JSON_LINES_NAMES:
        return _from_json_lines
    if kind.kind == "image":
        return _from_file if media in IMAGE_BYTES or media.startswith("image/") else None
    if media == "application/x-npy":
        return _from_file if kind.kind == "observation" else None
    return {CSV: _from_csv, "text/plain": _from_file}.get(media)


def _takes(kind: Any) -> str:
    more = {"image": "image/*, application/octet-stream", "observation": "text/csv, text/plain, application/x-npy"}
    return f"{JSON}, {JSON_LINES}, {more.get(kind.kind, 'text/csv, text/plain')}"


def _media(content_type: str) -> str:
    media, _, parameters = content_type.partition(";")
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
            raise Problem(415, "Text must be UTF-8.")
    return media.strip().lower()


def _from_file(body: bytes, kind: Any) -> Inputs:
    # An empty text is a text; of the other kinds decode says that nothing is there.
    return Inputs([body], "one")


def _from_json(body: bytes, kind: Any) -> Inputs:
    value = json.loads(body.decode("utf-8-sig"))
    form = ""
    if isinstance(value, dict) and not _is_column("instances", kind) and "instances" in value:
        value, form = _only(value, "instances"), "predictions"
        if not isinstance(value, list):
            raise Problem(400, '"instances" is a list of inputs.')
        return Inputs([_raw(v, kind) for v in value], form)
    if isinstance(value, dict) and not _is_column("inputs", kind) and "inputs" in value:
        value = _only(value, "inputs")
    if _is_one(value, kind):
        return Inputs([_raw(value, kind)], "one")
    return Inputs([_raw(v, kind) for v in value])


def _from_json_lines(body: bytes, kind: Any) -> Inputs:
    lines = [line for line in body.decode("utf-8-sig").split("\n") if line.strip()]
    return Inputs([_raw(json.loads(line), kind) for line in lines])


def _from_csv(body: bytes, kind: Any) -> Inputs:
    rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if row]
    if kind.kind == "row" and rows and sorted(rows[0]) == sorted(kind.names):
        header, *rows = rows
        return Inputs([_dumps(dict(zip(header, _numbers(row), strict=True))).encode() for row in rows])
    return Inputs([_cells(row, kind) for row in rows])


def _cells(row: list[str], kind: Any) -> bytes:
    if kind.kind == "observation":
        if len(row) != math.prod(kind.shape):
            raise Problem(400, f"A line has {len(row)} numbers; an observation has {math.prod(kind.shape)}.")
        return _dumps(_nested(_numbers(row), kind.shape)).encode()
    if kind.kind == "row":
        return _dumps(_numbers(row)).encode()
    if len(row) != 1:
        raise Problem(400, f"A line has {len(row)} cells instead of one; quote a text that has a comma.")
    return row[0].encode()


def _numbers(row: list[str]) -> list[float]:
    return [float(cell) for cell in row]


def _nested(values: list[float], shape: Sequence[int]) -> Any:
    if len(shape) <= 1:
        return values
    step = math.prod(shape[1:])
    return [_nested(values[i : i + step], shape[1:]) for i in range(0, len(values), step)]


# --- one value of JSON ------------------------------------------------------------------------------------


def _is_column(key: str, kind: Any) -> bool:
    return kind.kind == "row" and key in kind.names


def _only(value: dict[str, Any], key: str) -> Any:
    if len(value) > 1:
        other = next(k for k in value if k != key)
        raise Problem(400, f"The body has the key {other[:80]!r} beside {key!r}; there is no such setting.")
    return value[key]


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is one input; a row and an observation are lists themselves."""
    if not isinstance(value, list):
        return True
    if kind.kind == "row":
        return bool(value) and not isinstance(value[0], (list, dict))
    if kind.kind == "observation":
        depth = 0
        while isinstance(value, list) and value:
            value, depth = value[0], depth + 1
        return depth == len(kind.shape) and not isinstance(value, dict)
    return False


def _raw(value: Any, kind: Any) -> bytes:
    """A value of JSON as the bytes that the kind's `decode` takes."""
    if isinstance(value, dict) and len(value) == 1:
        (key,) = value
        if key in ("inputs", kind.kind, "b64" if kind.kind == "image" else kind.kind) and not _is_column(key, kind):
            value = value[key]
    if kind.kind not in ("image", "text"):
        return _dumps(value).encode()
    if not isinstance(value, str):
        held = "an image file in base64" if kind.kind == "image" else "a text"
        raise Problem(400, f"An input is {held}, as a JSON string, not {type(value).__name__}.")
    if kind.kind == "text":
        return value.encode()
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise Problem(400, f"An image is not valid base64: {error}.") from error


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
