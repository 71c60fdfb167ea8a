"""Hostile HTTP requests: valid ones with something broken, and the attacks that servers are known to fall for."""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import time
import zlib
from functools import cache
from typing import Any

CONTENT_TYPES = (
    "", "application/json", "application/jsonlines", "application/x-jsonlines", "text/csv", "text/plain", "image/png",
    "image/jpeg", "image/*", "application/octet-stream", "application/x-npy", "application/x-image",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/pickle",
    "text/csv; charset=latin-1", "application/json; charset=utf-16", "a", "/", ";;;",
    "application/json;" * 50, "IMAGE/PNG", "image/png\tx", "\x7f\xff",
)  # fmt: skip
USUAL_TYPES = (
    "",
    "application/json",
    "application/jsonlines",
    "text/csv",
    "text/plain",
    "image/png",
    "application/x-npy",
)
ACCEPTS = (
    "*/*", "", "application/json", "application/jsonlines", "text/csv", "image/png", "text/*;q=0.5, */*;q=0", "q=q;q=q",
    "application/json;q=nan", ",,,", "application/json;q=-1", "a" * 2000,
)  # fmt: skip
KINDS = ("image", "text", "row", "seed", "observation")  # names of the models of tests/toy_server.py
PATHS = (
    "/invocations", "/invocations?model=", "/invocations?model=../../etc/passwd", "/v1/models/vision.train/predict",
    "/v1/models/model/predict", "/v1/models/%00/predict", "/v1/models/..%2f..%2fetc/predict",
    "/v1/models/{{7*7}}/predict", "/v1/models", "/ping", "/metrics", "/openapi.json", "/page/..%2f..%2fapp.py",
    "/page/%2e%2e/%2e%2e/app.py", "//etc/passwd", "/./ping", "/v1/models/model/report", "/v1/models/model/latents/-1",
    "/v1/models/seed/latents/" + "9" * 5000, "/v1/models/model/games", "/v1/models/model/games/x",
    "/v1/models/model/explain?class=%ff", "http://elsewhere/ping", "/ping#x", "/ping%0d%0aX:%20y",
    "/" + "a" * 3000, "/v1/models/\xff", "*", "",
    *(f"/v1/models/{kind}/explain" for kind in ("image", "text")),
)  # fmt: skip
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)  # one pixel
HUGE_PNG = PNG[:16] + b"\xff\xff\xff\xff\xff\xff\xff\xff" + PNG[24:]
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 7, 2**70, "", "a", "7", [], {}, [[]], [{}], [None], {"instances": []}, {"instances": 3},
    {"instances": [1, "a", None, {}]}, {"inputs": None}, {"inputs": [[[[1]]]]}, {"inputs": 1, "instances": 2}, "\ud800",
    {"b64": "!"}, {"b64": base64.b64encode(PNG).decode()}, {"text": 3}, {"seed": -1}, {"seed": 1.5}, {"latent": [1]},
    {"path": "/etc/passwd"}, "/etc/passwd", "data:image/png;base64,", "data:", {"a": {"b": {"c": []}}}, [float("nan")],
    [1] * 5000, "\x00", "9" * 5000, {"__class__": "os.system"}, "{{7*7}}", "${jndi:ldap://x}",
    [float("inf"), 1], [1, 2], [[1, 2]] * 100, ["a good film"] * 100, [7] * 30, {"latent": [1e300] * 3}, [2**70, 1],
    "1" * 140_000, "a," * 70_000, {"k" * 300_000: 1}, {"seed": 7, "class": "c" * 300_000}, [[1, 2]] * 2000, [[[1]]] * 5,
)  # fmt: skip


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with any header."""
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + header.encode("latin-1") + data


def array(descr: str, shape: str, fortran: str = "False") -> bytes:
    """A .npy file of zeros that says what it wants of itself."""
    return npy(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n", bytes(64))


NPY = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(118), b"\x80\x04.")
NPYS = (
    NPY, NPY[:11], array("'<f8'", "(2, 2)"), array("'<f8'", "(2, 2)", "True"), array("'>f2'", "(4,)"),
    array("'<f8'", f"({10**12},)"), array("'<f8'", f"({2**70},)"), array("'<f8'", "(-1,)"), array("'<f8'", "(0, 7)"),
    array("'<f8'", "(1.5,)"), array("'<f8'", "7"), array("'<f8'", "None"), array("'<f8'", "(2, 2)", "'x'"),
    array("'|O'", "(2, 2)"), array("'<M8[s]'", "(2, 2)"), array("'|V8'", "(2, 2)"), array("'<U4'", "(2, 2)"),
    array("'|b1'", "(2, 2)"), array("'<c8'", "(2, 2)"), array("[('a', '<f4')]", "(2, 2)"), array("'zzz'", "(1,)"),
    array("'|S2000000000'", "(1,)"), array("None", "(1,)"), array("[]", "(1,)"), array("'<f8'", "(1,)" * 400),
    npy("{"), npy("("), npy("[" * 3000), npy("-" * 5000), npy("1" * 5000), npy("{" * 300 + "}" * 300), npy("\x00\xff"),
    npy("'a' % 7"), npy("__import__('os')"), npy("{'descr': '<f8'}"), npy("{1: 2}"), npy("", version=b"\x02\x00"),
    npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 2L), }\n", bytes(32)), npy("{}", version=b"\x07\x07"),
    b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 99, b"\x93NUMPY",
    npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }\n", b"\xff" * 32),  # NaN
)  # fmt: skip
TEXTS = (
    b"", b"\n", b"\x00", b"\xff\xfe\xfd", b"a,b,c\n1,2\n", b'"', b'"a\nb', b"1," * 5000, b"nan,inf,-inf", b"," * 100,
    b"[" * 100_000, b'{"a":' * 50_000, b"1" * 6000, b'{"inputs":', b"NaN", b"\xef\xbb\xbf", b"7\n\n8\n",
    b"a" * 200_000, b'{"seed": 1e400}', PNG, PNG[:30], HUGE_PNG, b"GIF89a\xff\xff", b"\xff\xd8\xff\xe0",
    b"\x80\x04\x95cos\nsystem\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"Infinity", b"[NaN, -Infinity]", b'["\xff\xc0\x80"]',
    b"[" + b"9" * 1_000_000 + b"]", b"-" + b"1" * 5000, b"1e" + b"9" * 5000, b"1\n" * 3000, b"[1,2]\n" * 3000,
    b"[" + b"[1,2]," * 100_000 + b"[1,2]]", b'"a"\n' * 100_000, b"1,2\n" * 2000, b"[[" * 400 + b"]]" * 400,
    b"[1, [2, [3]]]", b'{"\\ud800": "\\udfff"}', b"\x1f\x8b\x08\x00" + b"\x00" * 50, b"--x\r\nContent-Dispo",
    zlib.compress(b"a" * 10_000), b'{"instances": [' + b"7," * 5000 + b"7]}", b"\x00" * 1000, b"\r\r\n\r" * 99,
)  # fmt: skip


@cache
def bombs() -> tuple[bytes, ...]:
    """Image files of few bytes and 16 million pixels: grey of 16 bits, transparent, and a JPEG of a hundred scans."""
    import io

    from PIL import Image

    files = []
    for mode, form in (("I;16", "PNG"), ("RGBA", "PNG"), ("L", "JPEG")):
        file = io.BytesIO()
        Image.new(mode, (4000, 4000)).save(file, form, **({"progressive": True} if form == "JPEG" else {}))
        files.append(file.getvalue())
    last = files[-1].rindex(b"\xff\xda")
    return *files, files[-1][:-2] + files[-1][last:-2] * 100 + b"\xff\xd9"


def body(dice: random.Random) -> bytes:
    """A body that is wrong for most models, sometimes right, and often damaged by a few bytes."""
    kind = dice.random()
    if kind < 0.001:  # each costs half a second
        content = dice.choice(bombs())
    elif kind < 0.2:
        content = dice.choice(NPYS)
    else:
        content = dice.choice(TEXTS) if kind < 0.6 else json.dumps(dice.choice(VALUES)).encode()
    damaged = bytearray(content)
    for _ in range(dice.choice((0, 0, 1, 3))):
        if damaged:
            damaged[dice.randrange(min(200, len(damaged)))] = dice.randrange(256)
    return bytes(damaged)[: dice.choice((None, None, None, 10))]


def malformed(dice: random.Random, host: str) -> tuple[bytes, bool]:
    """One request as bytes, in HTTP/1.1 or nearly; and whether it is whole, so that an answer must come."""
    if dice.random() < 0.15:
        content, whole = dice.choice(ATTACKS)
        return content.replace(b"HOST", host.encode()), whole
    content = body(dice)
    broken = dice.random() < 0.25  # otherwise HTTP is kept to, and what it carries is wrong
    method = dice.choice(("GET", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "PO ST", "POST")) if broken else "POST"
    path = dice.choice(PATHS) if broken else dice.choice((PATHS[0], f"/v1/models/{dice.choice(KINDS)}/predict"))
    lines = [
        f"{method} {path} HTTP/{dice.choice(('1.1', '1.1', '1.0', '9.9')) if broken else '1.1'}",
        f"Host: {host}",
        "Connection: close",
        f"Content-Type: {dice.choice(CONTENT_TYPES if dice.random() < 0.3 else USUAL_TYPES)}",
        f"Accept: {dice.choice(ACCEPTS) if dice.random() < 0.2 else '*/*'}",
    ]
    missing = dice.choice((0, 0, 0, 7)) if broken else 0
    if dice.random() < 0.1:
        content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content) + missing, content)
        lines.append("Transfer-Encoding: chunked")
    else:
        length: Any = dice.choice((len(content) + missing, -1, 10**12, "x", "1_0", "")) if broken else len(content)
        lines.append(f"Content-Length: {length}")
        missing = missing or (length == 10**12)
    if broken:
        lines.append(dice.choice((
            "Content-Encoding: gzip", "X: " + "y" * 70_000, "broken", ": z", "Accept: x", "E: \x00",
            "Origin: http://elsewhere", "Origin: null", "Sec-Fetch-Site: cross-site", "Expect: 100-continue",
            "Expect: x", "Upgrade: websocket\r\nConnection: upgrade", "Content-Length: 3", " folded",
        )))  # fmt: skip
    if dice.random() < 0.05:
        lines.append("X-Amzn-SageMaker-Target-Model: " + dice.choice(("../model", "vision.train", "\xe9", *KINDS)))
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + content, not missing


def _attacks() -> list[tuple[bytes, bool]]:
    """Whole requests, as far as a server can tell, and torsos of which it must not wait for the rest."""
    host, post = b"Host: HOST\r\n", b"POST /invocations HTTP/1.1\r\nHost: HOST\r\n"
    chunked, end = b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"
    get = b"GET /ping HTTP/1.1\r\n" + host
    lengths = (b"-1", b"+3", b"3, 3", b"3, 4", b"0x3", b"3.0", b"1" * 30, b"9" * 5000, b"\xb2", b" ", b"3 3")
    sizes = (b"-1", b"+3", b"0x3", b"g", b"f" * 20, b"f" * 30, b" 3", b"3 ", b"", b"3;" + b"x" * 200, b"3\n", b"\x00")
    whole = [
        *(post + end + b"Content-Length: " + length + b"\r\n\r\nabc" for length in lengths if length != b"1" * 30),
        *(post + end + chunked + b"\r\n" + size + b"\r\nabc\r\n0\r\n\r\n" for size in sizes if b"f" not in size),
        post + b"Content-Length: 3\r\nContent-Length: 4\r\n" + end + b"\r\nabcd",
        post + b"Content-Length: 3\r\nContent-Length: 3\r\n" + end + b"\r\nabc",
        post + b"Content-Length: 3\r\n" + chunked + end + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        post + b"Transfer-Encoding: chunked, gzip\r\n" + end + b"\r\n0\r\n\r\n",
        post + b"Transfer-Encoding: xchunked\r\n" + end + b"\r\n0\r\n\r\n",
        post + chunked + end + b"\r\n" + b"1\r\na\r\n" * 5000 + b"0\r\n\r\n",  # a byte at a time
        post + chunked + end + b"\r\n0\r\n" + b"T: x\r\n" * 500 + b"\r\n",  # trailers
        post + end + b"Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + zlib.compress(b"[1]")[:12].ljust(12),
        get + end + b"".join(b"X-%d: y\r\n" % number for number in range(10_000)) + b"\r\n",
        get + end + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        get + end + b"Cookie: " + b"a=b; " * 2000 + b"\r\n\r\n",
        get + host + end + b"\r\n",  # two hosts
        b"GET /ping HTTP/1.1\r\n" + end + b"\r\n",  # none
        b"GET /ping HTTP/1.1\r\nHost: elsewhere\r\n" + end + b"\r\n",
        b"GET /ping HTTP/1.1\r\nHost: " + b"a" * 9000 + b"\r\n" + end + b"\r\n",
        b"GET /ping HTTP/1.0\r\n\r\n", b"GET /ping HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        b"POST /invocations HTTP/1.0\r\n" + host + b"Content-Length: 3\r\n\r\nabc",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + host + end + b"\r\n",
        b"GET /../../../../etc/passwd HTTP/1.1\r\n" + host + end + b"\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\n" + host + end + b"\r\n",
        *(method + b" /invocations HTTP/1.1\r\n" + host + end + b"\r\n"
          for method in (b"HEAD", b"OPTIONS", b"TRACE", b"PATCH", b"get", b"POST" * 999)),
        get + b"\r\n" + (get + b"\r\n") * 50 + get + end + b"\r\n",  # one after the other, unasked
        post + b"Content-Length: 3\r\n\r\nabc" + get + end + b"\r\n",
        post + b"Content-Length: 0\r\n\r\n\r\n\r\n\r\n" + get + end + b"\r\n",
        get + end + b"Content-Length: 5\r\n\r\nhello",
        get + chunked + end + b"\r\nzz\r\n",
        get + end + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2 + b"\r\n\r\n",  # TLS
        b"GET /ping\r\n\r\n", b"GET\r\n\r\n", b"GET  /ping HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/1.1\nHost: HOST\nConnection: close\n\n",
        get.replace(b"Host", b"Host ") + b"\r\n", get + b" folded: x\r\n\tmore\r\n" + end + b"\r\n",
        get + b"X\x00Y: z\r\n" + end + b"\r\n", get + b"X: \rz\r\n" + end + b"\r\n", b"A" * 300_000 + b"\r\n\r\n",
    ]  # fmt: skip
    torsos = [
        post, get, b"GET /ping HT", b"P", b"", get + b"X: " + b"y" * 100_000, b"A" * 100_000,
        post + b"Content-Length: 100\r\n\r\nabc", post + b"Content-Length: " + b"1" * 30 + b"\r\n\r\nabc",
        post + chunked + b"\r\n", post + chunked + b"\r\n5\r\nab", post + chunked + b"\r\n5;" + b"x" * 100_000,
        post + chunked + b"\r\n" + b"f" * 20 + b"\r\nabc", post + chunked + b"\r\n0\r\nT: " + b"x" * 100_000,
        post + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99999\r\n\r\n--x\r\n" * 3,
        post + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n", post + b"Content-Length: 999999999999\r\n\r\nabc",
        get + b"\r\n" + b"GET /openapi.json HTTP/1.1\r\nHost: HOST\r\n\r\n" * 300,  # and the answers are not read
    ]  # fmt: skip
    return [*((request, True) for request in whole), *((request, False) for request in torsos)]


ATTACKS = _attacks()


def send(host: str, port: int, request: tuple[bytes, bool], seconds: float = 20.0) -> int:
    """The highest status among the answers to what is sent; 0 where the connection was closed without one.

    Raises:
        TimeoutError: a whole request got no answer, or the connection stays open.
    """
    content, whole = request
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=seconds) as client:
            client.sendall(content)
            until = time.monotonic() + seconds
            while whole and (piece := client.recv(2**16)):
                answer += piece
                if time.monotonic() > until:
                    raise TimeoutError
    except (ConnectionError, BrokenPipeError):  # cut off, as is the server's right with what is no HTTP
        pass
    return max(map(int, re.findall(rb"(?:^|\r\n\r\n|[}\"])HTTP/1\.1 (\d{3}) ", answer)), default=0)
