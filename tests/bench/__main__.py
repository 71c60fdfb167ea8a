"""Every figure of the README, measured here: `make bench`, or `python -m tests.bench NAME...` for some of them.

  make bench BENCH="digits mnist" DATA=FOLDER_WITH_MNIST PEER=CHECKOUT_OF_PYTORCH_EXAMPLES

Prints one Markdown row per figure: what, mean ± standard deviation over seeds, and the command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

import torch

from common.machine import device
from tests.bench import agents, gans, speech, texts
from tests.bench.hostile import hostile
from tests.bench.tools import SEEDS, mean_std, pytorch_examples, row, run
from tests.helpers import ROOT, environment, final_weights, only_run, same


def training(what: str, *arguments: str, seeds: Sequence[int] = SEEDS) -> None:
    results = [run("vision.train", *arguments, "--seed", str(seed)) for seed in seeds]
    accuracy = mean_std([100 * r["metrics"]["accuracy"] for r in results])
    interval = [100 * fmean(r["metrics"][f"accuracy_{end}"] for r in results) for end in ("low", "high")]
    seconds = mean_std([r["seconds"]["train"] for r in results], ".1f")
    total = mean_std([r["seconds"]["total"] for r in results], ".1f")
    memory = max(r["peak_memory_mb"] for r in results)
    value = (
        f"accuracy {accuracy} %, 95 % interval {interval[0]:.2f}–{interval[1]:.2f} (n = {results[0]['metrics']['n']})"
    )
    value += f"; {seconds} s training, {total} s in all after imports; {memory:.0f} MB"
    row(what, value, " ".join(["python -m vision.train", *arguments]))


def digits(options: argparse.Namespace) -> None:
    training("digits, default")


def mnist(options: argparse.Namespace) -> None:
    data = ["--data", "mnist", *(["--data-dir", f"{options.data}/mnist"] if options.data else [])]
    training("MNIST, default recipe", *data)
    training("MNIST, longer", *data, "--epochs", "8")
    if not options.peer:
        row("MNIST, pytorch/examples", "not measured: --peer names a checkout", "python mnist/main.py")
        return
    # The peer's defaults, and 1 and 3 of its epochs for the same time as ours. It has no validation split.
    found, seconds = pytorch_examples(options.peer, f"{options.data}/mnist" if options.data else None, 3)
    accuracies = ", ".join(f"{accuracy:.2f}" for accuracy in found)
    row(
        "MNIST, pytorch/examples",
        f"{accuracies} % after 1, 2, 3 epochs; {seconds:.1f} s an epoch",
        "main.py --epochs 3 --seed 0",
    )


def cifar(options: argparse.Namespace) -> None:
    training("CIFAR-10 subset as npz", "--data", f"npz:{options.cifar}", "--epochs", options.cifar_epochs)


def birds(options: argparse.Namespace) -> None:
    training("CUB-200 subset, from scratch", "--data", "cub200", "--data-dir", f"{options.data}/birds-cub-subset")


def fit_overhead(options: argparse.Namespace) -> None:
    from tests.bench.loop import ratios

    found = [100 * ratio for ratio in ratios(10)]
    value = f"{median(found):.1f} % (median of {len(found)} pairs, {min(found):.1f}–{max(found):.1f})"
    row("images/s of fit against a bare loop", value, "python -m tests.bench fit")


def families(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "vision.compare", "--json", "--quiet", "--out", out]
        began = time.monotonic()
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - began
    rows = json.loads(process.stdout.splitlines()[-1])
    accuracies = ", ".join(f"{r['model']} {100 * r['accuracy']:.1f}" for r in rows)
    row("nine families on digits", f"{accuracies} %; {seconds:.0f} s in all", "python -m vision.compare")


def startup(options: argparse.Namespace) -> None:
    cases: dict[str, list[str]] = {
        "import torch": ["-c", "import torch"],
        "--help": ["-m", "vision.train", "--help"],
        "argument error": ["-m", "vision.train", "--epoch", "3"],
        "catalogue": ["-m", "common"],
        "vision.train --tiny, whole": ["-m", "vision.train", "--tiny", "--quiet"],
    }
    for what, arguments in cases.items():
        times = []
        for _ in range(6):
            with tempfile.TemporaryDirectory() as out:
                place = ["--out", out] if "--tiny" in arguments else []
                began = time.monotonic()
                subprocess.run([sys.executable, *arguments, *place], cwd=ROOT, capture_output=True, check=False)
                times.append(time.monotonic() - began)
        value = (
            f"median {median(times[1:]):.2f} s ({min(times[1:]):.2f}–{max(times[1:]):.2f}, n = 5 after one to warm up)"
        )
        row(f"seconds: {what}", value, "python " + " ".join(arguments))


def job(options: argparse.Namespace) -> None:
    """Each job between two plain trainings, so that a change of the machine's speed meets all three."""

    def seconds(command: str) -> float:
        with tempfile.TemporaryDirectory() as out:
            words = command.replace("OUT", out).split()
            began = time.monotonic()
            subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
            return time.monotonic() - began

    plain, launched = (
        "-m vision.train --quiet --out OUT --tiny",
        "sagemaker/run_training.py --quiet --out OUT -- --tiny",
    )
    rounds = [[seconds(command) for command in (plain, launched, plain)] for _ in range(11)][1:]  # one to warm up
    more = sorted(there - (before + after) / 2 for before, there, after in rounds)
    value = f"{median(more):.2f} s more (median of {len(more)}, {more[0]:.2f}–{more[-1]:.2f}); "
    value += f"plain {median(r[0] for r in rounds):.2f} s"
    row("a job in fast-local over the plain command", value, f"python {launched}")


