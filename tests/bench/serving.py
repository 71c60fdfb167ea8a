"""The server against a bare FastAPI handler and LitServe, and under more load than it can bear.

  python -m tests.bench.serving speed            requests/s and latency with 1 and 16 clients, ours and the peers
  python -m tests.bench.serving bound            what this machine can do at most: decoding and the model alone
  python -m tests.bench.serving load --seconds 60    four times the capacity: wrong answers, memory, 503s
  python -m tests.bench.serving fuzz --count 20000   hostile requests to both servers: 5xx, hangs, memory

The model is ResNet-18 at 224 × 224 with weights that were never trained; the requests are JPEG photographs of 50 kB.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from common.sagemaker.hosting.server import Server
from common.sagemaker.training.processes import free_port
from tests.helpers import ROOT
from tests.serve_helpers import write_artifact

BARE, LIT = "tests.bench.bare_server", "tests.bench.lit_server"
ENDPOINT = "sagemaker/serve"
JPEG = "image/jpeg"
JSON = "application/json"


class Load(NamedTuple):
    """What clients saw. Latencies are in seconds and of answers with status 200."""

    seconds: float
    statuses: Counter[int]
    wrong: int
    latencies: list[float]
    cpu: float = 0.0  # seconds of the server; what other work on the machine changes least

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def photographs(count: int = 8) -> list[bytes]:
    """JPEG files of 500 × 375 pixels and about 50 kB."""
    import numpy as np
    from PIL import Image

    files = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


@contextmanager
def serving(*command: str | Path) -> Iterator[tuple[int, int]]:
    """Runs `python -m COMMAND --port P` until the block ends; yields the port and the process id once it answers."""
    port = free_port()
    arguments = [sys.executable, "-m", *map(str, command), "--port", str(port)]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves workers behind, and they keep a core busy


@contextmanager
def endpoint(folder: Path) -> Iterator[tuple[int, int]]:
    """The same of `sagemaker/serve`, as an endpoint of this machine starts it."""
    with Server(folder) as server:
        yield server.port, server.pid


async def load(
    port: int, bodies: Sequence[bytes], expected: Sequence[str], clients: int, seconds: float, media: str = JPEG
) -> Load:
    """Closed-loop clients, each with its own connection; a 503 is tried again after 10 ms."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    wrong = 0
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal wrong
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            number = (number + 1) % len(bodies)
            began = time.perf_counter()
            head = (
                f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n"
                f"Content-Length: {len(bodies[number])}\r\n\r\n"
            )
            writer.write(head.encode() + bodies[number])
            status, body = await read_answer(reader)
            statuses[status] += 1
            if status == 200:
                latencies.append(time.perf_counter() - began)
                wrong += json.loads(body)["class"] != expected[number]
            else:
                await asyncio.sleep(0.01)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(time.perf_counter() - began, statuses, wrong, latencies)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


def in_json(body: bytes) -> bytes:
    """A file as LitServe's own examples send one."""
    return json.dumps({"image": base64.b64encode(body).decode()}).encode()


def answers(port: int, bodies: Sequence[bytes], media: str = JPEG) -> list[str]:
    """The class of each body, asked one after the other."""
    classes = []
    for body in bodies:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": media})
        with urllib.request.urlopen(request, timeout=60) as answer:
            classes.append(json.loads(answer.read())["class"])
    return classes


