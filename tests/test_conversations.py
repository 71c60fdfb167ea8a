"""/v1/chat/completions as real clients use it: OpenAI's own package and curl, whole and streamed, several at once."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from common.serve import desk
from common.serve.models import ServedModel
from common.serve.settings import Settings
from tests.page_helpers import served
from tests.talk_helpers import LETTERS, talkers

openai = pytest.importorskip("openai", reason="OpenAI's client, of the extra dev")

HELLO = [{"role": "user", "content": "Hello"}]
MANY = 200  # random conversations; a thousand were tried once


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, ServedModel]]:
    with ThreadPoolExecutor(2) as decoders:
        yield talkers(decoders)


@pytest.fixture(scope="module")
def address(models: dict[str, ServedModel]) -> Iterator[str]:
    with served(models) as url:
        yield url


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def dice(number: int) -> dict[str, Any]:
    """A conversation, options and stop strings, by chance."""
    chance = random.Random(number)

    def text(least: int, most: int) -> str:
        return "".join(chance.choice(LETTERS) for _ in range(chance.randrange(least, most)))

    turns = [("user", "assistant")[i % 2] for i in range(chance.choice((1, 3, 5)))]
    messages = [{"role": role, "content": f"{role} {text(0, 30)}"} for role in turns]
    if chance.random() < 0.5:
        messages.insert(0, {"role": "system", "content": text(0, 30)})
    asked: dict[str, Any] = {"messages": messages, "max_tokens": chance.randrange(1, 40), "seed": number}
    asked["temperature"] = chance.choice((0, 0.7, 1.0, 1.5))
    asked["stop"] = [text(1, 4) for _ in range(chance.randrange(5))] or None
    return asked


def test_streamed_equals_whole_byte_for_byte(client: Any, models: dict[str, ServedModel]) -> None:
    def both(number: int) -> tuple[str, str]:
        asked = {"model": "talk", **dice(number)}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        first, *parts, last, usage = chunks
        assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
        text = "".join(chunk.choices[0].delta.content for chunk in parts)
        assert [chunk.choices[0].finish_reason for chunk in [first, *parts]] == [None] * (1 + len(parts))
        assert last.choices[0].delta.content is None
        assert whole.choices[0].message.role == "assistant"
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
            text,
            last.choices[0].finish_reason,
        )
        assert (usage.choices, usage.usage) == ([], whole.usage)
        assert not any(stop in text for stop in asked["stop"] or [])
        return text, whole.choices[0].finish_reason

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(both, range(MANY)))
    predictor = models["talk"].predictor
    raw = [json.dumps({k: v for k, v in dice(n).items() if v is not None}).encode() for n in range(MANY)]
    rows = predictor.predict([predictor.input.decode(one) for one in raw])
    assert found == [(row["text"], row["finish_reason"]) for row in rows]
    assert {finish for _, finish in found} == {"stop", "length"}
    assert "\ufffd" in "".join(text for text, _ in found)  # the model also writes bytes that are no characters


def test_log_probabilities_are_those_of_the_pieces(client: Any) -> None:
    asked = {"model": "talk", "messages": HELLO, "max_tokens": 12, "seed": 4, "logprobs": True}
    whole = client.chat.completions.create(**asked, top_logprobs=0).choices[0]
    streamed = client.chat.completions.create(**asked, stream=True)
    tokens = [t for chunk in streamed if chunk.choices[0].logprobs for t in chunk.choices[0].logprobs.content]
    assert whole.logprobs.content == tokens
    assert "".join(token.token for token in tokens) == whole.message.content
    assert all(math.isfinite(token.logprob) and token.logprob <= 0 for token in tokens)
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == whole.message.content


def test_what_clients_send_besides_changes_nothing(client: Any) -> None:
    asked = {"model": "talk", "messages": HELLO, "max_tokens": 12, "seed": 4}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    said = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    more = {"user": "me", "n": 1, "response_format": {"type": "text"}, "tools": [], "presence_penalty": 0}
    more |= {"extra_body": {"unheard_of": 1}, "messages": said}
    assert client.chat.completions.create(**{**asked, **more}).choices[0].message.content == plain
    renamed = {("max_completion_tokens" if name == "max_tokens" else name): value for name, value in asked.items()}
    assert client.chat.completions.create(**renamed).choices[0].message.content == plain
    assert client.models.retrieve("talk").id == "talk"


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"model": "other"}, 404, "There is no model 'other'"),
        ({"messages": []}, 400, '"messages" is []; it must be a list of at least one message.'),
        ({"messages": [{"role": "judge", "content": "a"}]}, 400, "message 1 has the role 'judge'"),
        ({"messages": [{"role": "user", "content": None}]}, 400, '"content" is None, not a text.'),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "reads only texts"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "ends with a message without a text"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "a"}]}, 400, "ends with a message of the assistant"),
        ({"messages": [{"role": "user", "content": "x" * 300_000}]}, 400, "300,000 letters"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, 400, "The text has 40,008 tokens"),
        ({"n": 2}, 400, "'n' is 1 here"),
        ({"max_tokens": 10**9}, 400, '"max_tokens" is 1000000000'),
        ({"temperature": -1}, 400, "temperature"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "'tools' is not known here"),
        ({"response_format": {"type": "json_object"}}, 400, "'response_format' is not known here"),
        ({"frequency_penalty": 0.5}, 400, "'frequency_penalty' is not known here"),
        ({"logprobs": True, "top_logprobs": 5}, 400, "'top_logprobs' is 0 here"),
    ],
)
def test_mistakes_are_one_line_as_these_clients_read_it(
    asked: dict[str, Any], status: int, words: str, client: Any
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(**{"model": "talk", "messages": HELLO, "stream": stream, **asked})
        assert refused.value.status_code == status
        assert words in refused.value.body["message"]
        assert "\n" not in refused.value.body["message"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"{}", b'{"messages": "Hello"}', b'{"messages": [1]}'),
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "stop": "\\udfff"}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "a"}], "stream": "yes"}',
        b'{"messages": [{"role": "\\ud800", "content": "a"}]}',
    ],
)
def test_bodies_that_are_no_requests_are_refused(address: str, body: bytes) -> None:
    answer = httpx.post(f"{address}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_who_asks_in_the_other_way_is_told_where_to(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="has not learned to converse: ask /v1/completions"):
        client.chat.completions.create(model="goes-on", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="converses and continues no texts: ask /v1/chat/completions"):
        client.completions.create(model="talk", prompt="Hello")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_shows_the_lines_as_they_come(address: str) -> None:
    body = json.dumps({"model": "slow", "messages": HELLO, "max_tokens": 20, "stream": True, "temperature": 0})
    command = ["curl", "-sN", f"{address}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    came, lines = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                came.append(time.monotonic())
                lines.append(line.strip())
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert came[-1] - came[0] > 10 * 0.03  # they came one by one, not together at the end


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_ends_the_text_within_a_token(stream: bool, address: str, models: dict[str, ServedModel]) -> None:
    written = models["slow"].desk
    assert written is not None
    writer: Any = written._writer
    body = {"model": "slow", "messages": HELLO, "max_tokens": 2000, "temperature": 0, "stream": stream}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=0.4) as answer,
    ):
        next(answer.iter_lines())
    time.sleep(0.2)  # for the news that the client has gone to come through
    before = writer.steps
    assert before > 3
    time.sleep(0.3)
    assert writer.steps <= before + 1
    assert not writer._going


def test_the_tokens_that_are_held_are_bounded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is on what texts may come to, so that none ends for want of room."""
    with ThreadPoolExecutor(1) as decoders:
        models = {"slow": talkers(decoders)["slow"]}
        writing = models["slow"].desk
        assert writing is not None
        writing._tokens = 1000
        with served(models) as url:
            ask = f"{url}/v1/chat/completions"
            long = {"messages": HELLO, "max_tokens": 900, "stream": True}
            with httpx.stream("POST", ask, json=long) as answer:
                lines = answer.iter_lines()
                next(lines)
                refused = httpx.post(ask, json={"messages": HELLO, "max_tokens": 200})
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert (
                    refused.json()["error"]["message"]
                    == "The server holds all the tokens that it can. Try again later."
                )
                assert httpx.post(ask, json={"messages": HELLO, "max_tokens": 5}).status_code == 200
            never = httpx.post(ask, json={"messages": HELLO, "max_tokens": 1000})
            assert (never.status_code, "1,000 are the most" in never.text) == (400, True)
            time.sleep(0.3)
            with httpx.stream("POST", ask, json={**long, "max_tokens": 200}) as answer:
                assert answer.status_code == 200


