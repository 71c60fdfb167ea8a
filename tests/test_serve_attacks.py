"""What hostile clients can't do to the servers: take all the time, the memory or the places."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from common.kinds.answer import Predictor
from common.kinds.image import MAX_PIXELS
from common.kinds.row import RowInput
from common.serve import container
from common.serve.app import create_app
from common.serve.batching import Row
from common.serve.formats import MOST_INPUTS
from common.serve.models import LARGEST_BATCH
from common.serve.settings import Settings
from tests.fuzz import ATTACKS, NPYS, malformed, send
from tests.page_helpers import served, toy
from tests.serve_helpers import Number
from tests.toy_server import toys

JSON = {"content-type": "application/json"}
PATIENT = 10.0  # seconds within which a server must have done what takes it a fraction of one


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def client(decoders: ThreadPoolExecutor) -> Iterator[TestClient]:
    with TestClient(create_app(toys(decoders)), raise_server_exceptions=False) as opened:
        yield opened


def ask(client: TestClient, model: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    answer = client.post(f"/v1/models/{model}/predict", content=body, headers={"content-type": kind})
    return answer.status_code, answer.json()


def picture(mode: str, side: int, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, form, **options)
    return file.getvalue()


# --- many inputs ------------------------------------------------------------------------------------------


def test_a_short_request_waits_for_one_batch_of_a_long_one(decoders: ThreadPoolExecutor) -> None:
    batches: list[list[float]] = []
    asked = threading.Event()

    def predict(rows: Sequence[Any]) -> list[Row]:
        batches.append([float(row) for row in rows])
        if len(batches) == 10:
            asked.set()
            time.sleep(0.2)  # the short request arrives meanwhile
        return [{"y": float(row)} for row in rows]

    model = toy("toy", Predictor(RowInput(("x",)), Number(), predict), [], decoders)
    batches.clear()

    async def run() -> tuple[Any, Any]:
        long = asyncio.create_task(model.answer(json.dumps([[1]] * 1000).encode(), JSON["content-type"], "text/csv"))
        await asyncio.get_running_loop().run_in_executor(None, asked.wait, PATIENT)
        short = await model.answer(b"[2]", JSON["content-type"], "text/csv")
        assert not long.done()
        return await long, short

    long, short = asyncio.run(run())
    assert (len(long.split()), short) == (1000, "2.0")
    assert 2 in batches[10]  # the very next one
    assert max(map(len, batches)) == LARGEST_BATCH


def test_a_long_request_is_decoded_as_it_goes(decoders: ThreadPoolExecutor) -> None:
    decoded, answered, most = 0, 0, 0

    class Counting(RowInput):
        def decode(self, source: Any, name: str = "") -> Any:
            nonlocal decoded, most
            decoded += 1
            most = max(most, decoded - answered)
            return super().decode(source, name)

    def predict(rows: Sequence[Any]) -> list[Row]:
        nonlocal answered
        answered += len(rows)
        return [{"y": 0}] * len(rows)

    model = toy("toy", Predictor(Counting(("x",)), Number(), predict), [], decoders)
    decoded = answered = most = 0
    asyncio.run(model.answer(json.dumps([[1]] * 1000).encode(), JSON["content-type"], "text/csv"))
    assert (decoded, answered) == (1000, 1000)
    assert most <= 6 * LARGEST_BATCH


def test_the_first_bad_input_of_many_is_named(client: TestClient) -> None:
    values = [[1, 2]] * 1000
    assert ask(client, "row", json.dumps([*values[:700], [1], *values[:50], "x"]).encode()) == (
        400,
        {"error": "Input 701 has the shape [1], not [2]."},
    )


@pytest.mark.parametrize(
    ("model", "kind", "body"),
    [
        ("row", "application/json", lambda n: b"[" + b"[1,2]," * (n - 1) + b"[1,2]]"),
        ("text", "application/json", lambda n: b'{"instances": [' + b'"a",' * (n - 1) + b'"a"]}'),
        ("seed", "application/jsonlines", lambda n: b"7\n" * n),
        ("row", "text/csv", lambda n: b"1,2\n" * n),
    ],
)
def test_more_inputs_than_the_limit_are_413(
    client: TestClient, model: str, kind: str, body: Callable[[int], bytes]
) -> None:
    assert ask(client, model, body(MOST_INPUTS), kind)[0] == 200
    for count in (MOST_INPUTS + 1, 100_000):
        code, answer = ask(client, model, body(count), kind)
        assert (code, answer["error"]) == (
            413,
            "The body holds more than 1,024 inputs, the limit. Send them in several requests.",
        )


def test_batch_transform_may_send_as_many_as_a_payload_holds(
    monkeypatch: pytest.MonkeyPatch, decoders: ThreadPoolExecutor
) -> None:
    assert container.settings().max_inputs == MOST_INPUTS
    monkeypatch.setenv("SAGEMAKER_BATCH", "true")
    settings = container.settings()
    with TestClient(create_app(toys(decoders), settings)) as client:
        body = b"1,2\n" * 5000
        answer = client.post("/invocations?model=row", content=body, headers={"content-type": "text/csv"})
    assert (answer.status_code, answer.text.count("\n") + 1) == (200, 5000)
    assert settings.timeout >= 600  # what a batch transform job gives a request by default


# --- decoders ---------------------------------------------------------------------------------------------


def test_the_pixels_of_all_images_together_are_limited(client: TestClient) -> None:
    side = 6000
    assert side * side < MAX_PIXELS < 2 * side * side
    one = base64.b64encode(picture("1", side)).decode()
    assert ask(client, "image", json.dumps([one]).encode())[0] == 200
    began = time.process_time()
    code, answer = ask(client, "image", json.dumps([one] * 100).encode())
    assert time.process_time() - began < 1  # nothing was decoded
    assert (code, answer["error"]) == (
        413,
        "The images have more than 64 million pixels together, the limit. Send them in several requests.",
    )
    photo = base64.b64encode(picture("RGB", side, "JPEG")).decode()  # read at an eighth, it is small
    assert ask(client, "image", json.dumps([photo] * 3).encode())[0] == 200


def test_an_image_of_few_bytes_and_many_pixels_is_not_decoded_in_the_model_s_thread(
    decoders: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    images = toys(decoders)["image"]
    kind = images.predictor.input
    whole = type(kind).decode

    def decode(self: Any, *arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return whole(self, *arguments)

    monkeypatch.setattr(type(kind), "decode", decode)
    for side in (100, 3000):
        assert len(picture("1", side)) < 10_000
        asyncio.run(images.answer(picture("1", side), "image/png", "application/json"))
    assert [name.startswith("model") for name in threads] == [True, False]


@pytest.mark.parametrize("file", NPYS, ids=range(len(NPYS)))
def test_no_npy_file_is_a_500(client: TestClient, file: bytes) -> None:
    code, answer = ask(client, "observation", file, "application/x-npy")
    assert code in (200, 400)
    assert code == 200 or answer["error"].startswith("The input ")


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        ("row", json.dumps("1" * 131_073), "The input is not a row of numbers: field larger than field limit"),
        ("row", json.dumps({"k" * 10**6: 1}), "The input has an unknown column 'kkk"),
        ("seed", json.dumps({"seed": 1, "class": "c" * 10**6}), "The input asks for the unknown class 'ccc"),
        ("seed", json.dumps([["x"] * 10**5]), "The input is no seed: ['x', "),
        ("seed", "9" * 10**6, "The body is not valid application/json: Exceeds the limit"),
        ("row", "[" * 10**5, "The body is not valid application/json: maximum recursion"),
        ("observation", "[" * 900 + "]" * 900, "The input does not hold numbers of the shape [2, 2]."),
        ("row", "[NaN, 1]", "The input holds nan; only finite numbers go."),
        ("row", "[-Infinity, 1]", "The input holds inf; only finite numbers go."),
    ],
)
def test_what_breaks_a_decoder_is_one_short_line(client: TestClient, model: str, body: str, text: str) -> None:
    began = time.process_time()
    code, answer = ask(client, model, body.encode())
    assert time.process_time() - began < 2
    assert code == 400
    assert answer["error"].startswith(text)
    assert len(answer["error"]) <= 1000


# --- slow clients -----------------------------------------------------------------------------------------

HEAD = b"POST /invocations?model=text HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
WHOLE = HEAD + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc"
HALF = HEAD + b"Content-Length: 1000\r\n\r\nabc"


def connect(url: str, content: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=PATIENT)
    opened.sendall(content)
    return opened


def whole(opened: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    return b"".join(iter(lambda: opened.recv(2**16), b""))


def status(opened: socket.socket) -> int:
    """Of the first answer on a connection."""
    return int(opened.recv(2**16).split(b" ", 2)[1])


@pytest.mark.parametrize("torso", [b"POST /invo", HEAD, HALF, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"])
def test_a_request_that_does_not_end_is_408_and_cut(decoders: ThreadPoolExecutor, torso: bytes) -> None:
    with served(toys(decoders), Settings(head_seconds=0.3, body_seconds=0.3)) as url, connect(url, torso) as opened:
        answer = whole(opened)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"x-content-type-options: nosniff" in answer
        assert re.search(rb'\{"error": "The (body|head of the request) took longer than 0.?3? seconds."\}$', answer)


def test_a_connection_that_says_nothing_is_closed_without_a_word(decoders: ThreadPoolExecutor) -> None:
    with served(toys(decoders), Settings(head_seconds=0.3)) as url, connect(url) as opened:
        assert whole(opened) == b""


@pytest.mark.parametrize("torso", [b"GET /ping HTTP/1.1\r\nX: ", HALF, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_byte_at_a_time_is_too_slow_too(decoders: ThreadPoolExecutor, torso: bytes) -> None:
    piece = b"1\r\na\r\n" if b"chunked" in torso else b"a"
    with served(toys(decoders), Settings(head_seconds=0.3, body_seconds=0.3)) as url, connect(url, torso) as opened:
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < began + PATIENT:
                opened.sendall(piece)
                time.sleep(0.05)
        assert time.monotonic() - began < PATIENT / 2


def test_a_body_at_a_fair_rate_has_all_the_time_it_needs(decoders: ThreadPoolExecutor) -> None:
    with served(toys(decoders), Settings(body_seconds=0.3)) as url:
        head = HEAD + b"Connection: close\r\nContent-Length: 400000\r\n\r\n"
        with connect(url, head) as opened:
            for _ in range(8):  # 0.8 seconds
                opened.sendall(b"a" * 50_000)
                time.sleep(0.1)
            assert status(opened) == 200


def test_half_requests_take_nobody_s_place(decoders: ThreadPoolExecutor) -> None:
    with served(toys(decoders), Settings(max_requests=1)) as url:
        held = [connect(url, torso) for torso in (HALF, HEAD, b"", HALF, HEAD)]
        with connect(url) as opened:
            opened.sendall(WHOLE)
            assert status(opened) == 200
        for other in held:
            other.close()


def test_a_new_connection_takes_the_place_of_the_one_that_waits_longest(decoders: ThreadPoolExecutor) -> None:
    settings = Settings(max_requests=1)
    with served(toys(decoders), settings) as url:
        held = [connect(url, torso) for torso in (HALF, HEAD, b"", b"GET ") * settings.max_connections]
        for _ in range(settings.max_connections):
            with connect(url, WHOLE) as opened:
                assert status(opened) == 200
        with suppress(ConnectionError):
            assert held[0].recv(1) == b""  # the oldest was closed
        for other in held:
            other.close()


def test_answers_that_nobody_reads_are_dropped(decoders: ThreadPoolExecutor) -> None:
    with served(toys(decoders), Settings(body_seconds=0.3)) as url:
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with connect(url) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            opened.setblocking(False)
            with suppress(BlockingIOError):
                for _ in range(3000):
                    opened.send(asked)
            time.sleep(2)
            opened.settimeout(PATIENT)
            with suppress(ConnectionError):
                while opened.recv(2**20):  # it ends: without a limit, the server would wait for a reader for ever
                    pass


def test_bodies_on_their_way_are_bounded_in_all(decoders: ThreadPoolExecutor) -> None:
    settings = Settings(max_requests=2, max_body=10**6)
    with served(toys(decoders), settings) as url:
        large = HEAD + b"Content-Length: 900000\r\n\r\n" + b"a" * 800_000
        held = [connect(url, large) for _ in range(3)]
        held[2].settimeout(PATIENT)
        answers = [status(opened) for opened in held if _readable(opened)]
        assert answers == [503]
        with connect(url, WHOLE) as opened:  # small ones have room
            assert status(opened) == 200
        for other in held:
            other.close()


def _readable(opened: socket.socket) -> bool:
    opened.settimeout(0.5)
    try:
        return bool(opened.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


# --- all of it --------------------------------------------------------------------------------------------


def test_a_few_hundred_hostile_requests(decoders: ThreadPoolExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    with served(toys(decoders), Settings(head_seconds=1)) as url:
        host = url.removeprefix("http://")
        port = int(host.rpartition(":")[2])
        dice = random.Random(2)
        requests = [(content.replace(b"HOST", host.encode()), whole) for content, whole in ATTACKS]
        for number, request in enumerate([*requests, *(malformed(dice, host) for _ in range(400))]):
            answer = send("127.0.0.1", port, request)
            assert answer < 500 or answer == 503, (number, answer, request)
        with connect(url, WHOLE) as opened:
            assert status(opened) == 200
    assert "Traceback" not in capfd.readouterr().err


def test_one_length_not_two(decoders: ThreadPoolExecutor) -> None:
    with served(toys(decoders)) as url:
        both = HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + WHOLE
        with connect(url, both) as opened:
            answer = whole(opened)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
