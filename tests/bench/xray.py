"""What a network reads off chest X-rays: the whole picture, its edges alone, its middle alone; a lesson in shortcuts.

Nothing here says anything about the disease. See docs/applications.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from common import artifact, example
from common.serve.explain import Explainer
from tests.bench.tools import SEEDS, bench, missing
from tests.helpers import ROOT
from tests.results import Row, mean_of

EDGE = 0.15  # of the height and of the width, on each side
GREY = 128
RECIPE = ["--size", "tiny", "--batch-size", "32", "--epochs", "20"]
COMMAND = f"python -m vision.train --data folder:FOLDER {' '.join(RECIPE)}"
Change = Callable[[Image.Image], Image.Image]


def box(image: Image.Image) -> tuple[int, int, int, int]:
    """The middle, within the edges."""
    width, height = image.size
    return round(EDGE * width), round(EDGE * height), round((1 - EDGE) * width), round((1 - EDGE) * height)


def edges(image: Image.Image) -> Image.Image:
    """The middle painted grey: what is left shows little of the lungs."""
    changed = image.convert("L")
    changed.paste(GREY, box(changed))
    return changed


def middle(image: Image.Image) -> Image.Image:
    return image.convert("L").crop(box(image))


def changed(source: Path, target: Path, change: Change) -> Path:
    for file in sorted(source.rglob("*.jpg")):
        place = target / file.relative_to(source).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        change(Image.open(file)).save(place)
    return target


def shuffled(source: Path, target: Path, seed: int) -> Path:
    """The same pictures with as many for the test, drawn picture by picture: patients are on both sides."""
    for folder in sorted((source / "train").iterdir()):
        files = sorted(folder.iterdir()) + sorted((source / "test" / folder.name).iterdir())
        count = len(list((source / "test" / folder.name).iterdir()))
        random.Random(seed).shuffle(files)
        for number, file in enumerate(files):
            place = target / ("test" if number < count else "train") / folder.name / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    return target


def judged(folder: Path, seed: int) -> dict[str, float]:
    """One training: recall of each class of the test, and where the heat maps of the first class lie."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "vision.train", "--data", f"folder:{folder}", *RECIPE, "--seed", str(seed)]
        subprocess.run([*command, "--quiet", "--out", out], cwd=ROOT, capture_output=True, check=True)
        saved = artifact.load(next(Path(out).glob("vision.train/*")))
        predictor = example.predictor_of(saved)
        explain = Explainer(predictor)
        found: dict[str, float] = {}
        right = total = 0
        for name in saved.classes:
            items = [predictor.input.decode(file) for file in sorted((folder / "test" / name).iterdir())]
            said = [row["class"] for row in predictor.predict(items)]
            right, total = right + said.count(name), total + len(said)
            found[f"{name} found"] = said.count(name) / len(said)
            heat = [outside(torch.tensor(explain(item, name)["heat"])) for item in items]
            found[f"heat on the edges, {name}"] = sum(heat) / len(heat)
        return {"accuracy": right / total, **found}


def outside(heat: torch.Tensor) -> float:
    """The share of a heat map [h, w] that lies on the edges; spread evenly it were 1 − (1 − 2 EDGE)²."""
    fine = F.interpolate(heat[None, None].double(), size=(100, 100), mode="bilinear")[0, 0]
    low, high = round(100 * EDGE), round(100 * (1 - EDGE))
    return 1 - (fine[low:high, low:high].sum() / fine.sum().clamp(min=1e-12)).item()


@bench(
    "xray", "Applications", "Chest X-rays: a lesson in shortcuts", "--data FOLDER",
    "Covid-19 pictures come from articles, the others from one hospital. Patients and articles are in one split, but "
    "in the last row. Heat spread evenly would lie on the edges with 51 %. No clinical claim.",
)  # fmt: skip
def xray(options: argparse.Namespace) -> Iterator[Row]:
    if not options.data:
        yield missing("chest X-rays", "no --data")
        return
    source = Path(options.data) / "chest-xray-covid"
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        edged, inner = changed(source, place / "edges", edges), changed(source, place / "middle", middle)
        drawn = [shuffled(source, place / f"random-{seed}", seed) for seed in SEEDS]
        for what, folders in (
            ("whole pictures", [source] * len(SEEDS)),
            ("edges only, the middle grey", [edged] * len(SEEDS)),
            ("middle only", [inner] * len(SEEDS)),
            ("whole pictures, split at random", drawn),
        ):
            found = [judged(folder, seed) for folder, seed in zip(folders, SEEDS, strict=True)]
            figures = {name: mean_of([100 * each[name] for each in found], "%", 1) for name in found[0]}
            yield Row(what, figures, n=len(SEEDS), seeds=SEEDS, command=COMMAND)
