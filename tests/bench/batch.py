"""Batch transform on this machine against `common.predict`, on the same 2,000 images, in turn.

python -m tests.bench.batch                 LeNet on drawings, and ResNet-18 on photos of 224 × 224
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from tests.bench.serving import photographs
from tests.helpers import ROOT, environment
from tests.serve_helpers import write_artifact

NETWORKS: dict[str, dict[str, Any]] = {
    "LeNet, drawings of 28 × 28": {},
    "ResNet-18, JPEG photos": {"model": "torchvision/resnet18", "size": 224, "channels": 3},
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


def measure(root: Path, network: str, count: int, rounds: int) -> str:
    """A row of the table."""
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
    ratio = median(a / b for a, b in zip(ours, plain, strict=True))
    return f"| {network} | {median(ours):.0f} | {median(plain):.0f} | {ratio:.2f} × | {same} of {count} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| network | batch transform, images/s | common.predict, images/s | ratio | same classes |")
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as root:
            print(measure(Path(root), network, options.count, options.rounds), flush=True)


if __name__ == "__main__":
    main()
