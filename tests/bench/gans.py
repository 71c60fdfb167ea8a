"""Figures of generative.gan on MNIST beside PyTorch-GAN's dcgan.py and wgan_gp.py: the same minutes, the same judge."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common.data.images.sources import load_images
from generative import quality
from generative.data import SPLIT_SEED
from generative.gan.networks import SIDE
from tests.bench.tools import SEEDS, bench, missing, run
from tests.results import Row, mean_of


@bench(
    "gan",
    "Generation",
    "GAN on MNIST",
    "--data FOLDER --pytorch-gan CHECKOUT",
    "Fréchet distance to the test split in the features of our classifier, 10,000 samples. The recipe was picked on "
    "digits.",
)
def mnist(options: argparse.Namespace) -> Iterator[Row]:
    """Trainings of about ten minutes, and as long ones of the peer's scripts."""
    place = ["--data-dir", f"{options.data}/mnist"] if options.data else []
    seeds = list(range(options.gan_seeds))
    for loss in options.gan_losses.split(","):
        arguments = ["--data", "mnist", "--loss", loss, "--epochs", options.gan_epochs]
        results = [run("generative.gan", *arguments, *place, "--seed", str(s)) for s in seeds]
        figures = {"Fréchet distance": mean_of([r["metrics"]["frechet_distance"] for r in results], "", 2)}
        for name in ("precision", "recall"):
            figures[name] = mean_of([r["metrics"][name] for r in results], "", 3)
        figures["training"] = mean_of([r["seconds"]["train"] for r in results], "s", 0)
        note = f"train against test: {results[0]['metrics']['frechet_floor']:.3f}"
        command = " ".join(["python -m generative.gan", *arguments])
        yield Row(f"GAN on MNIST, {loss}", figures, n=len(seeds), seeds=seeds, command=command, note=note)
    if not options.pytorch_gan:
        yield missing("PyTorch-GAN, wgan_gp.py", "--pytorch-gan names no checkout")
        return
    import numpy as np

    judge = Judge(Path(options.data) / "mnist" if options.data else None)
    for script in ("dcgan.py", "wgan_gp.py"):
        with tempfile.TemporaryDirectory() as folder:
            made = np.load(peer(script, options, Path(folder)))
        found = [judge(torch.from_numpy(made[mode])) for mode in ("batch", "running")]
        best = min(found, key=lambda f: f["distance"])
        figures = {
            "Fréchet distance": mean_of([best["distance"]], "", 1),
            "precision": mean_of([best["precision"]], "", 2),
            "recall": mean_of([best["recall"]], "", 2),
            "training": mean_of([float(made["seconds"])], "s", 0),
        }
        yield Row(
            f"PyTorch-GAN, {script}", figures, "peer", n=1, seeds=[0], command=f"tests/bench/peer_gan.py {script}"
        )


@bench("gan-speed", "Generation", "GAN, images per second", "--data FOLDER --pytorch-gan CHECKOUT", "Batches of 64.")
def speed(options: argparse.Namespace) -> Iterator[Row]:
    """With the channels and the batch size of the peer's dcgan.py, validations included; and with ours."""
    for what, size, seeds in (("the peer's channels", "base", SEEDS), ("the default, --size small", "small", [0])):
        arguments = ["--size", size, "--batch-size", "64", "--epochs", "5"]
        results = [run("generative.gan", *arguments, "--seed", str(seed)) for seed in seeds]
        figures = {"images/s": mean_of([64 * r["steps"] / r["seconds"]["train"] for r in results], "", 0)}
        command = " ".join(["python -m generative.gan", *arguments])
        yield Row(what, figures, n=len(seeds), seeds=seeds, command=command, note="validations included")
    if not options.pytorch_gan:
        yield missing("PyTorch-GAN, dcgan.py", "--pytorch-gan names no checkout")
        return
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        rate = float(np.load(peer("dcgan.py", options, Path(folder)))["images_per_second"])
    yield Row("PyTorch-GAN, dcgan.py", {"images/s": mean_of([rate], "", 0)}, "peer", n=1, seeds=[0])


def peer(name: str, options: argparse.Namespace, folder: Path) -> Path:
    """The samples and the speed of one of PyTorch-GAN's scripts after --gan-seconds of training, in an npz file."""
    script = next(Path(options.pytorch_gan).resolve().rglob(name))
    place = folder / "implementations" / script.stem  # the scripts look for ../../data/mnist
    place.mkdir(parents=True)
    if options.data:
        (folder / "data").mkdir()
        (folder / "data" / "mnist").symlink_to(Path(options.data).resolve() / "mnist")
    out = folder / "samples.npz"
    command = [sys.executable, str(Path(__file__).with_name("peer_gan.py")), str(script), options.gan_seconds, "0"]
    subprocess.run([*command, str(out)], cwd=place, capture_output=True, check=True)
    return out


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