def speed(folder: Path, seconds: float, precision: str, rounds: int = 3) -> None:
    """Each server alone, in turn, several rounds; medians. LitServe only where it is installed."""
    photos = photographs()
    servers: dict[str, list[str | Path]] = {"ours": ["common.serve", folder, "--precision", precision]}
    servers["ours, 2 workers"] = [*servers["ours"], "--workers", "2"]
    servers["ours, an endpoint here"] = [ENDPOINT]
    for kind in ("async", "threads"):
        servers[f"bare FastAPI, {kind}"] = [BARE, folder, "--precision", precision, "--handler", kind]
    if find_spec("litserve"):
        for batch, processes in ((16, 1), (16, 2), (1, 2)):
            words = ["--batch", str(batch), "--processes", str(processes), "--precision", precision]
            servers[f"LitServe, batch {batch}, {processes} process(es)"] = [LIT, folder, *words]
    found: dict[tuple[str, int], list[Load]] = {}
    for _ in range(rounds):
        for name, command in servers.items():
            with endpoint(folder) if command == [ENDPOINT] else serving(*command) as (port, process):
                bodies, media = ([in_json(p) for p in photos], JSON) if command[0] == LIT else (photos, JPEG)
                expected = answers(port, bodies, media)
                asyncio.run(load(port, bodies, expected, 4, 1.0, media))
                for clients in (1, 16):
                    before = cpu_seconds(process)
                    seen = asyncio.run(load(port, bodies, expected, clients, seconds, media))
                    seen = seen._replace(cpu=cpu_seconds(process) - before)
                    found.setdefault((name, clients), []).append(seen)
    print("| server | clients | answers/s (each round) | p50 ms | p99 ms | CPU ms an answer | wrong |")
    for (name, clients), loads in found.items():
        rate, p50, p99 = (median(f(one) for one in loads) for f in (lambda s: s.rate, _p50, _p99))
        wrong = sum(one.wrong for one in loads)
        cpu = 1e3 * median(one.cpu / max(1, one.statuses[200]) for one in loads)
        rates = ", ".join(f"{one.rate:.1f}" for one in loads)
        print(
            f"| {precision}, {name} | {clients} | {rate:.1f} ({rates}) | {1e3 * p50:.1f} | {1e3 * p99:.1f} "
            f"| {cpu:.1f} | {wrong} |"
        )


def bound(folder: Path, precision: str, rounds: int = 5) -> None:
    """Milliseconds for one photo: decoding, the model alone, the model in batches of 16; on one core and on all."""
    from common import artifact, example
    from common.machine import device
    from common.serve.models import in_precision

    saved = artifact.load(folder)
    predictor = example.get(saved.example).load(saved)
    cores = device.set_threads()
    predict, plan = in_precision(predictor, predictor.input.sample(), precision)
    photos = photographs()
    items = [predictor.input.decode(photo) for photo in photos * 2]

    def milliseconds(action: Callable[[], object], count: int) -> float:
        action()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            action()
            times.append(1e3 * (time.perf_counter() - began) / count)
        return median(times)

    decoding = milliseconds(lambda: [predictor.input.decode(photo) for photo in photos * 4], 4 * len(photos))
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        one, batch = (milliseconds(lambda n=n: predict(items[:n]), n) for n in (1, 16))  # type: ignore[misc]
        print(f"{plan}, {threads} thread(s): decoding {decoding:.2f} ms, model {one:.2f} ms, of 16 {batch:.2f} ms each")
        print(f"  at most {1e3 / ((decoding + batch * threads) / cores):.0f} photos/s on {cores} cores")


def _p50(seen: Load) -> float:
    return seen.quantile(0.5)


def _p99(seen: Load) -> float:
    return seen.quantile(0.99)


def overload(folder: Path, seconds: float, precision: str) -> None:
    """Four times as many clients as the server holds requests."""
    bodies = photographs()
    with serving("common.serve", folder, "--precision", precision, "--max-requests", "32") as (port, process):
        expected = answers(port, bodies)
        asyncio.run(load(port, bodies, expected, 32, 5.0))
        before = resident(process)
        seen = asyncio.run(load(port, bodies, expected, 128, seconds))
        after = resident(process)
    print(f"{seconds:g} s, 128 clients: {dict(seen.statuses)}, {seen.rate:.1f} answers/s, {seen.wrong} wrong,"
          f" memory {before:.0f} -> {after:.0f} MB, p99 {seen.quantile(0.99):.2f} s")  # fmt: skip


def resident(process: int) -> float:
    """Megabytes that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def cpu_seconds(process: int) -> float:
    """Seconds of CPU of a process and of its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "bound", "load", "fuzz"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--run", action="append", type=Path, default=[], help="this instead of ResNet-18; fuzz takes several"
    )
    options: Any = parser.parse_args()
    from tests.bench.hostile import hostile  # here: it uses this module

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "model")
        if options.run:
            folder = options.run[0]
        else:
            write_artifact(folder, model="torchvision/resnet18", size=224, channels=3)
        if options.what == "speed":
            speed(folder, options.seconds, options.precision, options.rounds)
        elif options.what == "bound":
            bound(folder, options.precision)
        elif options.what == "load":
            overload(folder, options.seconds, options.precision)
        else:
            hostile(options.count, options.run)


if __name__ == "__main__":
    main()
