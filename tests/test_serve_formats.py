"""The bodies of requests and answers, for every kind of input and without a server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from common.kinds.image import ImageInput
from common.kinds.labels import Labels
from common.kinds.observation import ObservationInput
from common.kinds.row import RowInput
from common.kinds.seed import SeedInput
from common.kinds.text import TextInput
from common.serve import formats
from common.serve.formats import CSV, JSON, JSON_LINES, Problem
from tests.fuzz import NPY, PNG

IMAGE = ImageInput(1, 1, (0.5,), (0.5,))
TEXT = TextInput()
ROW = RowInput(("length", "width"))
SEED = SeedInput(latent_size=3, classes=("cat", "dog"))
OBSERVATION = ObservationInput((2, 2))
B64 = base64.b64encode(PNG).decode()


def plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def read(body: bytes | str | dict[str, Any] | Sequence[Any], content_type: str, kind: Any) -> tuple[list[Any], str]:
    """Decoded inputs as plain values, and the form of the answer."""
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    inputs = formats.parse(content, content_type, kind)
    return [plain(value) for value in formats.decode(inputs, kind)], inputs.form


@pytest.mark.parametrize(
    ("kind", "body", "content_type", "values", "form"),
    [
        (TEXT, "a film,\nand a good one", "text/plain", ["a film,\nand a good one"], "one"),
        (TEXT, '"a, b"\nc\n', "text/csv", ["a, b", "c"], "list"),
        (TEXT, '"a"\n{"text": "b"}\n\n{"inputs": "c"}', "application/x-jsonlines", ["a", "b", "c"], "list"),
        (TEXT, '"a"', "application/json; charset=utf-8", ["a"], "one"),
        (TEXT, '["a", "b"]', "application/json", ["a", "b"], "list"),
        (TEXT, {"inputs": "a"}, "application/json", ["a"], "one"),
        (TEXT, {"inputs": ["a"]}, "application/json", ["a"], "list"),
        (TEXT, {"instances": ["a", {"text": "b"}]}, "application/json", ["a", "b"], "predictions"),
        (ROW, "1,2\n3,4\n", "text/csv", [[1, 2], [3, 4]], "list"),
        (ROW, "width,length\r\n1,2\r\n", "text/csv", [[2, 1]], "list"),
        (ROW, [1, 2], "application/json", [[1, 2]], "one"),
        (ROW, [[1, 2], {"width": 3, "length": 4}], "application/json", [[1, 2], [4, 3]], "list"),
        (ROW, {"length": 1, "width": 2}, "", [[1, 2]], "one"),
        (RowInput(("inputs",)), {"inputs": 5}, "application/json", [[5]], "one"),
        (ROW, "1, 2", "text/plain", [[1, 2]], "one"),
        (OBSERVATION, [[1, 2], [3, 4]], "application/json", [[[1, 2], [3, 4]]], "one"),
        (OBSERVATION, [[[1, 2], [3, 4]]], "application/json", [[[1, 2], [3, 4]]], "list"),
        (OBSERVATION, "1,2,3,4\n", "text/csv", [[[1, 2], [3, 4]]], "list"),
        (TEXT, "a text", "application/octet-stream", ["a text"], "one"),
        (ROW, "1,2", "application/octet-stream", [[1, 2]], "one"),
    ],
)
def test_every_kind_is_read_from_every_format(kind: Any, body: Any, content_type: str, values: Any, form: str) -> None:
    assert read(body, content_type, kind) == (values, form)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PNG, "image/png"),
        (PNG, "application/octet-stream"),
        (PNG, ""),
        (json.dumps(B64), "application/json"),
        ({"b64": B64}, "application/json"),
        ({"instances": [f"data:image/png;base64,{B64}"]}, "application/json"),
        (json.dumps({"image": B64}), "application/jsonlines"),
    ],
)
def test_an_image_is_a_file_or_base64(body: Any, content_type: str) -> None:
    assert read(body, content_type, IMAGE)[0] == [IMAGE.decode(PNG).tolist()]


def test_seeds_are_read_as_the_command_line_reads_them() -> None:
    lines, _ = read('7\n{"seed": 7, "class": "dog"}\n', "application/jsonlines", SEED)
    table, _ = read("7\n8\n", "text/csv", SEED)
    assert [draw.seed for draw in [*lines, *table]] == [7, 7, 7, 8]
    assert lines[1].label == 1
    assert lines[0].latent.equal(table[0].latent)


def test_an_npy_file_is_an_observation_and_is_never_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.ones((2, 2)))
    assert read(file.getvalue(), "application/x-npy", OBSERVATION) == ([[[1, 1], [1, 1]]], "one")
    with pytest.raises(Problem) as problem:
        read(NPY, "application/x-npy", OBSERVATION)
    assert (problem.value.status, problem.value.text) == (400, "The input is a damaged .npy file (ValueError).")


@pytest.mark.parametrize(
    ("kind", "body", "content_type", "status", "text"),
    [
        (IMAGE, b"a,b", "text/csv", 415, "This model takes application/json, application/jsonlines, image/*"),
        (TEXT, PNG, "image/png", 415, "This model takes"),
        (TEXT, NPY, "application/x-npy", 415, "This model takes"),
        (TEXT, b"x", "application/x-pickle", 415, "This model takes"),
        (TEXT, "é".encode("latin-1"), "text/csv; charset=latin-1", 415, "Text must be UTF-8."),
        (TEXT, b"\xff", "text/csv", 400, "The body is not valid text/csv: 'utf-8' codec"),
        (TEXT, b"\xff", "text/plain", 400, "The input is not UTF-8 text"),
        (TEXT, b"a,b", "text/csv", 400, "A line has 2 cells instead of one; quote a text that has a comma."),
        (TEXT, b"{", "application/json", 400, "The body is not valid application/json"),
        (TEXT, b"[" * 100_000, "application/json", 400, "The body is not valid application/json"),
        (TEXT, b"7" * 6000, "application/json", 400, "The body is not valid application/json"),
        (TEXT, b'"\\ud800"', "application/json", 400, "The body is not valid application/json"),
        (TEXT, b"[]", "application/json", 400, "The body holds no input."),
        (TEXT, b'{"instances": "a"}', "application/json", 400, '"instances" is a list of inputs.'),
        (TEXT, b'{"inputs": "a", "parameters": {}}', "application/json", 400, "The body has the key 'parameters'"),
        (TEXT, b"3", "application/json", 400, "An input is a text, as a JSON string, not int."),
        (IMAGE, b'"!"', "application/json", 400, "An image is not valid base64"),
        (IMAGE, b"", "image/png", 400, "The input is empty (0 bytes)."),
        (IMAGE, PNG[:40], "image/png", 400, "The input is not an image."),
        (IMAGE, PNG[:16] + b"\xff" * 8 + PNG[24:], "image/png", 400, "The input"),
        (ROW, b"1,2\n3,x\n", "text/csv", 400, "The body is not valid text/csv: could not convert"),
        (ROW, b"1,2\n3\n", "text/csv", 400, "Input 2 has the shape [1], not [2]."),
        (ROW, b"1,nan\n", "text/csv", 400, "The input holds nan; only finite numbers go."),
        (ROW, b'[{"lenght": 1}]', "application/json", 400, "The input has an unknown column 'lenght'. Did you mean"),
        (SEED, b"-1", "application/json", 400, "The input is no seed: -1."),
        (OBSERVATION, b"1,2,3\n", "text/csv", 400, "A line has 3 numbers; an observation has 4."),
    ],
)
def test_what_is_wrong_with_a_body_is_said_in_one_line(
    kind: Any, body: bytes, content_type: str, status: int, text: str
) -> None:
    with pytest.raises(Problem) as problem:
        read(body, content_type, kind)
    assert problem.value.status == status
    assert problem.value.text.startswith(text)
    assert "\n" not in problem.value.text


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("application/x-ndjson", JSON_LINES),
        ("text/html, text/csv;q=0.5, application/jsonlines;q=0.8", JSON_LINES),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("TEXT/CSV ; q=1", CSV),
    ],
)
def test_accept_chooses_the_format(header: str, media: str) -> None:
    assert formats.accepted(header) == media


def test_a_format_that_nobody_can_give_is_406_and_the_default_may_be_another() -> None:
    for header in ("image/png", "application/json;q=0", "application/json;q=x", ",,"):
        with pytest.raises(Problem) as problem:
            formats.accepted(header)
        assert problem.value.status == 406
    assert formats.accepted("*/*", default=JSON_LINES) == JSON_LINES


def test_answers_in_line_formats_do_not_end_in_a_newline() -> None:
    rows = [{"class": "b, c", "probabilities": {"b, c": 0.75, "a": 0.25}}] * 2
    answer = Labels(["a", "b, c"])
    assert formats.render(rows, "list", CSV, answer) == '"b, c",0.25,0.75\n"b, c",0.25,0.75'
    lines = formats.render(rows, "list", JSON_LINES, answer)
    assert [json.loads(line) for line in lines.split("\n")] == rows
    assert json.loads(formats.render(rows, "list", JSON, answer)) == rows
    assert json.loads(formats.render(rows[:1], "one", JSON, answer)) == rows[0]
    assert json.loads(formats.render(rows, "predictions", JSON, answer)) == {"predictions": rows}
