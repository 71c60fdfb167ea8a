"""What the report of a detector shows: truth and answer over the worst and the typical photos, and what errors cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.kinds.boxes import Truth
from common.metrics import Metrics
from common.report import page as report
from vision.detect import errors
from vision.detect.data import DetectionData

USUAL = 0.3  # the threshold where validation has no object


def best_threshold(found: Sequence[Tensor], truths: Sequence[Truth]) -> float:
    """The score from which boxes are shown: with the highest F1 at an IoU of 0.5 over all classes together."""
    scores, right, count = [], [], 0
    for objects, truth in zip(found, truths, strict=True):
        matched = errors.matches(objects, truth)
        scores.append(objects[:, 4].double()[~matched.ignored])
        right.append((matched.owner >= 0)[~matched.ignored])
        count += int((~truth.ignored).sum())
    score, hit = torch.cat(scores), torch.cat(right).double()
    score, order = score.sort(descending=True, stable=True)
    if not count or not len(score) or not bool(hit.any()):
        return USUAL
    true = hit[order].cumsum(0)
    f1 = 2 * true / (torch.arange(1, len(score) + 1) + count)
    return round(float(score[int(f1.argmax())]), 3)


def sections(data: DetectionData, found: Sequence[Tensor], metrics: Metrics) -> list[report.Section]:
    return []
