"""Boxes around the objects of a photo, each with a class and a score: their rows, their metrics, their report."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from common.kinds.answer import Answer, Row
from common.kinds.image import upright
from common.metrics import Metrics
from common.report import page as report
from common.report.plots import ACCENT, MUTED, SECOND, canvas

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

MAX_SIDE = 2**14  # pixels; larger JPEG files are drawn on at half their size
# Of COCO's twelve figures: the mean over the IoU thresholds 0.5, 0.55, ... 0.95, at two of them, by size, and recall.
FIGURES = {"map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "recall_100": 8}


class Truth(NamedTuple):
    """What is really in an image, in its own pixels.

    Args:
        boxes: float64 [n, 4], left, top, right and bottom.
        labels: int64 [n], numbers of classes.
        ignored: bool [n], crowds and what is marked difficult: neither finding them nor missing them counts.
        areas: float64 [n], of the objects or, where those are not known, of their boxes.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    areas: Tensor

    @classmethod
    def of(cls, boxes: Tensor, labels: Tensor, ignored: Tensor | None = None, areas: Tensor | None = None) -> Truth:
        boxes = boxes.double().reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        none = torch.zeros(len(boxes), dtype=torch.bool)
        return cls(
            boxes, labels.long(), none if ignored is None else ignored, sides.prod(1) if areas is None else areas
        )


