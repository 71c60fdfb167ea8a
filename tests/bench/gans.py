"""Figures of generative.gan on MNIST beside PyTorch-GAN's dcgan.py and wgan_gp.py: the same minutes, the same judge."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from common.data.images.sources import load_images
from generative import quality
from generative.gan.__main__ import SPLIT_SEED
from generative.gan.networks import SIDE
from tests.bench.tools import mean_std, row, run


def ours(options: argparse.Namespace) -> None:
    """Trainings of about ten minutes, and one epoch of the peer's networks for the images per second."""
    data = ["--data", "mnist", *(["--data-dir", f"{options.data}/mnist"] if options.data else [])]
    for loss in options.gan_losses.split(","):
        arguments = [*data, "--loss", loss, *(["--epochs", options.gan_epochs] if options.gan_epochs else [])]
        results = [run("generative.gan", *arguments, "--seed", str(s)) for s in range(options.gan_seeds)]
        distance = mean_std([r["metrics"]["frechet_distance"] for r in results], ".3f")
        floor = results[0]["metrics"]["frechet_floor"]
        parts = ", ".join(
            f"{name} {mean_std([r['metrics'][name] for r in results], '.3f')}" for name in ("precision", "recall")
        )
        seconds = mean_std([r["seconds"]["train"] for r in results], ".0f")
        rate = mean_std([r["config"]["batch_size"] * r["steps"] / r["seconds"]["train"] for r in results], ".0f")
        value = f"Fréchet distance {distance} (train against test: {floor:.3f}); {parts}; {seconds} s; {rate} images/s"
        row(f"GAN on MNIST, {loss}", value, " ".join(["python -m generative.gan", *arguments]))


def speed(options: argparse.Namespace) -> None:
    """Images per second with the channels and the batch size of the peer's dcgan.py, its validations included."""
    arguments = ["--size", "base", "--batch-size", "64", "--epochs", "5"]
    results = [run("generative.gan", *arguments, "--seed", str(seed)) for seed in range(3)]
    rate = mean_std([64 * r["steps"] / r["seconds"]["train"] for r in results], ".0f")
    row("GAN images/s, the peer's channels", rate, " ".join(["python -m generative.gan", *arguments]))


def peers(options: argparse.Namespace) -> None:
    if not options.pytorch_gan:
        row("GAN on MNIST, PyTorch-GAN", "not measured: --pytorch-gan names a checkout", "dcgan.py, wgan_gp.py")
        return
    import numpy as np

    judge = Judge(Path(options.data) / "mnist" if options.data else None)
    for name in ("dcgan", "wgan_gp"):
        script = next(Path(options.pytorch_gan).resolve().rglob(f"{name}.py"))
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "implementations", name)  # the scripts look for ../../data/mnist
            place.mkdir(parents=True)
            if options.data:
                (Path(folder) / "data").mkdir()
                (Path(folder) / "data" / "mnist").symlink_to(Path(options.data).resolve() / "mnist")
            out = Path(folder) / "samples.npz"
            peer = str(Path(__file__).with_name("peer_gan.py"))
            command = [sys.executable, peer, str(script), options.gan_seconds, "0", str(out)]
            subprocess.run(command, cwd=place, capture_output=True, check=True)
            made = np.load(out)
        found = {mode: judge(torch.from_numpy(made[mode])) for mode in ("batch", "running")}
        best = min(found.values(), key=lambda f: f["distance"])
        value = f"Fréchet distance {best['distance']:.3f}; precision {best['precision']:.3f}, recall "
        value += (
            f"{best['recall']:.3f}; {float(made['seconds']):.0f} s; {float(made['images_per_second']):.0f} images/s"
        )
        row(f"GAN on MNIST, PyTorch-GAN {name}.py, seed 0", value, f"tests/bench/peer_gan.py {name}.py")


class Judge:
    """Measures images as generative.gan measures its own: the same classifier, against the same test split."""

    def __init__(self, data_dir: Path | None) -> None:
        data = load_images("mnist", data_dir=data_dir, size=SIDE, seed=SPLIT_SEED)
        self.classifier = quality.train_classifier(data, torch.device("cpu"))
        self.real = quality.look(self.classifier, data.test)

    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        seen = quality.look(self.classifier, images)
        precision, recall = quality.precision_recall(self.real.features, seen.features)
        distance = quality.frechet_distance(seen.features, self.real.features)
        return {"distance": distance, "precision": precision, "recall": recall}
