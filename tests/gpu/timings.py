"""One row of the benchmarks on a device: python -m tests.gpu.timings mnist --device cuda --data FOLDER."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from tests.bench.loop import RESNET50, SMALL, TINY, Case, bare, captured, fitted
from tests.bench.tools import pytorch_examples, run
from tests.gpu.say import Skip, checked, figure
from tests.helpers import ROOT, environment, only_run

NEEDED = ("mnist", "tinyshakespeare")  # data sets that --data may hold


def data_set(options: argparse.Namespace, name: str) -> str:
    """The folder of a data set."""
    if not options.data or not Path(options.data, name).is_dir():
        raise Skip(f"--data names no folder that holds {name}/")
    return str(Path(options.data, name))


def mnist(options: argparse.Namespace) -> None:
    folder = data_set(options, "mnist")
    arguments = ["vision.train", "--data", "mnist", "--data-dir", folder, "--device", options.device]
    result = run(*arguments, *(["--epochs", "1"] if options.small else []))
    command = "python -m vision.train --data mnist"
    figure("MNIST by default: accuracy", 100 * result["metrics"]["accuracy"], "%", command=command)
    figure("MNIST by default: training", result["seconds"]["train"], "s", command=command)


def peer(options: argparse.Namespace) -> None:
    if not options.peer:
        raise Skip("--peer names no checkout of pytorch/examples")
    accuracies, seconds = pytorch_examples(options.peer, data_set(options, "mnist"), 1)
    command = "python mnist/main.py --epochs 1"
    figure("pytorch/examples mnist: accuracy after an epoch", accuracies[0], "%", command=command)
    figure("pytorch/examples mnist: an epoch, with its start", seconds, "s", command=command)


def small(options: argparse.Namespace) -> None:
    compare(TINY if options.small else SMALL, options, rounds=2 if options.small else 5)


def resnet(options: argparse.Namespace) -> None:
    if options.small:
        raise Skip("too much for a CPU")
    compare(RESNET50, options, rounds=3)


def compare(case: Case, options: argparse.Namespace, rounds: int) -> None:
    """`fit` and bare loops in turns, so that a change of the machine's speed meets all."""
    kinds: dict[str, Callable[[Case, torch.device], float]] = {"fit": fitted, "bare": bare}
    device = torch.device(options.device)
    if device.type == "cuda":
        kinds["captured"] = captured
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name in [*kinds] if number % 2 else [*reversed(kinds)]:
            rate = kinds[name](case, device)
            rates[name] += [rate] if number else []  # the first round warms up
    command = "python -m tests.gpu.timings " + ("small" if case is not RESNET50 else "resnet")
    for name, values in rates.items():
        figure(f"{case}: {name}", median(values), "images/s", n=rounds, command=command)
    for name in [*kinds][1:]:
        pairs = [ours / theirs for ours, theirs in zip(rates["fit"], rates[name], strict=True)]
        note = f"{min(pairs):.3f}–{max(pairs):.3f}"
        figure(f"{case}: fit of {name}", median(pairs), "×", n=rounds, command=command, note=note)


def dqn(options: argparse.Namespace) -> None:
    # As a user would, --device auto: which it takes is part of the question.
    arguments = ["rl.dqn", *(["--tiny", "--device", options.device] if options.small else [])]
    result = run(*arguments)
    command = " ".join(["python -m", *arguments])
    figure("DQN CartPole by default: training", result["seconds"]["train"], "s", command=command)
    figure("DQN CartPole by default: mean return", result["metrics"]["mean_return"], "", command=command)


def gan(options: argparse.Namespace) -> None:
    arguments = ["generative.gan", "--device", options.device, *(["--tiny"] if options.small else [])]
    result = run(*arguments)
    seconds, command = result["seconds"], " ".join(["python -m", *arguments])
    figure("GAN on digits: training", seconds["train"], "s", command=command)
    rest = seconds["total"] - seconds["train"]
    figure("GAN on digits: judge, evaluation and report", rest, "s", command=command)
    figure("GAN on digits: Fréchet distance", result["metrics"]["frechet_distance"], "", command=command)


# nanoGPT's config for one GPU: 6 layers, 384 wide, 256 characters, batches of 64; it reports a loss of 1.4697.
GPT = (
    "--depth 6 --width 384 --heads 6 --context 256 --batch-size 64 --rows 0 --dropout 0.3 --weight-decay 0.3"
    " --epochs 8 --steps 100"
)


def gpt(options: argparse.Namespace) -> None:
    given = ["--epochs", "1", "--steps", "2", "--context", "32", "--depth", "1"] if options.small else GPT.split()
    arguments = ["nlp.gpt", "--data", "tinyshakespeare", *given]
    result = run(*arguments, "--data-dir", data_set(options, "tinyshakespeare"), "--device", options.device)
    command = " ".join(["python -m", *arguments])
    figure("GPT on tinyshakespeare: val_loss", result["metrics"]["val_loss"], "nats/character", command=command)
    figure("GPT on tinyshakespeare: training", result["seconds"]["train"], "s", command=command)


def aoti(options: argparse.Namespace) -> None:
    """A first export with nothing kept from before, and a second one of the same network."""
    with tempfile.TemporaryDirectory() as out:
        given = environment() | {"XDG_CACHE_HOME": f"{out}/cache"}
        given.pop("TORCHINDUCTOR_CACHE_DIR", None)
        train = [sys.executable, "-m", "vision.train", "--tiny", "--quiet", "--device", options.device, "--out", out]
        subprocess.run(train, cwd=ROOT, env=given, capture_output=True, check=True)
        command = ["-m", "common.export", str(only_run(Path(out), "vision.train")), "--to", "aoti"]
        for name in ("first", "second"):
            began = time.monotonic()
            subprocess.run([sys.executable, *command], cwd=ROOT, env=given, capture_output=True, check=True)
            seconds = time.monotonic() - began
            figure(f"AOTInductor, a small VGG: {name} export", seconds, "s", command="common.export --to aoti")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "mnist": mnist,
    "small": small,
    "resnet": resnet,
    "dqn": dqn,
    "peer": peer,
    "gan": gan,
    "gpt": gpt,
    "aoti": aoti,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", help="folder of data sets: " + ", ".join(NEEDED))
    parser.add_argument("--peer", help="checkout of github.com/pytorch/examples")
    options = parser.parse_args()
    options.small = options.device == "cpu"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def work() -> None:
        try:
            PARTS[options.part](options)
        except subprocess.CalledProcessError as error:
            said = str(error.stderr or "").strip().splitlines()[-2:]
            if any("No module named" in line for line in said):
                raise Skip(said[-1]) from error
            raise AssertionError(f"exit code {error.returncode}: {' | '.join(said)}") from error

    checked(options.part, work)


if __name__ == "__main__":
    main()
