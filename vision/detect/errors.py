"""Why a detector is wrong, and what each kind of error costs: after TIDE (Bolya et al. 2020, arXiv 2008.08115)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from common.kinds.boxes import Truth, coco

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which a box is at the right place, and up to which it is on nothing
RIGHT, CLASS, PLACE, BOTH, TWICE, NOTHING = range(6)
# Each kind of error in the words of the report; boxes have the first five, objects the last.
KINDS = {
    "class": "the right place, but another class",
    "place": "the right class, but not quite the place",
    "both": "neither the class nor quite the place",
    "duplicate": "an object that a surer box found already",
    "background": "a box where there is nothing",
    "missed": "an object without a box, not even one of the errors above",
}


class Matches(NamedTuple):
    """What each of D boxes of an image found.

    Args:
        owner: int64 [D], the object that it was the first to find, at an IoU of FOREGROUND and of its class; else −1.
        ignored: bool [D], padding, and what found an object that is not counted.
        iou: [D, n] with every object.
    """

    owner: Tensor
    ignored: Tensor
    iou: Tensor


def matches(found: Tensor, truth: Truth) -> Matches:
    """Matches the boxes of an image, [D, 6] as of `Boxes.rows`, with its objects as COCO does, the surest first."""
    from torchvision.ops import box_iou

    owner = torch.full((len(found),), -1)
    ignored = found[:, 4] <= 0
    iou = box_iou(found[:, :4].double(), truth.boxes)  # [D, n]
    if not len(truth.labels):
        return Matches(owner, ignored, iou)
    fits = (iou >= FOREGROUND) & (truth.labels == found[:, 5:].long())
    free = ~truth.ignored
    order = found[:, 4].argsort(descending=True, stable=True)
    for number in order[(fits.any(1) & ~ignored)[order]].tolist():  # most boxes fit no object
        best = torch.where(fits[number] & free, iou[number], -1.0)
        if best.max() >= FOREGROUND:
            owner[number] = int(best.argmax())
            free[owner[number]] = False
        elif bool((fits[number] & truth.ignored).any()):
            ignored[number] = True
    return Matches(owner, ignored, iou)


class Judged(NamedTuple):
    """The boxes and objects of an image, each with what is wrong about it.

    Args:
        kind: int64 [D], RIGHT to NOTHING; −1 for boxes that do not count.
        owner: int64 [D], the object that a box found; −1 for none.
        meant: int64 [D], the object that a box with an error of class or place should have been; −1 for none.
        missed: bool [n], whether no box found an object, and none with an error of class or place meant it.
    """

    kind: Tensor
    owner: Tensor
    meant: Tensor
    missed: Tensor


def judge(found: Tensor, truth: Truth) -> Judged:
    """What is wrong about each box of an image."""
    owner, ignored, iou = matches(found, truth)
    count = ~truth.ignored
    same = truth.labels == found[:, 5:].long()  # [D, n]

    def nearest(which: Tensor) -> tuple[Tensor, Tensor]:
        """The largest IoU of each box with some of the objects, and the object."""
        if not iou.shape[1]:
            return torch.zeros(len(iou)), torch.full((len(iou),), -1)
        best, place = torch.where(which & count, iou, -1.0).max(1)
        return best, place

    (own, own_place), (other, other_place) = nearest(same), nearest(~same)
    kind = torch.full((len(found),), NOTHING)
    kind[(other > BACKGROUND) & (other < FOREGROUND)] = BOTH
    kind[other >= FOREGROUND] = CLASS
    kind[(own > BACKGROUND) & (own < FOREGROUND) & (kind != CLASS)] = PLACE
    kind[own >= FOREGROUND] = TWICE
    kind[owner >= 0] = RIGHT
    kind[ignored] = -1
    meant = torch.where(kind == CLASS, other_place, torch.where(kind == PLACE, own_place, -1))
    missed = count.clone()
    for covered in (owner, meant):
        missed[covered[covered >= 0]] = False
    return Judged(kind, owner, meant, missed)


def costs(names: Sequence[str], found: Sequence[Tensor], truths: Sequence[Truth]) -> dict[str, float]:
    """By how much AP at an IoU of 0.5, in 0..1, would be higher without each kind of error, of KINDS.

    Errors of class and place are put right, where the object that they mean is not found yet by a surer box, and taken
    away elsewhere; other wrong boxes are taken away; missed objects are not counted.
    """
    judged = [judge(*pair) for pair in zip(found, truths, strict=True)]
    before = _ap(names, found, truths)

    def without(change: Callable[[Tensor, Truth, Judged], tuple[Tensor, Truth]]) -> float:
        pairs = [change(*each) for each in zip(found, truths, judged, strict=True)]
        return max(0.0, _ap(names, [boxes for boxes, _ in pairs], [truth for _, truth in pairs]) - before)

    wrong = {"class": CLASS, "place": PLACE, "both": BOTH, "duplicate": TWICE, "background": NOTHING}
    gains = {name: without(partial(_mended, kind)) for name, kind in wrong.items()}
    return {**gains, "missed": without(_without_missed)}


def _ap(names: Sequence[str], found: Sequence[Tensor], truths: Sequence[Truth]) -> float:
    precision = coco(names, found, truths, thresholds=[FOREGROUND]).eval["precision"][0, :, :, 0, -1]
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else 0.0


def _mended(kind: int, found: Tensor, truth: Truth, judged: Judged) -> tuple[Tensor, Truth]:
    """The boxes of an image with the errors of one kind put right or taken away."""
    mended = found.clone()
    taken = set(judged.owner[judged.owner >= 0].tolist())
    for number in (judged.kind == kind).nonzero().flatten().tolist():
        meant = int(judged.meant[number])
        if meant < 0 or meant in taken:
            mended[number, 4] = 0  # no box any more
            continue
        taken.add(meant)
        mended[number, :4] = truth.boxes[meant].to(found.dtype)
        mended[number, 5] = truth.labels[meant]
    return mended, truth


def _without_missed(found: Tensor, truth: Truth, judged: Judged) -> tuple[Tensor, Truth]:
    return found, Truth(*(part[~judged.missed] for part in truth))
