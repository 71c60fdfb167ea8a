"""The server: SageMaker's contract, the JSON API, and what it does under load and with broken requests."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from common.artifact import Artifact
from common.artifact import load as load_artifact
from common.errors import UserError
from common.kinds.answer import Predictor
from common.kinds.row import RowInput
from common.sagemaker.training.processes import free_port
from common.serve import container
from common.serve.__main__ import main as command_line
from common.serve.app import create_app
from common.serve.batching import Row
from common.serve.models import ServedModel, load_models
from common.serve.settings import Address, Settings
from tests.fuzz import PNG, malformed, send
from tests.helpers import ROOT, environment
from tests.serve_helpers import Number, address, write_artifact
from vision.train import example

JSON = {"content-type": "application/json"}
Predict = Callable[[Sequence[Any]], list[Row]]


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image classifier."""
    return write_artifact(tmp_path_factory.mktemp("serve") / "run" / "model").parent


@pytest.fixture(scope="module")
def models(run: Path, decoders: ThreadPoolExecutor) -> dict[str, ServedModel]:
    return load_models([str(run), f"second={run}"], decoders)


@pytest.fixture(scope="module")
def client(models: dict[str, ServedModel]) -> Iterator[TestClient]:
    with TestClient(create_app(models), raise_server_exceptions=False) as opened:
        yield opened


def toy(predict: Predict, decoders: ThreadPoolExecutor) -> ServedModel:
    """A model that takes a row of one number."""
    saved = Artifact(Path(), "toy", {}, {"kind": "row"}, [], {})
    return ServedModel("toy", saved, Predictor(RowInput(("x",)), Number(), predict), decoders)


def double(rows: Sequence[Any]) -> list[Row]:
    return [{"y": 2 * float(row)} for row in rows]