def test_a_token_that_takes_too_long_ends_the_stream_with_an_error() -> None:
    with ThreadPoolExecutor(1) as decoders:
        models = talkers(decoders)
        writing = models["talk"].desk
        assert writing is not None
        writer: Any = writing._writer
        with served(models, Settings(timeout=0.5)) as url:
            body = {"model": "talk", "messages": HELLO, "max_tokens": 2000, "temperature": 0, "stream": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                writer.wait = 1.0
                last = [line for line in lines if line][-1]
            assert (
                json.loads(last.removeprefix("data: "))["error"]["message"] == "A token took longer than 0.5 seconds."
            )


def test_a_model_that_fails_says_so_whole_and_in_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as decoders:
        models = talkers(decoders)
        writing = models["talk"].desk
        assert writing is not None
        writer: Any = writing._writer
        step = writer.step

        def failing() -> Any:
            if writer.steps > 3:
                raise RuntimeError("out of memory")
            return step()

        monkeypatch.setattr(writer, "step", failing)
        with served(models) as url:
            body = {"model": "talk", "messages": HELLO, "max_tokens": 100}
            streamed = httpx.post(f"{url}/v1/chat/completions", json={**body, "stream": True})
            assert "The model failed on this text" in streamed.text.split("\n\n")[-2]
            assert "[DONE]" not in streamed.text
            whole = httpx.post(f"{url}/v1/chat/completions", json=body)
            assert (whole.status_code, whole.json()["error"]["type"]) == (500, "server_error")


def test_too_many_texts_are_told_to_come_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.Desk, "_full", lambda self: True)
    answer = httpx.post(f"{address}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 3})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["type"] == "server_error"