@dataclass(frozen=True)
class Boxes(Answer):
    """The objects of a photo, the surest first.

    A row is `{"boxes": [{"class": "cat", "score": 0.93, "box": [left, top, right, bottom]}, ...], "width": W,
    "height": H}`, in pixels of the photo as it was sent.

    Args:
        names: of the classes.
        threshold: score from which a box is drawn.
    """

    kind: ClassVar[str] = "boxes"
    key: ClassVar[str] = "boxes"
    together: ClassVar[str] = ".json"
    drawn: ClassVar[bool] = True

    names: Sequence[str]
    threshold: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(str, self.names)))

    # -- rows -------------------------------------------------------------------------------------------

    def rows(self, found: Tensor, sizes: Tensor) -> list[Row]:
        """The row of each photo.

        Args:
            found: [B, D, 6], left, top, right, bottom, score and class of up to D objects; a score of 0 where there
                is none.
            sizes: width and height of each photo, [B, 2].
        """
        rows: list[Row] = []
        for objects, (width, height) in zip(found.double().tolist(), sizes.tolist(), strict=True):
            boxes = [
                {
                    "class": self.names[int(number)],
                    "score": round(score, 6),
                    "box": [round(value, 2) for value in box],
                }
                for *box, score, number in objects
                if score > 0
            ]
            rows.append({self.key: boxes, "width": int(width), "height": int(height)})
        return rows

    def is_row(self, row: Row) -> bool:
        return isinstance(row.get(self.key), list) and all(one["class"] in self.names for one in row[self.key])

    def schema(self) -> dict[str, Any]:
        side = {"type": "integer"}
        box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
        one = {
            "type": "object",
            "required": ["class", "score", "box"],
            "properties": {"class": {"type": "string"}, "score": {"type": "number"}, "box": box},
        }
        properties = {self.key: {"type": "array", "items": one}, "width": side, "height": side}
        return {"type": "object", "required": list(properties), "properties": properties}

    @property
    def columns(self) -> list[str]:
        """The objects as JSON, and how many they are."""
        return [self.key, "count"]

    def cells(self, row: Row) -> list[Any]:
        found = row.get(self.key)
        return [json.dumps(found, ensure_ascii=False), len(found)] if isinstance(found, list) else ["", ""]

    def as_file(self, rows: Sequence[Row]) -> bytes:
        """COCO's format of results: an image's id is the number that its file's name ends in, else that name.

        Classes are numbered from 1, in the model's order.
        """
        results = [
            {
                "image_id": _image_id(row["file"]),
                "category_id": self.names.index(one["class"]) + 1,
                "bbox": [round(v, 2) for v in (left, top, right - left, bottom - top)],
                "score": one["score"],
            }
            for row in rows
            for one in row.get(self.key, [])
            for left, top, right, bottom in [one["box"]]
        ]
        return (json.dumps(results) + "\n").encode()

    def draw(self, row: Row, source: Path | bytes) -> bytes:
        from PIL import ImageDraw, ImageFont

        image = upright(source, "RGB", MAX_SIDE)[0]
        across, down = image.width / row["width"], image.height / row["height"]
        pen, line = ImageDraw.Draw(image), max(1, max(image.size) // 250)
        size = max(10, max(image.size) // 40)
        font = ImageFont.load_default(size=size)
        for one in reversed([one for one in row[self.key] if one["score"] >= self.threshold]):  # the surest on top
            left, top, right, bottom = (v * f for v, f in zip(one["box"], (across, down) * 2, strict=True))
            colour = f"hsl({360 * self.names.index(one['class']) // len(self.names)}, 95%, 55%)"
            pen.rectangle((left, top, right, bottom), outline=colour, width=line)
            text = f"{one['class']} {one['score']:.2f}"
            place = pen.textbbox((left, top), text, font=font, anchor="ls" if top > size else "lt")
            pen.rectangle(place, fill=colour)
            pen.text((place[0], place[1]), text, fill="black", font=font, anchor="lt")
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()

    # -- measuring --------------------------------------------------------------------------------------

    def validate(self, found: Sequence[Tensor], truths: Sequence[Truth]) -> dict[str, float]:
        """COCO's mean average precision, and that at an IoU of 0.5; 0 where there is no object at all."""
        evaluation = coco(self.names, found, truths)
        return {f"val_{name}": max(0.0, float(evaluation.stats[FIGURES[name]])) for name in ("map", "map_50")}

    def measure(self, found: Sequence[Tensor], truths: Sequence[Truth]) -> Metrics:
        """COCO's figures (Lin et al. 2014, arXiv 1405.0312), by faster-coco-eval.

        Args:
            found: of each image, float [D, 6] as in `rows`, in pixels of the photo; from low scores on.
            truths: of each image.

        Raises:
            UserError: there is no object in any image.
        """
        counts = torch.bincount(
            torch.cat([truth.labels[~truth.ignored] for truth in truths]), minlength=len(self.names)
        ).tolist()
        if not any(counts):
            raise UserError("there is nothing to evaluate: no image of the test split has an object", _CHECK)
        evaluation = coco(self.names, found, truths)
        values: dict[str, float | int] = {
            name: float(evaluation.stats[place]) for name, place in FIGURES.items() if evaluation.stats[place] >= 0
        }
        values |= {"n": len(truths), "objects": sum(counts)}
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU thresholds, recalls, classes]
        per_class = [
            {"class": name, "ap": _mean(precision[:, :, k]), "ap_50": _mean(precision[0, :, k]), "n": counts[k]}
            for k, name in enumerate(self.names)
        ]
        curves = {name: precision[0, :, k].round(4).tolist() for k, name in enumerate(self.names) if counts[k]}
        details = {"per_class": per_class, "precision_by_recall": curves}
        absent = [name for name, count in zip(self.names, counts, strict=True) if not count]
        notes = [f"not in the test split, and left out of the mean: {', '.join(absent[:8])}"] if absent else []
        sizes = [name.removeprefix("map_") for name in ("map_small", "map_medium", "map_large") if name not in values]
        notes += (
            [f"no object of the test split is {' or '.join(sizes)} (COCO's sizes: 32² and 96² px)"] if sizes else []
        )
        return Metrics("map", values, notes, details)

    def sections(self, metrics: Metrics) -> list[report.Section]:
        """A table of the classes, and their precision-recall curves."""
        if "per_class" not in metrics.details:
            return []
        rows = [(row["class"], row["ap"], row["ap_50"], row["n"]) for row in metrics.details["per_class"]]
        note = "Average precision of each class: the mean over IoU thresholds from 0.5 to 0.95, and at 0.5."
        if len(rows) > 20:
            rows.sort(key=lambda row: 2.0 if row[1] is None else row[1])
            note += " The lowest comes first."
        table = report.table("Classes", ("class", "AP", "AP at 0.5", "objects"), rows, note)
        note = "How many of the objects are found, and how many of what is found is right, from the surest box on."
        areas = {row["class"]: row["ap_50"] for row in metrics.details["per_class"]}
        figure = precision_recall(metrics.details["precision_by_recall"], areas)
        return [table, report.figure("Precision and recall at an IoU of 0.5", figure, note)]


def _image_id(name: str) -> int | str:
    stem = Path(name).stem
    digits = re.search(r"\d+$", stem)
    return int(digits[0]) if digits else stem


_CHECK = "Check the annotations of the data."


def _mean(values: np.ndarray) -> float | None:
    """The mean of what was measured; None where nothing was."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


# --- COCO --------------------------------------------------------------------------------------------------


def check_metrics() -> None:
    """Raises UserError where faster-coco-eval is not installed."""
    if find_spec("faster_coco_eval") is None:
        raise UserError(
            "Boxes are measured by the package faster-coco-eval, which is not installed.",
            "pip install -e '.[detect]'",
        )


def coco(
    names: Sequence[str], found: Sequence[Tensor], truths: Sequence[Truth], thresholds: Sequence[float] | None = None
) -> Any:
    """faster-coco-eval's evaluation, done: `stats` holds COCO's twelve figures, −1 where one is undefined.

    Args:
        found, truths: as of `Boxes.measure`.
        thresholds: of the IoU; COCO's ten by default.
    """
    check_metrics()
    import numpy as np
    from faster_coco_eval import COCO, COCOeval_faster

    truth, answers = coco_files(names, found, truths)
    known = COCO(truth)
    evaluation = COCOeval_faster(known, known.loadRes(answers), iouType="bbox")
    if thresholds is not None:
        evaluation.params.iouThrs = np.array(thresholds)
    evaluation.evaluate()
    evaluation.accumulate()
    if thresholds is None:
        evaluation.summarize()
    return evaluation


def coco_files(
    names: Sequence[str], found: Sequence[Tensor], truths: Sequence[Truth]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results as COCO's files have them; images and classes are numbered from 1."""
    annotations = []
    for image, truth in enumerate(truths, start=1):
        fields = zip(
            truth.boxes.tolist(), truth.labels.tolist(), truth.ignored.tolist(), truth.areas.tolist(), strict=True
        )
        annotations += [
            {
                "image_id": image,
                "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": area,
                "iscrowd": int(ignored),
            }
            for (left, top, right, bottom), label, ignored, area in fields
        ]
    results = [
        {
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        for image, objects in enumerate(found, start=1)
        for left, top, right, bottom, score, label in objects.double().tolist()
        if score > 0
    ]
    return {
        "info": {},
        "images": [{"id": number} for number in range(1, len(truths) + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
    }, results


# --- report ------------------------------------------------------------------------------------------------


def precision_recall(curves: Mapping[str, Sequence[float]], areas: Mapping[str, float | None]) -> Figure:
    """Precision by recall of each class; the three worst stand out.

    Args:
        curves: by class, the precision at each of COCO's recalls 0, 0.01, ... 1.
        areas: by class, the area under its curve.
    """
    ranked = sorted(curves, key=lambda name: areas[name] or 0.0)
    with canvas(f"Precision by recall of {len(curves)} classes.", 5.0, 5.0) as (figure, (ax,)):
        for name, style in zip(ranked[:3], ("-", (0, (4, 1.5)), (0, (1, 1.2))), strict=False):
            recalls = [i / (len(curves[name]) - 1) for i in range(len(curves[name]))]
            label = f"{name[:24]}: {areas[name] or 0.0:.3f}"
            ax.plot(recalls, curves[name], color=ACCENT, linestyle=style, label=label, zorder=3)
        for number, name in enumerate(ranked[3:]):
            recalls = [i / (len(curves[name]) - 1) for i in range(len(curves[name]))]
            label = f"{len(ranked) - 3} more" if number == 0 else "_"  # which a legend leaves out
            ax.plot(recalls, curves[name], color=SECOND, linewidth=0.8, alpha=0.6, label=label)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=ticks, yticks=ticks)
        ax.set(xlabel="recall", ylabel="precision")
        ax.legend(loc="lower left", title="AP at 0.5, worst first", alignment="left")
        ax.get_legend().get_title().set(fontsize=9, color=MUTED)
    return figure
