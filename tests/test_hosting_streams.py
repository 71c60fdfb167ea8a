"""Texts from endpoints as they are written: the real server here, and SageMaker's own event stream."""

from __future__ import annotations

import json
import runpy
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import artifact, example
from common.errors import UserError
from common.sagemaker.hosting import aws, streams
from common.sagemaker.hosting import main as endpoints
from common.sagemaker.hosting.here import Endpoint
from common.sagemaker.hosting.models import TrainedModel
from common.sagemaker.training.job import Where
from tests.helpers import ROOT
from tests.sagemaker_helpers import REGION

RUN = ROOT / "tests" / "golden" / "nlp.gpt"
ASKED = {"prompt": "abc", "max_tokens": 30, "temperature": 0}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Where]:
    """An endpoint "texts" of this machine, as the container's server runs."""
    out = str(tmp_path_factory.mktemp("endpoints"))
    with Endpoint("texts", TrainedModel("nlp.gpt", folder=RUN), out):
        yield Where(out=out)


def expected() -> dict[str, Any]:
    predictor = example.get("nlp.gpt").load(artifact.load(RUN))
    (row,) = predictor.predict([predictor.input.decode(json.dumps(ASKED).encode())])
    return row


def test_the_container_streams_what_it_answers_whole(where: Where) -> None:
    body = json.dumps(ASKED).encode()
    pieces = list(endpoints.stream("texts", body, "application/json", "application/json", where))
    assert len(pieces) > 5
    assert "".join(pieces) == expected()["text"]
    row = json.loads(endpoints.invoke("texts", body, "application/json", "application/json", where))
    assert row["text"] == expected()["text"]
    whole = json.dumps({**ASKED, "stream": False}).encode()  # OpenAI's form, and no stream
    answer = json.loads(endpoints.invoke("texts", whole, "application/json", "application/json", where))
    assert answer["choices"][0]["text"] == expected()["text"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": "xyz"}, "refused the request: The request has characters that this model does not know"),
        ({"prompt": "abc", "temperature": -1}, '"temperature" is -1'),
        ({"messages": [{"role": "user", "content": "abc"}]}, "has not learned to converse"),
        ({"prompts": "abc"}, "A stream is asked for by an object with messages or a prompt."),
        ("abc", "A stream is asked for by an object"),
    ],
)
def test_a_refusal_is_said(asked: Any, words: str, where: Where) -> None:
    body = json.dumps(asked).encode()
    with pytest.raises(UserError) as refused:
        list(endpoints.stream("texts", body, "application/json", "application/json", where))
    assert words in str(refused.value)


LINES: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
LINES += [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in ("Grüße ", "😀", "\n\n")]
LINES += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {}}]
STREAM = "".join(f"data: {json.dumps(line, ensure_ascii=False)}\n\n" for line in LINES) + "data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_parts_are_cut_anywhere(size: int) -> None:
    content = STREAM.encode()
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    assert "".join(streams.texts(parts)) == "Grüße 😀\n\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (STREAM[:200], "ended in the middle"),
        ("", "ended in the middle"),
        ('{"class": "a"}', 'sends no stream: {"class": "a"}'),
        ('data: {"error": {"message": "A token took too long."}}\n\n', "ended the text: A token took too long."),
    ],
)
def test_a_stream_that_breaks_off_is_no_whole_text(content: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        list(streams.texts([content.encode()]))


# -- on AWS ------------------------------------------------------------------------------------------------


EVENTS = "application/vnd.amazon.eventstream"


def message(content: bytes, **headers: str) -> bytes:
    """A message of AWS's event stream encoding: lengths, checksums, headers of texts, the content."""
    head = b""
    for name, value in headers.items():
        key = f":{name.replace('_', '-')}".encode()
        head += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    begin = struct.pack(">II", 16 + len(head) + len(content), len(head))
    begin += struct.pack(">I", zlib.crc32(begin))
    return begin + head + content + struct.pack(">I", zlib.crc32(begin + head + content))


def part(content: bytes) -> bytes:
    return message(content, message_type="event", event_type="PayloadPart", content_type="application/octet-stream")


@pytest.fixture
def boto(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A boto3 session that is always given its own `answer`, a status, a content type and a body; nothing is sent."""
    boto3 = pytest.importorskip("boto3")
    from botocore.awsrequest import AWSResponse

    session = boto3.Session("testing", "testing", region_name=REGION)

    class Raw:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
            yield self.content

        def read(self, *_: Any) -> bytes:
            return self.content

        def close(self) -> None: ...

    def give(request: Any, **_: Any) -> Any:
        session.asked = request
        status, kind, body = session.answer
        return AWSResponse(request.url, status, {"content-type": kind}, Raw(body))

    session.events.register_first("before-send.sagemaker-runtime", give)
    return session


def test_amazons_event_stream_is_read(boto: Any) -> None:
    content = STREAM.encode()
    boto.answer = (200, EVENTS, b"".join(part(content[i : i + 11]) for i in range(0, len(content), 11)))
    parts = aws.stream(boto, "texts", streams.request(b'{"prompt": "a"}'), "application/json", "application/json")
    assert "".join(streams.texts(parts)) == "Grüße 😀\n\n"
    assert boto.asked.url.endswith("/endpoints/texts/invocations-response-stream")
    assert json.loads(boto.asked.body) == {"prompt": "a", "stream": True}


def test_what_amazon_refuses_or_breaks_off_is_said(boto: Any) -> None:
    failure = message(
        b'{"Message": "the container has gone"}', message_type="exception", exception_type="ModelStreamError"
    )
    boto.answer = (200, EVENTS, part(STREAM.encode()[:200]) + failure)
    with pytest.raises(UserError, match="texts broke off: the container has gone"):
        list(streams.texts(aws.stream(boto, "texts", b"{}", "application/json", "application/json")))
    boto.answer = (400, "application/json", b'{"Message": "Endpoint texts not found", "Code": "ValidationError"}')
    with pytest.raises(UserError, match="texts refused the request: Endpoint texts not found"):
        list(aws.stream(boto, "texts", b"{}", "application/json", "application/json"))


def test_the_command_prints_the_text(
    where: Where, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["deploy.py", "invoke", "texts", "--value", json.dumps(ASKED), "--stream", "--out", str(where.out)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(Path(ROOT, "sagemaker", "deploy.py")), run_name="__main__")
    assert stop.value.code == 0
    assert capfd.readouterr().out == expected()["text"] + "\n"
