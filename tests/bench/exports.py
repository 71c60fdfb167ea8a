"""What int8 costs and gains: the table of docs/export.md.

python -m tests.bench.exports --data FOLDER            trains an MNIST ResNet and a text Transformer first
python -m tests.bench.exports RUN [RUN...]             takes runs that are there
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from common import artifact, example
from common.errors import UserError
from common.export import compare
from common.export.capture import Watched
from common.export.export import export
from common.machine import device

FORMATS = ("onnx", "aoti")
COLUMNS = (
    "run", "export", "metric (fp32)", "points lost", "size", "ms, 1 sample: run, fp32, int8", "faster than run, fp32",
    "ms, 32 samples: run, fp32, int8", "faster than run, fp32",
)  # fmt: skip


def train(data: Path, out: str) -> list[Path]:
    from tests.helpers import only_run, python

    trainings: dict[str, list[str | Path]] = {
        "vision.train": ["--data", "mnist", "--data-dir", data / "mnist", "--model", "resnet", "--epochs", "2"],
        "nlp.classify": ["--data", "rotten-tomatoes", "--data-dir", data, "--model", "transformer"],
    }
    for name, arguments in trainings.items():
        python("-m", name, *arguments, "--quiet", "--out", out, timeout=7200).check_returncode()
    return [only_run(Path(out), name) for name in trainings]


def measure(run: Path, format: str) -> list[str]:
    """A row: int8 beside fp32 in the same format, and beside the run's own network; the three take turns."""
    fp32, _ = export(run, format, "none", None)
    int8, row = export(run, format, "int8", None)
    watched = Watched.of(artifact.load(run))
    declared = example.get(watched.example)
    with watched.noting() as calls:
        declared.evaluate(watched, declared.config().with_values(watched.config))
    saved = [artifact.load(folder) for folder in (fp32, int8)]
    programs = [compare.nn_program(exported) for exported in saved]
    times = compare.latencies((watched.network(), *programs), calls[0].inputs)
    cells = []
    for size in times[0]:
        eager, floating, whole = (by_size[size] for by_size in times)
        cells += [f"{eager:.2f}, {floating:.2f}, {whole:.2f}", f"{eager / whole:.2f} ×, {floating / whole:.2f} ×"]
    lost = f"{100 * (row.original - row.value):+.2f}"
    metric = f"{row.metric} {100 * row.value:.2f} % ({100 * row.original:.2f})"
    return [watched.example, f"{format} int8", metric, lost, f"{row.bytes / row.original_bytes:.2f} ×", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and rt-polaritydata/")
    options = parser.parse_args()
    if not options.runs and not options.data:
        parser.error("name runs, or --data FOLDER to train them")
    device.set_threads()
    with tempfile.TemporaryDirectory() as out:
        runs = options.runs or train(options.data, out)
        load = f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads"
        sys.stdout.write(f"{device.describe(torch.device('cpu'))}, torch {torch.__version__}, {load}\n\n")
        sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n")
        for run in runs:
            for format in FORMATS:
                try:
                    cells = measure(run, format)
                except UserError as error:
                    cells = [run.name, f"{format} int8", str(error.what)]
                sys.stdout.write(f"| {' | '.join(cells)} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
