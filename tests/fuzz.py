"""Malformed HTTP requests: each is a valid one with something broken."""

from __future__ import annotations

import base64
import json
import random
import socket
from typing import Any

CONTENT_TYPES = (
    "", "application/json", "application/jsonlines", "application/x-jsonlines", "text/csv", "text/plain", "image/png",
    "image/jpeg", "image/*", "application/octet-stream", "application/x-npy", "application/x-image",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/pickle",
    "text/csv; charset=latin-1", "application/json; charset=utf-16", "a", "/", ";;;",
    "application/json;" * 50, "IMAGE/PNG", "image/png\tx", "\x7f\xff",
)  # fmt: skip
ACCEPTS = (
    "*/*", "", "application/json", "application/jsonlines", "text/csv", "image/png", "text/*;q=0.5, */*;q=0", "q=q;q=q",
    "application/json;q=nan", ",,,", "application/json;q=-1", "a" * 2000,
)  # fmt: skip
PATHS = (
    "/invocations", "/invocations?model=", "/invocations?model=../../etc/passwd", "/v1/models/vision.train/predict",
    "/v1/models/model/predict", "/v1/models/%00/predict", "/v1/models/..%2f..%2fetc/predict",
    "/v1/models/{{7*7}}/predict", "/v1/models", "/ping", "/metrics", "/openapi.json",
    "/" + "a" * 3000, "/v1/models/\xff", "*", "",
)  # fmt: skip
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)  # one pixel
HUGE_PNG = PNG[:16] + b"\xff\xff\xff\xff\xff\xff\xff\xff" + PNG[24:]
NPY = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(118) + b"\x80\x04."
HUGE_NPY = (
    b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % 10**12 + b" " * 60
)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 7, 2**70, "", "a", "7", [], {}, [[]], [{}], [None], {"instances": []}, {"instances": 3},
    {"instances": [1, "a", None, {}]}, {"inputs": None}, {"inputs": [[[[1]]]]}, {"inputs": 1, "instances": 2}, "\ud800",
    {"b64": "!"}, {"b64": base64.b64encode(PNG).decode()}, {"text": 3}, {"seed": -1}, {"seed": 1.5}, {"latent": [1]},
    {"path": "/etc/passwd"}, "/etc/passwd", "data:image/png;base64,", "data:", {"a": {"b": {"c": []}}}, [float("nan")],
    [1] * 5000, "\x00", "9" * 5000, {"__class__": "os.system"}, "{{7*7}}", "${jndi:ldap://x}",
)  # fmt: skip
TEXTS = (
    b"", b"\n", b"\x00", b"\xff\xfe\xfd", b"a,b,c\n1,2\n", b'"', b'"a\nb', b"1," * 5000, b"nan,inf,-inf", b"," * 100,
    b"[" * 100_000, b'{"a":' * 50_000, b"1" * 6000, b'{"inputs":', b"NaN", b"\xef\xbb\xbf", b"7\n\n8\n",
    b"a" * 200_000,
    b'{"seed": 1e400}', PNG, PNG[:30], HUGE_PNG, NPY, NPY[:11], HUGE_NPY, b"GIF89a\xff\xff",
    b"\xff\xd8\xff\xe0",
    b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, b"\x80\x04\x95cos\nsystem\n", b"%!PS-Adobe-3.0 EPSF-3.0\n",
)  # fmt: skip


def body(dice: random.Random) -> bytes:
    """A body that is wrong for most models, sometimes right, and often damaged by a few bytes."""
    content = dice.choice(TEXTS) if dice.random() < 0.5 else json.dumps(dice.choice(VALUES)).encode()
    damaged = bytearray(content)
    for _ in range(dice.choice((0, 0, 1, 3))):
        if damaged:
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    return bytes(damaged)[: dice.choice((None, None, None, 10))]


def malformed(dice: random.Random, host: str) -> tuple[bytes, bool]:
    """One request as bytes, in HTTP/1.1 or nearly; and whether it is whole, so that an answer must come."""
    content = body(dice)
    broken = dice.random() < 0.25  # otherwise HTTP is kept to, and what it carries is wrong
    method = dice.choice(("GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PO ST", "POST")) if broken else "POST"
    path = dice.choice(PATHS) if broken else PATHS[0]
    lines = [
        f"{method} {path} HTTP/{dice.choice(('1.1', '1.1', '1.0', '9.9')) if broken else '1.1'}",
        f"Host: {host}",
        "Connection: close",
        f"Content-Type: {dice.choice(CONTENT_TYPES)}",
        f"Accept: {dice.choice(ACCEPTS) if dice.random() < 0.2 else '*/*'}",
    ]
    missing = dice.choice((0, 0, 0, 7)) if broken else 0
    if dice.random() < 0.1:
        content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content) + missing, content)
        lines.append("Transfer-Encoding: chunked")
    else:
        length: Any = dice.choice((len(content) + missing, -1, 10**12, "x", "1_0", "")) if broken else len(content)
        lines.append(f"Content-Length: {length}")
    if broken:
        lines.append(
            dice.choice(("Content-Encoding: gzip", "X: " + "y" * 70_000, "broken", ": z", "Accept: x", "E: \x00"))
        )
    if dice.random() < 0.05:
        lines.append("X-Amzn-SageMaker-Target-Model: " + dice.choice(("../model", "vision.train", "\xe9")))
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + content, not missing


def send(host: str, port: int, request: tuple[bytes, bool], seconds: float = 20.0) -> int:
    """The status that a request gets; 0 where the connection was closed without one.

    Raises:
        TimeoutError: there is no answer to a whole request.
    """
    content, whole = request
    try:
        with socket.create_connection((host, port), timeout=seconds) as client:
            client.sendall(content)
            answer = client.recv(4096) if whole else b""
    except (ConnectionError, BrokenPipeError):  # cut off, as is the server's right with what is no HTTP
        return 0
    return int(answer.split(b" ", 2)[1]) if answer else 0
