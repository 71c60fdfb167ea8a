"""Figures of nlp.translate: letters to phonemes and captions, beside greedy decoding and what is only counted."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from tests.bench.tools import SEEDS, bench, run
from tests.results import Figure, Row, mean_of

RATES = {"wer": "word error rate", "per": "phoneme error rate"}
SCORES = {"bleu": "BLEU", "chrf": "chrF"}
METHODS = {"": "5 beams", "greedy_": "greedy", "ibm1_": "word by word (IBM model 1)"}


def measured(what: str, names: dict[str, str], *arguments: str, seeds: list[int] = SEEDS) -> Iterator[Row]:
    """A row for the search, for greedy decoding and for IBM model 1."""
    results = [run("nlp.translate", *arguments, "--seed", str(seed)) for seed in seeds]
    times, unit = (100, "%") if names is RATES else (1, "")
    for prefix, method in METHODS.items():
        figures = {
            name: mean_of([times * r["metrics"][f"{prefix}{metric}"] for r in results], unit, 2)
            for metric, name in names.items()
        }
        if not prefix:
            figures["training"] = mean_of([r["seconds"]["train"] for r in results], "s", 0)
        shown = [a for a in arguments if not a.startswith("/")]
        command = " ".join(["python -m nlp.translate", *shown]).removesuffix(" --data-dir")
        row = Row(f"{what}, {method}", figures, n=len(seeds), seeds=seeds, command=command)
        yield replace(row, by="peer") if prefix == "ibm1_" else row


@bench("phonemes", "Text", "Letters to phonemes (CMUdict)", "", "12,000 words of the test; the nearest variant counts.")
def phonemes(options: argparse.Namespace) -> Iterator[Row]:
    yield from measured("GRU", RATES, "--data", "cmudict")
    yield from measured("Transformer", RATES, "--data", "cmudict", "--model", "transformer", "--epochs", "6", seeds=[0])
    source = "Yolchuyeva et al. 2019, arXiv 2004.06338"
    figures = {RATES["wer"]: Figure(22.1, "%", 1), RATES["per"]: Figure(5.23, "%", 2)}
    yield Row("Transformer of 4 + 4 layers", figures, "published", source=source, note="trained for hours")


@bench("captions", "Text", "German and English captions (Multi30k)", "--data FOLDER", "test2016, one reference each.")
def captions(options: argparse.Namespace) -> Iterator[Row]:
    where = ["--data-dir", f"{options.data}/multi30k"] if options.data else []
    for pair in ("de-en", "en-de"):
        yield from measured(pair, SCORES, "--data", f"multi30k:{pair}", *where, seeds=[0])
