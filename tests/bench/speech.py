"""Figures of nlp.speech: on speakers that it never heard, and on the official split, beside logistic regression."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tests.bench.tools import SEEDS, bench, run
from tests.results import Row, mean_of

EVERYBODY = [0, 1, 2, 3, 4]  # seeds: each leaves out another fifth of the speakers
NAMES = {"accuracy_unheard": "accuracy on unheard speakers", "accuracy": "accuracy on the test split"}


def words(what: str, *arguments: str, seeds: list[int]) -> Iterator[Row]:
    """Ours, and logistic regression on pooled log-mel spectrograms of the same splits."""
    results = [run("nlp.speech", *arguments, "--seed", str(seed)) for seed in seeds]
    ours, theirs = (
        {
            name: mean_of([100 * r["metrics"][f"{who}{metric}"] for r in results], "%", 2)
            for metric, name in NAMES.items()
            if metric in results[0]["metrics"]
        }
        for who in ("", "logistic_")
    )
    ours["training"] = mean_of([r["seconds"]["train"] for r in results], "s", 0)
    command = " ".join(["python -m nlp.speech", *arguments[:2]])
    yield Row(what, ours, n=len(seeds), seeds=seeds, command=command)
    yield Row(f"{what}, logistic regression", theirs, "peer", n=len(seeds), seeds=seeds)


@bench("speech", "Sound", "Spoken words made up", "", "Each seed leaves out another fifth of the voices.")
def made_up(options: argparse.Namespace) -> Iterator[Row]:
    yield from words("words of espeak-ng, the default", seeds=EVERYBODY)


@bench(
    "fsdd", "Sound", "Spoken digits (FSDD)", "--data FOLDER", "Each seed of the first row leaves out another speaker."
)
def digits(options: argparse.Namespace) -> Iterator[Row]:
    data = ["--data", "fsdd", *(["--data-dir", f"{options.data}/fsdd"] if options.data else [])]
    yield from words("a speaker left out", *data, seeds=EVERYBODY)
    yield from words("official split", *data, "--unheard", "none", seeds=SEEDS)
