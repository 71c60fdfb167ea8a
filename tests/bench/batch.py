"""Batch transform on this machine against `common.predict`, on the same images, in turn."""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.bench.serving import photographs
from tests.bench.tools import bench
from tests.helpers import ROOT, environment
from tests.results import Row, median_of
from tests.serve_helpers import write_artifact

NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet-18, JPEG photos": {"model": "torchvision/resnet18", "size": 224, "channels": 3},
    "LeNet, drawings of 28 × 28": {},
}


def drawings(count: int) -> list[bytes]:
    """PNG files of 28 × 28 random pixels."""
    dice, files = random.Random(0), []
    for _ in range(count):
        file = io.BytesIO()
        Image.frombytes("L", (28, 28), dice.randbytes(784)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def seconds(*command: str | Path) -> float:
    """Of a whole command: start, loading, predicting, writing."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment(), check=True, capture_output=True)
    return time.perf_counter() - began


def rows(file: Path) -> list[str]:
    """The class of each file, in the order of their names."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["class"] for row in sorted(found, key=lambda row: str(row["file"]))]


def measure(root: Path, network: str, count: int, rounds: int) -> Iterator[Row]:
    """Ours, and `common.predict`."""
    model, folder = root / "model", root / "images"
    write_artifact(model, **NETWORKS[network])
    folder.mkdir()
    photos = "JPEG" in network
    for number, body in enumerate(photographs(count) if photos else drawings(count)):
        (folder / f"{number:05}.{'jpg' if photos else 'png'}").write_bytes(body)
    ours, plain = [], []
    for turn in range(rounds):
        out, table = root / f"out{turn}", root / f"predictions{turn}.jsonl"
        plain.append(count / seconds("-m", "common.predict", model, folder, "--out", table))
        ours.append(count / seconds("sagemaker/batch_transform.py", model, folder, "--out", out))
        (found,) = out.glob("sagemaker/*/predictions.jsonl")
        same = sum(a == b for a, b in zip(rows(table), rows(found), strict=True))
    note = f"{same} of {count} classes are the same"
    figures = {
        "images/s": median_of(ours, "", 0),
        "of common.predict": median_of([a / b for a, b in zip(ours, plain, strict=True)], "×", 2),
    }
    yield Row(network, figures, statistic="median", n=rounds, note=note)
    figures = {"images/s": median_of(plain, "", 0)}
    yield Row(f"{network}, common.predict", figures, "peer", statistic="median", n=rounds)


@bench(
    "batch",
    "SageMaker",
    "Batch transform against common.predict",
    note="2,000 files. The server computes in bf16, common.predict in fp32. With LeNet most of the time is the start "
    "of a server.",
)
def batch(options: argparse.Namespace) -> Iterator[Row]:
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as root:
            yield from measure(Path(root), network, options.files, options.rounds)
