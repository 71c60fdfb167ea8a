"""Figures of the generators beside each other: flow matching, diffusion, a VAE and a GAN on scikit-learn's digits."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tests.bench.tools import SEEDS, bench, run
from tests.results import Row, mean_of


@bench(
    "pictures",
    "Generation",
    "Digits, four generators",
    "",
    "The defaults; 1,000 samples against the 359 test images in the features of our classifier, the same for all. No "
    "recipe was picked by them.",
)
def digits(options: argparse.Namespace) -> Iterator[Row]:
    """Each with three seeds, which share the split."""
    for what, example, *arguments in (
        ("flow matching, Heun 10", "generative.flow"),
        ("diffusion, DDIM 50", "generative.flow", "--objective", "ddpm"),
        ("β-VAE", "generative.vae"),
        ("GAN", "generative.gan"),
    ):
        results = [run(example, *arguments, "--seed", str(seed)) for seed in SEEDS]
        each = [result["metrics"] for result in results]
        figures = {"Fréchet distance": mean_of([m["frechet_distance"] for m in each], "", 2)}
        figures |= {name: mean_of([m[name] for m in each], "", 3) for name in ("precision", "recall")}
        if "bits_per_dimension" in each[0]:
            figures["bits per dimension"] = mean_of([m["bits_per_dimension"] for m in each], "", 3)
        figures["training"] = mean_of([result["seconds"]["train"] for result in results], "s", 0)
        figures["whole run"] = mean_of([result["seconds"]["total"] for result in results], "s", 0)
        modes = min(m["modes"] for m in each)
        note = f"train against test: {each[0]['frechet_floor']:.2f}; classes reached: {modes} of 10"
        command = " ".join(["python -m", example, *arguments])
        yield Row(what, figures, n=len(SEEDS), seeds=SEEDS, command=command, note=note)
