"""Figures of nlp.speech: on speakers that it never heard, and on the official split, beside logistic regression."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.bench.tools import SEEDS, mean_std, row, run

EVERYBODY = (0, 1, 2, 3, 4)  # seeds: each leaves out another fifth of the speakers


def words(what: str, *arguments: str, seeds: Sequence[int]) -> None:
    results = [run("nlp.speech", *arguments, "--seed", str(seed)) for seed in seeds]
    figures = []
    for end, name in (("_unheard", "on unheard speakers"), ("", "on the test split")):
        if f"accuracy{end}" in results[0]["metrics"]:
            ours, theirs = ([100 * r["metrics"][f"{who}accuracy{end}"] for r in results] for who in ("", "logistic_"))
            each = ", ".join(f"{value:.1f}" for value in ours)
            figures.append(f"{mean_std(ours)} % {name} ({each}; logistic regression {mean_std(theirs)})")
    seconds = mean_std([r["seconds"]["train"] for r in results], ".0f")
    row(what, f"{'; '.join(figures)}; {seconds} s of training", " ".join(["python -m nlp.speech", *arguments]))


def speech(options: argparse.Namespace) -> None:
    words("espeak, default", seeds=EVERYBODY)
    if not options.data:
        row("FSDD", "not measured: --data names a folder that holds fsdd", "")
        return
    data = ["--data", "fsdd", "--data-dir", f"{options.data}/fsdd"]
    words("FSDD, a speaker left out", *data, seeds=EVERYBODY)
    words("FSDD, official split", *data, "--unheard", "none", seeds=SEEDS)
