"""What a browser may ask of the server: nothing for pages of other sites, nor under another name on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.serve import server
from common.serve.app import create_app
from common.serve.batching import Row
from common.serve.settings import Settings
from tests.toy_server import toys

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"host": "localhost:1"}, 200),
        ("GET", {"host": "127.0.0.1"}, 200),
        ("GET", {"host": "LOCALHOST"}, 200),
        ("GET", {"host": "[::1]:8000"}, 200),
        ("GET", {"host": "elsewhere:8000"}, 421),
        ("GET", {"host": "localhost.elsewhere"}, 421),
        ("GET", {"host": "127.0.0.1.elsewhere:80"}, 421),
        ("GET", {"host": "localhost:1", "origin": "http://elsewhere"}, 200),
        ("POST", {"host": "localhost:1"}, 200),
        ("POST", {"host": "elsewhere"}, 421),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:2"}, 403),
        ("POST", {"host": "localhost:1", "origin": "http://elsewhere"}, 403),
        ("POST", {"host": "localhost:1", "origin": "null"}, 403),
        ("POST", {"host": "localhost:1", "sec-fetch-site": "same-origin", "origin": "https://a-tunnel"}, 200),
        ("POST", {"host": "localhost:1", "sec-fetch-site": "none"}, 200),
        ("POST", {"host": "localhost:1", "sec-fetch-site": "same-site", "origin": "http://localhost:1"}, 403),
        ("POST", {"host": "localhost:1", "sec-fetch-site": "cross-site"}, 403),
        ("DELETE", {"host": "localhost:1", "origin": "http://elsewhere"}, 403),
    ],
)
def test_other_names_and_other_sites_are_refused(
    decoders: ThreadPoolExecutor, method: str, headers: dict[str, str], status: int
) -> None:
    client = TestClient(create_app(toys(decoders), Settings(hosts=("localhost", "127.0.0.1", "[::1]"))))
    path = {"GET": "/v1/models", "POST": "/v1/models/text/predict", "DELETE": "/v1/models/text/games/x"}[method]
    answer = client.request(method, path, headers={**JSON, **headers}, content=b'"a"' if method == "POST" else None)
    assert answer.status_code == status
    assert status == 200 or list(answer.json()) == ["error"]


def test_a_page_of_another_site_takes_no_games(decoders: ThreadPoolExecutor) -> None:
    client = TestClient(create_app(toys(decoders)))
    answer = client.post("/v1/models/observation/games", content=b"{}", headers={"origin": "http://elsewhere"})
    assert (answer.status_code, answer.json()["error"]) == (403, "A page of another site may not ask this server.")


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", ("127.0.0.1", "localhost", "[::1]")),
        ("127.0.0.2", ("127.0.0.2", "localhost", "127.0.0.1", "[::1]")),
        ("::1", ("[::1]", "localhost", "127.0.0.1")),
        ("0.0.0.0", ()),
    ],
)
def test_only_on_loopback_does_a_server_have_names(host: str, names: tuple[str, ...]) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        try:
            listening.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        assert server.own_names(listening) == names


def test_no_answer_is_taken_for_another_type(decoders: ThreadPoolExecutor) -> None:
    def fail(rows: Sequence[Any]) -> list[Row]:
        if len(rows) == 1 and isinstance(rows[0], str) and rows[0] == "fail":
            raise RuntimeError("broken")
        return [{"class": "a", "probabilities": {"a": 1, "b": 0}}] * len(rows)

    client = TestClient(create_app(toys(decoders, fail), Settings(token="x")), raise_server_exceptions=False)
    bearer = {"authorization": "Bearer x"}
    answers = [
        client.get(path, headers=bearer) for path in ("/", "/page/page.js", "/v1/models", "/nowhere", "/metrics")
    ]
    answers += [client.get("/v1/models"), client.put("/ping", headers=bearer)]
    answers += [
        client.post("/invocations?model=text", content=b"fail", headers={**bearer, "content-type": "text/plain"})
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200, 401, 405, 500]
    assert {answer.headers.get("x-content-type-options") for answer in answers} == {"nosniff"}
