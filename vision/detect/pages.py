"""What the report of a detector shows: truth and answer over the worst and the typical photos, and what errors cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

import torch
from torch import Tensor

from common.kinds.boxes import Truth
from common.metrics import Metrics
from common.report import frames
from common.report import page as report
from vision.detect import errors
from vision.detect.data import DetectionData, Photos
from vision.detect.errors import Judged

USUAL = 0.3  # the threshold where validation has no object
SHOWN = 6  # photos of each sort
WIDEST = 480  # pixels of a photo in the report
TRUTH, FOUND, WRONG = "#ffffff", "#3fa7ff", "#ff7a45"  # of outlines, over photos of any colour and in either mode


def best_threshold(found: Sequence[Tensor], truths: Sequence[Truth]) -> float:
    """The score from which boxes are shown: with the highest F1 at an IoU of 0.5 over all classes together."""
    scores, right, count = [], [], 0
    for boxes, truth in zip(found, truths, strict=True):
        matched = errors.matches(boxes, truth)
        scores.append(boxes[:, 4].double()[~matched.ignored])
        right.append((matched.owner >= 0)[~matched.ignored])
        count += int((~truth.ignored).sum())
    score, order = torch.cat(scores).sort(descending=True, stable=True)
    true = torch.cat(right).double()[order].cumsum(0)
    if not count or not len(score) or true[-1] == 0:
        return USUAL
    f1 = 2 * true / (torch.arange(1, len(score) + 1) + count)
    return round(float(score[int(f1.argmax())]), 3)


def sections(data: DetectionData, found: Sequence[Tensor], metrics: Metrics) -> list[report.Section]:
    """The report's own story: what it finds, where it is worst, and why."""
    threshold = metrics.values["threshold"]
    shown = [boxes[boxes[:, 4] >= threshold] for boxes in found]
    judged = [errors.judge(*pair) for pair in zip(shown, data.test.truths, strict=True)]
    wrong = torch.tensor([_mistakes(one, truth) for one, truth in zip(judged, data.test.truths, strict=True)])
    ranked = wrong.argsort(descending=True, stable=True).tolist()
    step = max(1, len(ranked) // SHOWN)
    worst = [index for index in ranked if wrong[index] > 0][:SHOWN]
    typical = [index for index in ranked[step // 2 :: step] if index not in worst][:SHOWN]
    note = (
        f"Boxes with a score of {threshold:.2f} or more, which has the highest F1 on validation. Dashed: what is "
        "there. Blue: found. Orange: wrong, and dashed where it was missed."
    )
    parts = [_gallery("Typical photos", data, shown, judged, typical, f"Evenly from the best to the worst. {note}")]
    if worst:
        title, few = "Where it is most wrong", "The photos with the most wrong and missed boxes."
        parts.append(_gallery(title, data, shown, judged, worst, few))
    return [*parts, costs(data, found)]


def _mistakes(judged: Judged, truth: Truth) -> int:
    lost = (~truth.ignored).sum() - (judged.kind == errors.RIGHT).sum()
    return int((judged.kind > errors.RIGHT).sum() + lost)


def costs(data: DetectionData, found: Sequence[Tensor]) -> report.Section:
    """A row for each kind of error."""
    gains = errors.costs(data.classes, found, data.test.truths)
    judged = [errors.judge(*pair) for pair in zip(found, data.test.truths, strict=True)]
    counts: Counter[int] = Counter()
    for one in judged:
        counts.update(one.kind.tolist())
    numbers = dict(zip(errors.KINDS, range(errors.CLASS, errors.NOTHING + 1), strict=False))
    missed = sum(int(one.missed.sum()) for one in judged)
    rows = [
        (name, 100 * gains[name], counts[numbers[name]] if name in numbers else missed, meaning)
        for name, meaning in errors.KINDS.items()
    ]
    rows.sort(key=lambda row: -row[1])
    note = (
        "By how many points AP at an IoU of 0.5 would rise if there were none of these errors (TIDE). The boxes are of "
        "any score, as AP counts them; most of the background ones are so unsure that they cost little."
    )
    return report.table("What errors cost", ("error", "AP points", "boxes", "what it is"), rows, note)


# --- photos with boxes -------------------------------------------------------------------------------------


def _gallery(
    title: str,
    data: DetectionData,
    shown: Sequence[Tensor],
    judged: Sequence[Judged],
    chosen: Sequence[int],
    note: str,
) -> report.Section:
    figures = [_figure(data.test, data.classes, shown[i], judged[i], i) for i in chosen]
    style = ' style="grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr))"'
    return report.Section(title, f'<div class="pictures"{style}>{"".join(figures)}</div>', note, first=True)


def _figure(photos: Photos, classes: Sequence[str], found: Tensor, judged: Judged, index: int) -> str:
    """A photo with its boxes as vectors: they stay crisp, and hovering says what they are."""
    item, truth = photos[index], photos.truths[index]
    width, height = item.size.tolist()
    across, down = (item.size * photos.photo.scales(item.size)).round().int().tolist()
    uri = frames.data_uri(item.image[:, :down, :across], max_size=WIDEST)
    have = set(judged.owner[judged.owner >= 0].tolist())
    drawn = []
    for number, (box, label) in enumerate(zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True)):
        lost = number not in have and not bool(truth.ignored[number])
        what = f"{classes[label]}, {'missed' if lost else 'not counted' if truth.ignored[number] else 'is there'}"
        drawn.append(_rectangle(box, WRONG if lost else TRUTH, what, dashed=True))
    for (*box, score, label), kind in zip(found.tolist(), judged.kind.tolist(), strict=True):
        names = ("found", *list(errors.KINDS)[:5])
        what = f"{classes[int(label)]} {score:.2f}, {names[kind] if kind >= 0 else 'not counted'}"
        drawn.append(_rectangle(box, WRONG if kind > errors.RIGHT else FOUND, what))
        drawn.append(_label(box, classes[int(label)], width, height, WRONG if kind > errors.RIGHT else FOUND))
    right, wrong = int((judged.kind == errors.RIGHT).sum()), int((judged.kind > errors.RIGHT).sum())
    said = f"{right} of {int((~truth.ignored).sum())} found" + (f", {wrong} wrong" if wrong else "")
    image = f'<image href="{uri}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="Photo {index}: {said}" '
        f'style="width:100%;display:block;border-radius:4px">{image}{"".join(drawn)}</svg>'
        f"<figcaption>{escape(said)}<span>test photo {index}</span></figcaption></figure>\n"
    )


def _rectangle(box: Sequence[float], colour: str, what: str, dashed: bool = False) -> str:
    left, top, right, bottom = box
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    common = f'{place} fill="none" vector-effect="non-scaling-stroke"'
    under = f'<rect {common} stroke="#000" stroke-opacity="0.45" stroke-width="{3 if dashed else 4}"/>'
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    over = f'<rect {common} stroke="{colour}" stroke-width="{1.5 if dashed else 2}"{dash} pointer-events="all"/>'
    return f"<g>{under}{over}<title>{escape(what)}</title></g>"


def _label(box: Sequence[float], name: str, width: int, height: int, colour: str) -> str:
    """The class above the box, or within it at the upper edge of the photo."""
    size = max(width, height) / 28
    y = box[1] - 0.3 * size if box[1] > 1.3 * size else box[1] + 1.05 * size
    x = min(box[0], width - 0.6 * size * min(len(name), 12))
    outline = f'paint-order="stroke" stroke="#000" stroke-opacity="0.6" stroke-width="{0.16 * size:.1f}"'
    style = f'fill="{colour}" font-size="{size:.1f}" font-weight="600" {outline}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(name[:24])}</text>'
