"""Figures of every example's command: how it starts, survives a kill, and runs as a job."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.tools import SEEDS, bench, run
from tests.helpers import ROOT, environment, final_weights, only_run, same
from tests.results import Figure, Row, mean_of, median_of


@bench("startup", "Every example", "Start-up", note="After one start to warm up.")
def startup(options: argparse.Namespace) -> Iterator[Row]:
    cases: dict[str, list[str]] = {
        "import torch": ["-c", "import torch"],
        "--help": ["-m", "vision.train", "--help"],
        "a wrong flag": ["-m", "vision.train", "--epoch", "3"],
        "catalogue": ["-m", "common"],
        "--tiny, whole": ["-m", "vision.train", "--tiny", "--quiet"],
    }
    for what, arguments in cases.items():
        times = []
        for _ in range(6):
            with tempfile.TemporaryDirectory() as out:
                place = ["--out", out] if "--tiny" in arguments else []
                began = time.monotonic()
                subprocess.run([sys.executable, *arguments, *place], cwd=ROOT, capture_output=True, check=False)
                times.append(time.monotonic() - began)
        command = " ".join(["python", *(f'"{word}"' if " " in word else word for word in arguments)])
        yield Row(what, {"time": median_of(times[1:], "s", 2)}, statistic="median", n=5, command=command)


@bench(
    "job",
    "SageMaker",
    "A job in fast-local over the plain command",
    note="Each job between two plain trainings of the same, so that a change of the machine's speed meets all three.",
)
def job(options: argparse.Namespace) -> Iterator[Row]:
    def seconds(command: str, threads: str) -> float:
        with tempfile.TemporaryDirectory() as out:
            words = command.replace("OUT", out).split()
            given = {**os.environ, "OMP_NUM_THREADS": threads}
            began = time.monotonic()
            subprocess.run([sys.executable, *words], cwd=ROOT, env=given, capture_output=True, check=True)
            return time.monotonic() - began

    plain, launched = (
        "-m vision.train --quiet --out OUT --tiny",
        "sagemaker/run_training.py --quiet --out OUT -- --tiny",
    )
    for threads, what in (("1", "one thread"), ("2", "two threads")):
        rounds = [[seconds(command, threads) for command in (plain, launched, plain)] for _ in range(11)][1:]
        figures = {
            "longer": median_of([there - (before + after) / 2 for before, there, after in rounds], "s", 2),
            "the plain command": median_of([before for before, _, _ in rounds], "s", 1),
        }
        yield Row(what, figures, statistic="median", n=len(rounds))


@bench(
    "kills",
    "Every example",
    "Killed and resumed",
    note="`kill -9` at a random moment of a training on digits with averages and mixing on, resumed to the end; its "
    "weights against those of a run that was left alone.",
)
def kills(options: argparse.Namespace) -> Iterator[Row]:
    settings = ["vision.train", "--epochs", "8", "--ema", "0.99", "--mixup", "0.2", "--checkpoint-seconds", "0"]
    command = [sys.executable, "-m", *settings, "--quiet", "--out"]
    dice = random.Random(0)
    equal = killed = 0
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        subprocess.run([*command, f"{folder}/whole"], cwd=ROOT, env=environment(), check=True)
        length = time.monotonic() - began
        reference = final_weights(only_run(Path(folder, "whole"), "vision.train"))
        for number in range(options.kills):
            out = f"{folder}/{number}"
            with subprocess.Popen([*command, out, "--resume"], cwd=ROOT, env=environment()) as process:
                try:
                    process.wait(timeout=dice.uniform(1.5, length))
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
            subprocess.run([*command, out, "--resume"], cwd=ROOT, env=environment(), check=True)
            equal += same(final_weights(only_run(Path(out), "vision.train")), reference)
    figures = {"bit-equal": Figure(equal, ""), "killed": Figure(killed, "")}
    note = "the others had finished before they could be killed"
    words = " ".join(["python -m", *settings])
    yield Row("killed and resumed", figures, statistic="count", n=options.kills, command=words, note=note)


@bench("ladder", "First steps", "Breast cancer", note="10-fold cross-validation.")
def ladder(options: argparse.Namespace) -> Iterator[Row]:
    results = [run("research.ladder", "--seed", str(seed)) for seed in SEEDS]
    ends = [[100 * r["metrics"][f"cv_difference_{end}"] for end in ("low", "high")] for r in results]
    intervals = ", ".join(f"{low:+.2f} to {high:+.2f}" for low, high in ends).replace("-", "−")
    note = f"95 % intervals of the difference, seed by seed: {intervals}"
    for what, metric, by, told in (
        ("breast cancer, 10-fold", "cv_accuracy", "ours", note),
        ("scikit-learn's LogisticRegression", "cv_reference_accuracy", "peer", ""),
    ):
        figures = {"accuracy": mean_of([100 * r["metrics"][metric] for r in results], "%", 2)}
        command = "python -m research.ladder" if by == "ours" else ""
        yield Row(what, figures, by, n=len(SEEDS), seeds=SEEDS, command=command, note=told)  # type: ignore[arg-type]
