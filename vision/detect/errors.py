"""Why a detector is wrong, and what each kind of error costs: after TIDE (Bolya et al. 2020, arXiv 2008.08115)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.kinds.boxes import Truth

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which a box is at the right place, and up to which it is on nothing


class Matches(NamedTuple):
    """What each of D boxes of an image, the surest first, found.

    Args:
        owner: int64 [D], the object that it found first, at an IoU of FOREGROUND and of its class; −1 for none.
        ignored: bool [D], padding, and what found an object that is not counted.
        iou: [D, n] with every object.
    """

    owner: Tensor
    ignored: Tensor
    iou: Tensor


def matches(objects: Tensor, truth: Truth) -> Matches:
    """Matches the boxes of an image, [D, 6] as of `Boxes.rows`, with its objects as COCO does."""
    from torchvision.ops import box_iou

    owner = torch.full((len(objects),), -1)
    ignored = objects[:, 4] <= 0
    iou = box_iou(objects[:, :4].double(), truth.boxes)  # [D, n]
    free = ~truth.ignored
    for number in objects[:, 4].argsort(descending=True, stable=True).tolist():
        if ignored[number] or not len(truth.labels):
            continue
        fits = (iou[number] >= FOREGROUND) & (truth.labels == objects[number, 5].long())
        best = torch.where(fits & free, iou[number], -1.0)
        if best.max() >= FOREGROUND:
            owner[number] = int(best.argmax())
            free[owner[number]] = False
        elif bool((fits & truth.ignored).any()):
            ignored[number] = True
    return Matches(owner, ignored, iou)
