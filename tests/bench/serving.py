"""The server against a bare FastAPI handler and LitServe, and under more load than it can bear.

The model is ResNet-18 at 224 × 224 with weights that were never trained, or --run; the requests are JPEG photographs of
50 kB.
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
from typing import Literal, NamedTuple

import torch

from common.sagemaker.hosting.server import Server
from common.sagemaker.training.processes import free_port
from tests.bench.tools import bench
from tests.helpers import ROOT
from tests.results import Figure, Row, median_of
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


@contextmanager
def model(options: argparse.Namespace) -> Iterator[Path]:
    """The folder of what is served."""
    with tempfile.TemporaryDirectory() as root:
        if options.run:
            yield options.run[0]
        else:
            yield write_artifact(Path(root, "model"), model="torchvision/resnet18", size=224, channels=3)


ALONE = (
    "224 × 224, JPEG of 50 kB, the median of rounds in which each server ran alone, with OpenMP's settings as they "
    "come. LitServe's batches wait 10 ms, and it takes the image as base64 in JSON, as in its own examples."
)


@bench("serving-speed", "Serving", "ResNet-18 in bf16, JPEG in, JSON out", note=ALONE)
def speed(options: argparse.Namespace) -> Iterator[Row]:
    with model(options) as folder:
        yield from servers(folder, options)


@bench(
    "serving-int8",
    "Serving",
    "ResNet-18 in int8, JPEG in, JSON out",
    "--seconds 4 --run EXPORT",
    "The same photos and settings, for all servers the same file: `common.export RUN --to onnx --quantize int8` of a "
    "ResNet-18 after two epochs on birds.",
)
def speed_of_export(options: argparse.Namespace) -> Iterator[Row]:
    if not options.run:
        raise SystemExit("error: serving-int8: --run names no export.")
    yield from servers(options.run[0], options)


def servers(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Each server alone, in turn, several rounds; medians. LitServe only where it is installed."""
    photos, precision = photographs(), options.precision
    servers: dict[str, list[str | Path]] = {"ours": ["common.serve", folder, "--precision", precision]}
    servers["ours, 2 workers"] = [*servers["ours"], "--workers", "2"]
    servers["ours, an endpoint here"] = [ENDPOINT]
    for kind in ("async", "threads"):
        servers[f"bare FastAPI, {kind}"] = [BARE, folder, "--precision", precision, "--handler", kind]
    if find_spec("litserve"):
        for name, batch, processes in (
            ("no batching, 2 processes", 1, 2),
            ("batch 16, 2 processes", 16, 2),
            ("batch 16, 1 process", 16, 1),
        ):
            words = ["--batch", str(batch), "--processes", str(processes), "--precision", precision]
            servers[f"LitServe, {name}"] = [LIT, folder, *words]
    found: dict[tuple[str, int], list[Load]] = {}
    for _ in range(options.rounds):
        for name, command in servers.items():
            with endpoint(folder) if command == [ENDPOINT] else serving(*command) as (port, process):
                bodies, media = ([in_json(p) for p in photos], JSON) if command[0] == LIT else (photos, JPEG)
                expected = answers(port, bodies, media)
                asyncio.run(load(port, bodies, expected, 4, 1.0, media))
                for clients in (1, 16):
                    before = cpu_seconds(process)
                    seen = asyncio.run(load(port, bodies, expected, clients, options.seconds, media))
                    seen = seen._replace(cpu=cpu_seconds(process) - before)
                    found.setdefault((name, clients), []).append(seen)
    for name in servers:
        figures: dict[str, Figure] = {}
        wrong = 0
        for clients, what in ((1, "1 client"), (16, "16 clients")):
            loads = found[name, clients]
            figures[what] = median_of([one.rate for one in loads], "answers/s", 1)
            for share, label in ((0.5, "p50"), (0.99, "p99")):
                figures[f"{what}, {label}"] = median_of([1e3 * one.quantile(share) for one in loads], "ms", 0)
            cpu = [1e3 * one.cpu / max(1, one.statuses[200]) for one in loads]
            figures[f"{what}, CPU an answer"] = median_of(cpu, "ms", 1)
            wrong += sum(one.wrong for one in loads)
        note = f"{wrong} wrong answers" if wrong else ""
        by: Literal["ours", "peer"] = "ours" if name.startswith("ours") else "peer"
        yield Row(name, figures, by, statistic="median", n=options.rounds, note=note)


@bench(
    "serving-bound", "Serving", "What the machine can do at most", note="In batches of 16; the network as it was saved."
)
def bound(options: argparse.Namespace) -> Iterator[Row]:
    """Decoding and the model alone, on one thread and on all."""
    from common import artifact, example
    from common.machine import device
    from common.serve.models import in_precision

    with model(options) as folder:
        saved = artifact.load(folder)
        predictor = example.get(saved.example).load(saved)
    cores = device.set_threads()
    predict, plan = in_precision(predictor, predictor.input.sample(), options.precision)
    photos = photographs()
    items = [predictor.input.decode(photo) for photo in photos * 2]

    def milliseconds(action: Callable[[], object], count: int) -> list[float]:
        action()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            action()
            times.append(1e3 * (time.perf_counter() - began) / count)
        return times

    decoding = milliseconds(lambda: [predictor.input.decode(photo) for photo in photos * 4], 4 * len(photos))
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        batch = milliseconds(lambda: predict(items[:16]), 16)
        most = 1e3 / ((median(decoding) + median(batch) * threads) / cores)
        figures = {
            "decoding a photo": median_of(decoding, "ms", 1),
            "the network": median_of(batch, "ms", 1),
            "at most": Figure(round(most, 1), "photos/s", 0),
        }
        what = f"{plan}, {threads} thread{'s' * (threads > 1)}"
        yield Row(what, figures, statistic="median", n=5, note="one core" if cores == 1 else f"{cores} cores")
    torch.set_num_threads(cores)


@bench("overload", "Serving", "Four times the load that it takes", "--seconds 60")
def overload(options: argparse.Namespace) -> Iterator[Row]:
    bodies = photographs()
    with model(options) as folder:
        words = ["--precision", options.precision, "--max-requests", "32"]
        with serving("common.serve", folder, *words) as (port, process):
            expected = answers(port, bodies)
            asyncio.run(load(port, bodies, expected, 32, 5.0))
            before = resident(process)
            seen = asyncio.run(load(port, bodies, expected, 128, options.seconds))
            alive = Path(f"/proc/{process}").exists()
            after = resident(process) if alive else None
    other = {str(status): n for status, n in seen.statuses.items() if status not in (200, 503)}
    figures = {
        "answers": Figure(seen.statuses[200], "", 0),
        "503": Figure(seen.statuses[503], "", 0),
        "wrong": Figure(seen.wrong, ""),
        "crashes": Figure(int(not alive), ""),
        "memory before": Figure(before, "MB", 0),
        "memory after": Figure(after, "MB", 0),
        "p99": Figure(round(seen.quantile(0.99), 3), "s", 2),
    }
    note = f"{options.seconds:g} s{f'; other statuses: {other}' if other else ''}"
    yield Row("128 clients, 32 requests allowed", figures, n=1, note=note)


def resident(process: int) -> float:
    """Megabytes that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def cpu_seconds(process: int) -> float:
    """Seconds of CPU of a process and of its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)
