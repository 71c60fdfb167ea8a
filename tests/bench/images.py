"""Figures of vision.train: accuracy and seconds beside pytorch/examples, `fit` beside a bare loop."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import fmean

from tests.bench.loop import ratios
from tests.bench.tools import SEEDS, bench, missing, pytorch_examples, run
from tests.helpers import ROOT
from tests.results import Figure, Row, mean_of, median_of

PICKED = "The recipe was picked while the test scores of seeds 0 to 2 were in view; the other seeds had no part in it."


def training(what: str, *arguments: str, command: str, seeds: list[int] = SEEDS) -> Row:
    """A row of trainings of vision.train, one for each seed; `command` is what a user types."""
    results = [run("vision.train", *arguments, "--seed", str(seed)) for seed in seeds]
    low, high = (100 * fmean(r["metrics"][f"accuracy_{end}"] for r in results) for end in ("low", "high"))
    figures = {
        "accuracy": mean_of([100 * r["metrics"]["accuracy"] for r in results], "%", 2),
        "training": mean_of([r["seconds"]["train"] for r in results], "s", 1),
        "whole run": mean_of([r["seconds"]["total"] for r in results], "s", 1),
        "memory": Figure(round(max(r["peak_memory_mb"] for r in results) / 1e3, 3), "GB", 2),
    }
    note = f"95 % Wilson interval of the mean at n = {results[0]['metrics']['n']:,}: {low:.2f} to {high:.2f} %"
    return Row(what, figures, n=len(seeds), seeds=seeds, command=command, note=note)


@bench("digits", "Images", "Digits", note=f"scikit-learn's 1,797 images, split once per seed. {PICKED}")
def digits(options: argparse.Namespace) -> Iterator[Row]:
    command = "python -m vision.train"
    yield training("digits, default", command=command)
    yield training("digits, other seeds", command=command, seeds=[10, 11, 12, 13, 14])


@bench("mnist", "Images", "MNIST", "--data FOLDER --peer CHECKOUT", PICKED)
def mnist(options: argparse.Namespace) -> Iterator[Row]:
    data = ["--data", "mnist", *(["--data-dir", f"{options.data}/mnist"] if options.data else [])]
    command = "python -m vision.train --data mnist"
    yield training("MNIST, default", *data, command=command)
    yield training("MNIST, other seeds", *data, command=command, seeds=[10, 11, 12])
    yield training("MNIST, 8 epochs", *data, "--epochs", "8", command=f"{command} --epochs 8")
    if not options.peer:
        yield missing("pytorch/examples, 3 epochs", "--peer names no checkout")
        return
    # The peer's defaults, and 1 and 3 of its epochs for the same time as ours. It has no validation split.
    found, seconds = pytorch_examples(options.peer, f"{options.data}/mnist" if options.data else None, 3)
    for epochs, accuracy in enumerate(found, 1):
        figures = {"accuracy": mean_of([accuracy], "%", 2), "an epoch": mean_of([seconds], "s", 1)}
        what = f"pytorch/examples, {epochs} epoch{'s' * (epochs > 1)}"
        yield Row(what, figures, "peer", n=1, seeds=[0], command="python mnist/main.py --epochs 3 --seed 0")
    yield Row(
        "pytorch/examples, 14 epochs",
        {"accuracy": Figure(99.1, "%", 1)},
        "published",
        source="github.com/pytorch/examples, pull request 658",
        note="99.1 to 99.2 %; its README publishes none",
    )


@bench(
    "cifar",
    "Images",
    "CIFAR-10 subset",
    "--cifar FILE",
    "10,000 and 2,000 images, encoded anew as JPEG: not comparable with CIFAR-10.",
)
def cifar(options: argparse.Namespace) -> Iterator[Row]:
    recipe = ["--model", "resnet", "--epochs", options.cifar_epochs, "--cutmix", "1.0"]
    command = " ".join(["python -m vision.train --data npz:FILE", *recipe])
    yield training("CIFAR-10 subset", "--data", f"npz:{options.cifar}", *recipe, command=command, seeds=[0])


@bench(
    "birds",
    "Images",
    "Birds from scratch",
    "--data FOLDER",
    "300 photos to learn from, 297 to test on; chance is 10 %.",
)
def birds(options: argparse.Namespace) -> Iterator[Row]:
    data = ["--data", "cub200", "--data-dir", f"{options.data}/birds-cub-subset"]
    yield training("CUB-200, 10 species", *data, command="python -m vision.train --data cub200 --data-dir FOLDER")


@bench("families", "Images", "Nine families on digits", note="One seed each.")
def families(options: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "vision.compare", "--json", "--quiet", "--out", out]
        began = time.monotonic()
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - began
    for found in json.loads(process.stdout.splitlines()[-1]):
        yield Row(found["model"], {"accuracy": mean_of([100 * found["accuracy"]], "%", 1)}, n=1)
    yield Row("all nine", {"time": mean_of([seconds], "s", 0)}, n=1, command="python -m vision.compare")


@bench(
    "fit",
    "Images",
    "fit against a bare loop",
    note="Images per second of `fit` in percent of those of the loop that everybody writes, over the same batches of "
    "the same VGG.",
)
def fit_overhead(options: argparse.Namespace) -> Iterator[Row]:
    found = [100 * ratio for ratio in ratios(10)]
    figures = {"images/s": median_of(found, "%", 1)}
    yield Row("fit of a bare loop", figures, statistic="median", n=len(found), note="pairs, in turns")
