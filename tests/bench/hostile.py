"""Hostile requests to both servers, as processes: what counts is a 5xx other than 503, a hang, growing memory."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from tests.bench.serving import endpoint, resident, serving
from tests.bench.tools import bench
from tests.fuzz import ATTACKS, malformed, send
from tests.results import Figure, Row
from tests.serve_helpers import write_artifact

CLIENTS = 4
WARM_UP = 500  # requests before memory counts: what is loaded when it is first needed is no growth


@bench("hostile", "Serving", "Hostile requests")
def hostile(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each server: ours with a toy of each kind of input, or with --run; the container's with one model."""
    runs: list[Path] = options.run
    with tempfile.TemporaryDirectory() as root:
        folder = runs[0] if runs else write_artifact(Path(root, "model"))
        ours = serving("common.serve", *runs) if runs else serving("tests.toy_server")
        yield _attack("ours", ours, options.requests, "" if runs else "a model of each kind of input")
        yield _attack("the container's", endpoint(folder), options.requests)


def _attack(name: str, server: AbstractContextManager[tuple[int, int]], count: int, note: str = "") -> Row:
    with server as (port, process), ThreadPoolExecutor(CLIENTS) as clients:
        warm = _statuses(clients, port, WARM_UP, seed=1)
        before, began = resident(process), time.perf_counter()
        seen = _statuses(clients, port, count, seed=0)
        seconds, alive = time.perf_counter() - began, Path(f"/proc/{process}").exists()
        after = resident(process) if alive else None
    bad = sum(n for status, n in (seen + warm).items() if status >= 500 and status != 503)
    figures = {
        "5xx but 503": Figure(bad, ""),
        "hangs": Figure((seen + warm)[-1], ""),
        "memory before": Figure(before, "MB", 0),
        "memory after": Figure(after, "MB", 0),
    }
    answers = ", ".join(f"{status}: {n}" for status, n in sorted(seen.items()))
    told = [note, "" if alive else "the server died", f"{seconds:.0f} s; 0 is closed without an answer: {answers}"]
    return Row(name, figures, statistic="count", n=count, note="; ".join(filter(None, told)))


def _statuses(clients: ThreadPoolExecutor, port: int, count: int, seed: int) -> Counter[int]:
    host = f"127.0.0.1:{port}"

    def ask(number: int) -> int:
        if number < len(ATTACKS):
            content, whole = ATTACKS[number]
            request = content.replace(b"HOST", host.encode()), whole
        else:
            request = malformed(random.Random(f"{seed} {number}"), host)
        try:
            status = send("127.0.0.1", port, request)
        except TimeoutError:
            status = -1
        if status < 0 or (status >= 500 and status != 503):
            print(number, status, request[0][:300], flush=True)
        return status

    return Counter(clients.map(ask, range(count)))
