"""/v1/completions as real clients use it: OpenAI's own package and curl, whole and streamed, several at once."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from common import artifact, example
from common.command.arguments import Options
from common.command.execute import execute
from common.serve import desk
from common.serve.models import load_models
from tests.page_helpers import served

openai = pytest.importorskip("openai", reason="OpenAI's client, of the extra dev")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = Options(out=str(tmp_path_factory.mktemp("texts")), quiet=True, tiny=True)
    return Path(execute(example.get("nlp.gpt"), options, {"device": "cpu"})["run"])


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with ThreadPoolExecutor(2) as decoders, served(load_models([f"texts={run}"], decoders)) as url:
        yield url


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def begin(run: Path) -> str:
    """A prompt that the model can read."""
    inputs: Any = example.get("nlp.gpt").load(artifact.load(run)).input
    return str(inputs.example)


def test_streamed_equals_whole_and_the_answer_of_predict(client: Any, run: Path, begin: str) -> None:
    predictor = example.get("nlp.gpt").load(artifact.load(run))
    for seed, temperature in ((1, 0.0), (2, 0.9), (3, 1.4)):
        asked = {"model": "texts", "prompt": begin, "max_tokens": 40, "seed": seed, "temperature": temperature}
        whole = client.completions.create(**asked)
        pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].text for chunk in pieces if chunk.choices)
        raw = json.dumps({k: v for k, v in asked.items() if k != "model"}).encode()
        (row,) = predictor.predict([predictor.input.decode(raw)])
        assert whole.choices[0].text == text == row["text"]
        assert whole.choices[0].finish_reason == pieces[-2].choices[0].finish_reason == row["finish_reason"]
        assert whole.usage == pieces[-1].usage
        assert whole.usage.completion_tokens == row["tokens"]
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + row["tokens"]


def test_a_stop_string_is_never_sent(client: Any, begin: str) -> None:
    asked = {"model": "texts", "prompt": begin, "max_tokens": 60, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[20:23]
    chunks = list(client.completions.create(**asked, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text[: text.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_log_probabilities_are_those_of_the_tokens(client: Any, begin: str) -> None:
    answer = client.completions.create(model="texts", prompt=begin, max_tokens=8, temperature=0, logprobs=1)
    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == answer.choices[0].text
    assert all(math.isfinite(value) and value <= 0 for value in found.token_logprobs)


def test_models_are_listed_as_clients_expect(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["texts"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"model": "other"}, 404, "There is no model 'other'"),
        ({"prompt": ["a", "b"]}, 400, "'prompt' is one text"),
        ({"n": 2}, 400, "'n' is 1 here"),
        ({"max_tokens": 10**9}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"stop": ""}, 400, "stop"),
        ({"extra_body": {"tools": [{}]}}, 400, "'tools' is not known here"),
        ({"logprobs": 5}, 400, "'logprobs' is 0 or 1"),
    ],
)
def test_mistakes_are_one_line_as_these_clients_read_it(
    asked: dict[str, Any], status: int, words: str, client: Any, begin: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as refused:
            client.completions.create(**{"model": "texts", "prompt": begin, "stream": stream, **asked})
        assert refused.value.status_code == status
        assert words in refused.value.body["message"]
        assert "\n" not in refused.value.body["message"]


def test_bodies_that_are_no_requests_are_refused(address: str) -> None:
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"prompt": NaN}'):
        answer = httpx.post(f"{address}/v1/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_model_that_only_continues_says_so(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="has not learned to converse"):
        client.chat.completions.create(model="texts", messages=[{"role": "user", "content": "Hello"}])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_shows_the_lines_as_they_come(address: str, begin: str) -> None:
    body = json.dumps({"prompt": begin, "max_tokens": 5, "stream": True, "temperature": 0})
    command = ["curl", "-sN", f"{address}/v1/completions", "-H", "Content-Type: application/json", "-d", body]
    lines = [line for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert chunks[-1]["choices"][0]["finish_reason"] in ("length", "stop")
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_several_at_once_get_what_each_would_get_alone(client: Any, begin: str) -> None:
    def ask(seed: int) -> str:
        asked = {"model": "texts", "prompt": begin, "max_tokens": 30 + seed, "seed": seed}
        return "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))

    alone = [ask(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_who_goes_ends_the_text_and_makes_room(address: str, begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many clients as there is room for leave after the first piece; the next one is served at once."""
    slow = threading.Event()
    ticks: list[float] = []
    work = desk.Desk.write

    async def counted(self: desk.Desk, item: Any, patience: float) -> Any:
        async for news in work(self, item, patience):
            ticks.append(time.monotonic())
            yield news

    monkeypatch.setattr(desk.Desk, "write", counted)
    body = {"prompt": begin, "max_tokens": 2000, "stream": True}
    for _ in range(desk.MOST_TEXTS + 2):
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=30) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
    assert httpx.post(f"{address}/v1/completions", json={**body, "max_tokens": 3, "stream": False}).status_code == 200
    slow.wait(0.3)
    before = len(ticks)
    slow.wait(0.3)
    assert len(ticks) == before  # nobody writes for those who left


def test_too_many_are_told_to_come_again(address: str, begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.Desk, "_full", lambda self: True)
    answer = httpx.post(f"{address}/v1/completions", json={"prompt": begin, "max_tokens": 3})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "server_error"