async def ask(model: ServedModel, settings: Settings, bodies: Sequence[str]) -> list[httpx.Response]:
    """All requests at the same time."""
    transport = httpx.ASGITransport(create_app({"toy": model}, settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await asyncio.gather(*(client.post("/invocations", content=body, headers=JSON) for body in bodies))


# --- answers ----------------------------------------------------------------------------------------------


def test_an_image_gets_the_row_that_the_predictor_gives(client: TestClient, run: Path) -> None:
    saved = load_artifact(run)
    predictor = example.load(saved)
    (expected,) = predictor.predict([predictor.input.decode(PNG)])
    for path in ("/invocations", "/v1/models/vision.train/predict", "/invocations?model=second"):
        answer = client.post(path, content=PNG, headers={"content-type": "image/png"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["class"] == expected["class"]
        assert answer.json()["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_several_inputs_in_json_and_lines_out(client: TestClient) -> None:
    encoded = base64.b64encode(PNG).decode()
    headers = {**JSON, "accept": "application/jsonlines"}
    answer = client.post("/invocations", json={"instances": [encoded] * 40}, headers=headers)
    assert answer.headers["content-type"] == "application/jsonlines"
    rows = [json.loads(line) for line in answer.text.split("\n")]
    assert len(rows) == 40
    assert len({row["class"] for row in rows}) == 1
    table = client.post("/invocations", content=PNG, headers={"content-type": "image/png", "accept": "text/csv"})
    assert table.text.split(",")[0] == rows[0]["class"]
    assert len(table.text.split(",")) == 11
    assert not table.text.endswith("\n")


def test_the_api_describes_every_model(client: TestClient, run: Path) -> None:
    listed = client.get("/v1/models").json()["models"]
    assert [model["name"] for model in listed] == ["vision.train", "second"]
    assert client.get("/v1/models/second").json().items() > listed[1].items()
    assert listed[0]["input"]["kind"] == "image"
    assert listed[0]["classes"] == load_artifact(run).classes
    assert str(run) not in json.dumps(listed)
    paths = client.get("/openapi.json").json()["paths"]
    assert "image/png" in paths["/v1/models/{name}/predict"]["post"]["requestBody"]["content"]


def test_errors_are_one_line_of_json(client: TestClient) -> None:
    cases: list[tuple[str, str, dict[str, str], bytes, int, str]] = [
        ("POST", "/invocations", {"content-type": "image/png"}, b"no image", 400, "The input is not an image."),
        ("POST", "/invocations", {"content-type": "text/csv"}, b"1,2", 415, "This model takes"),
        ("POST", "/invocations", {"content-type": "image/png", "accept": "image/png"}, PNG, 406, "Answers come as"),
        ("POST", "/invocations", {"content-type": "image/png", "content-encoding": "gzip"}, PNG, 415, "A compressed"),
        ("POST", "/invocations?model=secnd", {}, PNG, 404, "There is no model 'secnd'. Did you mean second?"),
        ("POST", "/v1/models/other/predict", {}, PNG, 404, "There is no model 'other'."),
        ("GET", "/nowhere", {}, b"", 404, "Not Found."),
        ("GET", "/invocations", {}, b"", 405, "Method Not Allowed."),
        ("GET", "/docs", {}, b"", 404, "Not Found."),
    ]
    for method, path, headers, body, status, text in cases:
        answer = client.request(method, path, headers=headers, content=body)
        assert answer.status_code == status, path
        assert answer.json()["error"].startswith(text)
        assert list(answer.json()) == ["error"]


def test_a_large_body_is_413_whether_its_length_is_declared_or_not(models: dict[str, ServedModel]) -> None:
    client = TestClient(create_app(models, Settings(max_body=1000)))
    headers = {"content-type": "image/png"}
    for size, status in ((1000, 400), (1001, 413), (100_000, 413)):
        for body in (b"x" * size, iter([b"x" * 1000] * (size // 1000) + [b"x" * (size % 1000)])):
            assert client.post("/invocations", content=body, headers=headers).status_code == status


def test_a_token_is_needed_for_everything_but_the_ping(models: dict[str, ServedModel]) -> None:
    client = TestClient(create_app(models, Settings(token="sésame")))
    assert client.get("/ping").status_code == client.get("/health").status_code == 200
    for header in (None, "Bearer no", "Bearer ", "sésame", "Basic sésame"):
        headers = {b"authorization": header.encode()} if header else {}
        answer = client.get("/v1/models", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json() == {"error": "A bearer token is needed."}
    assert client.get("/v1/models", headers={b"authorization": "bearer sésame".encode()}).status_code == 200


# --- batches, load, health --------------------------------------------------------------------------------


def test_requests_that_arrive_together_are_run_together(decoders: ThreadPoolExecutor) -> None:
    sizes: list[int] = []

    def predict(rows: Sequence[Any]) -> list[Row]:
        sizes.append(len(rows))
        time.sleep(0.01)
        return double(rows)

    model = toy(predict, decoders)
    sizes.clear()
    answers = asyncio.run(ask(model, Settings(), [f"[{number}]" for number in range(40)]))
    assert [answer.json()["y"] for answer in answers] == [2 * number for number in range(40)]
    assert sum(sizes) == 40
    assert max(sizes) <= 16
    assert len(sizes) < 20


def test_a_lone_request_is_not_held_back(decoders: ThreadPoolExecutor) -> None:
    model = toy(double, decoders)
    model.batcher._wait = 3600
    assert asyncio.run(asyncio.wait_for(ask(model, Settings(), ["[1]"]), 10))[0].json() == {"y": 2}


def test_a_lone_request_of_many_inputs_is_cut_into_batches(decoders: ThreadPoolExecutor) -> None:
    sizes: list[int] = []

    def predict(rows: Sequence[Any]) -> list[Row]:
        sizes.append(len(rows))
        return double(rows)

    model = toy(predict, decoders)
    sizes.clear()
    (answer,) = asyncio.run(ask(model, Settings(), [json.dumps([[number] for number in range(40)])]))
    assert [row["y"] for row in answer.json()] == [2 * number for number in range(40)]
    assert sorted(sizes) == [8, 16, 16]


def test_a_bad_input_fails_alone(decoders: ThreadPoolExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    def predict(rows: Sequence[Any]) -> list[Row]:
        if any(float(row) == 13 for row in rows):
            raise RuntimeError("thirteen")
        time.sleep(0.01)
        return double(rows)

    bodies = [f"[{number}]" for number in range(20)] + ["[[1], [13]]", "[1, 2]", "x"]
    answers = asyncio.run(ask(toy(predict, decoders), Settings(), bodies))
    assert [answer.status_code for answer in answers] == [200] * 13 + [500] + [200] * 6 + [500, 400, 400]
    assert answers[13].json() == {"error": "The model failed on this input; the server's log says why."}
    assert "thirteen" in capfd.readouterr().err


def test_more_requests_than_the_limit_are_503_and_come_again(decoders: ThreadPoolExecutor) -> None:
    def predict(rows: Sequence[Any]) -> list[Row]:
        time.sleep(0.05)
        return double(rows)

    model = toy(predict, decoders)
    answers = asyncio.run(ask(model, Settings(max_requests=8), ["[1]"] * 30))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 22
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert all(answer.json() == {"y": 2} for answer in answers if answer not in refused)
    assert asyncio.run(ask(model, Settings(max_requests=8), ["[1]"]))[0].status_code == 200


def test_a_slow_model_gives_503_after_the_timeout(decoders: ThreadPoolExecutor) -> None:
    hold = threading.Event()
    hold.set()

    def predict(rows: Sequence[Any]) -> list[Row]:
        hold.wait(10)
        return double(rows)

    model = toy(predict, decoders)
    hold.clear()
    (answer,) = asyncio.run(ask(model, Settings(timeout=0.1), ["[1]"]))
    assert (answer.status_code, answer.json()["error"]) == (503, "The answer took longer than 0.1 seconds.")
    hold.set()


def test_the_ping_is_red_while_predictions_fail_and_green_again(decoders: ThreadPoolExecutor) -> None:
    broken = False

    def predict(rows: Sequence[Any]) -> list[Row]:
        if broken:
            raise RuntimeError("broken")
        return double(rows)

    model = toy(predict, decoders)
    with TestClient(create_app({"toy": model}), raise_server_exceptions=False) as client:
        assert client.get("/ping").status_code == 200
        broken = True
        assert client.post("/invocations", content="[1]", headers=JSON).status_code == 500
        assert client.get("/ping").json() == {"error": "The model toy does not answer."}
        assert client.get("/ping").status_code == 503
        broken = False
        assert client.get("/ping").status_code == 200


def test_a_model_that_fails_on_a_made_up_input_is_not_served(decoders: ThreadPoolExecutor) -> None:
    def predict(rows: Sequence[Any]) -> list[Row]:
        raise RuntimeError("no weights")

    with pytest.raises(UserError, match="The model toy does not answer a made-up input: no weights"):
        toy(predict, decoders)


def test_metrics_count_answers_and_batches(decoders: ThreadPoolExecutor) -> None:
    client = TestClient(create_app({"toy": toy(double, decoders)}))
    for body in ("[1]", "[2]", "x"):
        client.post("/invocations", content=body, headers=JSON)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [s for family in text_string_to_metric_families(answer.text) for s in family.samples]
    assert {s.labels.pop("process") for s in samples} == {str(os.getpid())}
    found = {(s.name, *s.labels.values()): s.value for s in samples}
    assert found["serve_requests_total", "toy", "200"] == 2
    assert found["serve_requests_total", "toy", "400"] == 1
    assert found["serve_requests_active",] == 0
    assert found["serve_request_seconds_count", "toy"] == 3
    assert found["serve_batch_size_sum", "toy"] == found["serve_model_seconds_count", "toy"] == 2
    assert (found["serve_batch_size_bucket", "1.0", "toy"], found["serve_batch_size_bucket", "+Inf", "toy"]) == (2, 2)
    assert found["serve_request_seconds_bucket", "60.0", "toy"] == 3


# --- names, environment -----------------------------------------------------------------------------------


def test_models_are_named_after_their_example_or_as_asked(run: Path, decoders: ThreadPoolExecutor) -> None:
    assert list(load_models([str(run), str(run / "model")], decoders)) == ["vision.train", "vision.train-2"]
    for runs, text in (
        ([f"a={run}", f"a={run}"], "Two models are named 'a'."),
        ([f"a/b={run}"], "'a/b' can't name a model."),
        (["nowhere"], "There is no trained model in nowhere."),
    ):
        with pytest.raises(UserError, match=re.escape(text)):
            load_models(runs, decoders)


def test_flags_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def start(runs: Sequence[str], settings: Settings, place: Address) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr("common.serve.server.start", start)
    assert command_line(["run"], max_megabytes=2, max_requests=3, timeout=4.5, token="secret") == 0
    assert seen == [Settings(max_body=2 * 2**20, max_requests=3, timeout=4.5, token="secret")]


def test_batch_transform_sets_limits_and_lines(monkeypatch: pytest.MonkeyPatch, models: dict[str, ServedModel]) -> None:
    given = {
        "BATCH": "true",
        "MAX_PAYLOAD_IN_MB": "3",
        "MAX_CONCURRENT_TRANSFORMS": "100",
        "BATCH_STRATEGY": "MULTI_RECORD",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"SAGEMAKER_{name}", value)
    settings = container.settings()
    assert (settings.max_body, settings.max_requests) == (3 * 2**20, 200)
    records = "\n".join([json.dumps(base64.b64encode(PNG).decode())] * 3)
    answer = TestClient(create_app(models, settings)).post(
        "/invocations", content=records, headers={"content-type": "application/jsonlines"}
    )
    assert len([json.loads(line) for line in answer.text.split("\n")]) == 3
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6 MB")
    with pytest.raises(UserError, match="SAGEMAKER_MAX_PAYLOAD_IN_MB is '6 MB', not a whole number"):
        container.settings()


# --- the real process -------------------------------------------------------------------------------------


def post(port: int, body: bytes) -> bytes:
    """One whole HTTP/1.1 answer."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_the_container_serves_survives_fuzzing_and_drains_on_sigterm(run: Path) -> None:
    port = free_port()
    place = {"SM_MODEL_DIR": str(run / "model"), "SAGEMAKER_BIND_TO_PORT": str(port)}
    place["PROMETHEUS_MULTIPROC_DIR"] = "/nowhere"  # where a neighbour would keep its counts; ours stay in the process
    command = [sys.executable, str(ROOT / "sagemaker" / "serve")]
    with subprocess.Popen(
        command, env={**environment(), **place}, cwd="/", stderr=subprocess.PIPE, text=True
    ) as process:
        assert address(process) == f"http://0.0.0.0:{port}"
        assert httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200
        assert post(port, PNG).startswith(b"HTTP/1.1 200 OK")

        dice = random.Random(1)
        for number in range(300):
            request = malformed(dice, f"127.0.0.1:{port}")
            assert send("127.0.0.1", port, request) < 500, (number, request)

        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:  # accepted before the signal
            slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG[:20])
            time.sleep(0.3)
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.3)
            slow.sendall(PNG[20:])
            assert slow.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait(20) == 0
    assert "Traceback" not in log
