"""Figures of vision.detect: the default and BCCD, and how far its metrics are from pycocotools'."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

from common.kinds.boxes import coco, coco_files
from tests.bench.tools import SEEDS, bench, missing, run
from tests.results import Figure, Row, mean_of

NAMES = {"map": "mAP", "map_50": "AP50", "map_75": "AP75"}
CASES = 200


def pycocotools(names: list[str], found: list[Any], truths: list[Any]) -> Any:
    """COCO's twelve figures by its own package."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    said, results = coco_files(names, found, truths)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = said
        known.createIndex()
        answers = known.loadRes(results) if results else COCO()
        if not results:
            answers.dataset = {**said, "annotations": []}
            answers.createIndex()
        evaluation = COCOeval(known, answers, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def largest_difference(seeds: Iterable[int]) -> float:
    """Between our figures and pycocotools', over random cases with crowds, ties, and images without boxes."""
    from tests.test_detect import random_case

    largest = 0.0
    for seed in seeds:
        names, found, truths = random_case(seed)
        ours, theirs = coco(names, found, truths).stats[:12], pycocotools(names, found, truths)
        largest = max(largest, *(abs(float(a) - float(b)) for a, b in zip(ours, theirs, strict=True)))
    return largest


def training(what: str, *arguments: str, command: str, seeds: list[int]) -> Row:
    results = [run("vision.detect", *arguments, "--seed", str(seed)) for seed in seeds]
    figures = {name: mean_of([r["metrics"][metric] for r in results], "", 3) for metric, name in NAMES.items()}
    figures["training"] = mean_of([r["seconds"]["train"] for r in results], "s", 0)
    return Row(what, figures, n=len(seeds), seeds=seeds, command=command)


@bench("detect", "Images", "Detection", "--data FOLDER", "Scenes are composed of real digits and real photographs.")
def detection(options: argparse.Namespace) -> Iterator[Row]:
    yield training("scenes, the default", command="python -m vision.detect", seeds=SEEDS)
    if options.data:
        place = ["--data", "bccd", "--data-dir", options.data]
        yield training("BCCD from scratch", *place, command="python -m vision.detect --data bccd", seeds=SEEDS)
    else:
        yield missing("BCCD from scratch", "--data names no folder")


@bench(
    "coco", "Images", "COCO's metrics", note="Twelve figures each of random cases with crowds, ties and empty images."
)
def metrics(options: argparse.Namespace) -> Iterator[Row]:
    figure = Figure(largest_difference(range(CASES)), "")
    yield Row("largest difference from pycocotools", {"difference": figure}, n=CASES, statistic="count")
