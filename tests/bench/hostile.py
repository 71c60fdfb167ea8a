"""Hostile requests to both servers, as processes: what counts is a 5xx other than 503, a hang, growing memory."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from tests.bench.serving import endpoint, resident, serving
from tests.bench.tools import row
from tests.fuzz import ATTACKS, malformed, send
from tests.serve_helpers import write_artifact

CLIENTS = 4
WARM_UP = 500  # requests before memory counts: what is loaded when it is first needed is no growth


def hostile(count: int = 20_000, runs: Sequence[Path] = ()) -> None:
    """A row for each server.

    Args:
        count: requests to each.
        runs: that ours serves instead of a toy for each kind of input; the container serves the first.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = runs[0] if runs else write_artifact(Path(root, "model"))
        ours = serving("common.serve", *runs) if runs else serving("tests.toy_server")
        _attack("ours", ours, count)
        _attack("the container's", endpoint(folder), count)


def _attack(name: str, server: AbstractContextManager[tuple[int, int]], count: int) -> None:
    with server as (port, process), ThreadPoolExecutor(CLIENTS) as clients:
        warm = _statuses(clients, port, WARM_UP, seed=1)
        before, began = resident(process), time.perf_counter()
        seen = _statuses(clients, port, count, seed=0)
        seconds, alive = time.perf_counter() - began, Path(f"/proc/{process}").exists()
        growth = resident(process) - before if alive else float("nan")
    bad = sum(n for status, n in (seen + warm).items() if status >= 500 and status != 503)
    value = f"{bad} times 5xx other than 503, {(seen + warm)[-1]} hangs, memory {before:.0f} MB {growth:+.0f} MB"
    answers = ", ".join(f"{status}: {n}" for status, n in sorted(seen.items()))
    row(
        f"{count:,} hostile requests, {name}",
        f"{value}{'' if alive else ', the server died'} ({seconds:.0f} s; 0 is closed without an answer: {answers})",
        "python -m tests.bench hostile",
    )


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