def kills(options: argparse.Namespace) -> None:
    """`kill -9` at random moments of a training with averages and mixing on; then resume to the end and compare."""
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
    row("kill -9 at a random moment, then resume", f"{equal} of {options.kills} bit-equal ({killed} killed)",
        " ".join(["python -m", *settings]))  # fmt: skip


def ladder(options: argparse.Namespace) -> None:
    results = [run("research.ladder", "--seed", str(seed)) for seed in SEEDS]
    values = {name: mean_std([100 * r["metrics"][name] for r in results]) for name in results[0]["metrics"]}
    ends = [[100 * r["metrics"][f"cv_difference_{end}"] for end in ("low", "high")] for r in results]
    intervals = ", ".join(f"{low:+.2f} to {high:+.2f}" for low, high in ends)
    value = f"10-fold accuracy {values['cv_accuracy']} %, LogisticRegression {values['cv_reference_accuracy']} %; "
    value += f"95 % intervals of the difference, seed by seed: {intervals}"
    row("breast cancer, ladder", value, "python -m research.ladder")


def page(options: argparse.Namespace) -> None:
    from tests.bench.page import strokes

    strokes()


FIGURES: dict[str, Callable[[argparse.Namespace], None]] = {
    "startup": startup, "job": job, "digits": digits, "mnist": mnist, "cifar": cifar, "birds": birds,
    "fit": fit_overhead, "families": families, "kills": kills, "cartpole": agents.cartpole, "control": agents.control,
    "agent-speed": agents.speed, "pong": agents.pong, "gan": gans.ours, "gan-speed": gans.speed,
    "gan-peers": gans.peers, "texts": texts.scratch, "text-models": texts.models, "minilm": texts.finetuned,
    "speech": speech.speech, "ladder": ladder, "page": page, "hostile": lambda options: hostile(),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        default=["startup", "digits", "fit", "families", "kills", "hostile"],
        help=", ".join(FIGURES),
    )
    parser.add_argument("--data", help="folder with mnist/ and birds-cub-subset/")
    parser.add_argument("--cifar", help="npz file with x_train y_train x_test y_test")
    parser.add_argument("--cifar-epochs", default="30")
    parser.add_argument("--peer", help="checkout of github.com/pytorch/examples")
    parser.add_argument("--sb3", help="a Python that has stable-baselines3")
    parser.add_argument("--cleanrl", help="checkout of github.com/vwxyzjn/cleanrl")
    parser.add_argument("--cleanrl-python", help="a Python that has what it pins")
    parser.add_argument("--pytorch-gan", help="checkout of github.com/eriklindernoren/PyTorch-GAN")
    parser.add_argument("--gan-seconds", default="600", help="of training for each of its scripts")
    parser.add_argument("--gan-losses", default="dcgan,wgan-gp,r3gan")
    parser.add_argument("--gan-epochs", help="of our trainings; the default of the data set if not given")
    parser.add_argument("--gan-seeds", type=int, default=3)
    parser.add_argument("--minilm-seeds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    device.set_threads()
    busy = f"load average {os.getloadavg()[0]:.1f} at the start"
    hardware = f"{device.describe(torch.device('cpu'))}, torch {torch.__version__}, {busy}, {time.strftime('%Y-%m-%d')}"
    sys.stdout.write(f"{hardware}\n\n| figure | measured | command |\n| --- | --- | --- |\n")
    for name in options.names:
        FIGURES[name](options)


if __name__ == "__main__":
    main()
