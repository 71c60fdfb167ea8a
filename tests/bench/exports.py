"""What int8 costs and gains, on an MNIST ResNet and a text Transformer, or on runs that are there."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import artifact, example
from common.errors import UserError
from common.export import compare
from common.export.capture import Watched
from common.export.export import export
from tests.bench.tools import bench
from tests.results import Figure, Row

FORMATS = ("onnx", "aoti")


def train(data: Path, out: str) -> list[Path]:
    from tests.helpers import only_run, python

    trainings: dict[str, list[str | Path]] = {
        "vision.train": ["--data", "mnist", "--data-dir", data / "mnist", "--model", "resnet", "--epochs", "2"],
        "nlp.classify": ["--data", "rotten-tomatoes", "--data-dir", data, "--model", "transformer"],
    }
    for name, arguments in trainings.items():
        python("-m", name, *arguments, "--quiet", "--out", out, timeout=7200).check_returncode()
    return [only_run(Path(out), name) for name in trainings]


def measure(run: Path, format: str) -> Row:
    """int8 beside fp32 in the same format, and beside the run's own network; the three take turns."""
    fp32, _ = export(run, format, "none", None)
    int8, row = export(run, format, "int8", None)
    watched = Watched.of(artifact.load(run))
    declared = example.get(watched.example)
    with watched.noting() as calls:
        declared.evaluate(watched, declared.config().with_values(watched.config))
    saved = [artifact.load(folder) for folder in (fp32, int8)]
    programs = [compare.nn_program(exported) for exported in saved]
    times = compare.latencies((watched.network(), *programs), calls[0].inputs)
    figures = {
        row.metric: Figure(100 * row.value, "%", 2),
        f"{row.metric} in fp32": Figure(100 * row.original, "%", 2),
        "size": Figure(round(row.bytes / row.original_bytes, 4), "×", 2),
    }
    for size in times[0]:
        eager, floating, whole = (by_size[size] for by_size in times)
        samples = "1 sample" if size == "1" else f"{size} samples"
        for name, milliseconds in (("run", eager), ("fp32", floating), ("int8", whole)):
            figures[f"{samples}, {name}"] = Figure(round(milliseconds, 3), "ms", 2)
        figures[f"{samples}, int8 over run"] = Figure(round(eager / whole, 3), "×", 1)
        figures[f"{samples}, int8 over fp32"] = Figure(round(floating / whole, 3), "×", 1)
    return Row(f"{watched.example}, {format}", figures, n=1)


@bench(
    "int8",
    "Exports",
    "int8 against fp32",
    "--data FOLDER | --run RUN...",
    "On the test split, one thread. The run's own network, the fp32 export and the int8 export took turns; one run "
    "each, trained by the command in the last column. Size is that of the weights' file over the run's.",
)
def int8(options: argparse.Namespace) -> Iterator[Row]:
    if not options.run and not options.data:
        raise SystemExit("error: int8: name runs with --run, or --data FOLDER to train them.")
    with tempfile.TemporaryDirectory() as out:
        for run in options.run or train(Path(options.data), out):
            for format in FORMATS:
                try:
                    yield measure(run, format)
                except UserError as error:
                    yield Row(f"{artifact.load(run).example}, {format}", {}, note=f"refused: {error.what}")
