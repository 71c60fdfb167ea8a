"""Which points answer for which object, and what their answers should have been."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.detect.model import STRIDES, Outputs

TOP = 9  # points that answer for an object
CLASS_POWER, FIT_POWER = 0.5, 4.0  # of a point's class and of its box, in how well it suits an object
BOX_WEIGHT, QUALITY_WEIGHT = 2.0, 1.0  # beside the loss of the classes


class Assigned(NamedTuple):
    """What each of L points answers for.

    Args:
        positive: bool [B, L], whether there is an object.
        boxes: [B, L, 4], the object's; anything where there is none.
        labels: int64 [B, L], its class, likewise.
    """

    positive: Tensor
    boxes: Tensor
    labels: Tensor


class DetectionLoss:
    """The mean loss of a batch, a mean over its objects.

    Args:
        points, strides: of the detector, [L, 2] and [L, 1].
    """

    def __init__(self, points: Tensor, strides: Tensor) -> None:
        self.points, self.strides = points, strides

    def __call__(self, outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        """A scalar.

        Args:
            outputs: as of `model.Outputs`.
            targets: float [B, M, 5], left, top, right, bottom and class of each object; a class of −1 where there is
                none.
        """
        from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

        found = Outputs(*(part.float() for part in outputs))
        targets = _trimmed(targets)
        assigned = assign(found, targets, self.points, self.strides)
        positive = assigned.positive.float()
        wanted = F.one_hot(assigned.labels, found.classes.shape[-1]) * positive.unsqueeze(-1)
        classes = sigmoid_focal_loss(found.classes, wanted, alpha=0.25, gamma=2.0).sum()
        box = (generalized_box_iou_loss(found.boxes, assigned.boxes) * positive).sum()
        fit = paired_iou(found.boxes.detach(), assigned.boxes)
        quality = F.binary_cross_entropy_with_logits(found.quality, fit, reduction="none")
        loss = classes + BOX_WEIGHT * box + QUALITY_WEIGHT * (quality * positive).sum()
        return loss / objects(targets).clamp(min=1)


def objects(targets: Tensor) -> Tensor:
    """How many objects a batch has; see `DetectionLoss` for its targets."""
    return (targets[..., 4] >= 0).sum()


def _trimmed(targets: Tensor) -> Tensor:
    """Without the places that no image of the batch uses, where finding out costs nothing."""
    if targets.device.type != "cpu":
        return targets
    return targets[:, : max(1, int((targets[..., 4] >= 0).sum(1).max()))]


@torch.no_grad()
def assign(found: Outputs, targets: Tensor, points: Tensor, strides: Tensor) -> Assigned:
    """For each object the TOP points that suit it best, after TOOD (Feng et al. 2021, arXiv 2108.07755).

    Points within an object, of every level, may answer for it. How well one suits is what it says already: the
    probability of the object's class, and the IoU of its box with the object, each to a power. A point that suits
    several objects answers for the one that it suits best.
    """
    boxes, labels = targets[..., :4], targets[..., 4].long()  # [B, M, 4], [B, M]
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half.clamp(min=float(STRIDES[0]))  # the smallest objects still have a point or two
    apart = (points - centre.unsqueeze(2)).abs()  # [B, M, L, 2]
    inside = (apart < half.unsqueeze(2)).all(-1) & (labels >= 0).unsqueeze(2)  # [B, M, L]
    index = labels.clamp(min=0).unsqueeze(1).expand(-1, found.classes.shape[1], -1)  # [B, L, M]
    says = found.classes.sigmoid().gather(2, index).mT  # [B, M, L]
    fits = paired_iou(found.boxes.unsqueeze(1), boxes.unsqueeze(2))  # [B, M, L]
    suits = says.pow(CLASS_POWER) * fits.pow(FIT_POWER) * inside
    # So that an object that no box overlaps yet is answered for by the points that are nearest to its middle.
    near = inside * 1e-9 / (1 + apart.sum(-1) / half.sum(-1, keepdim=True))
    suits = suits + near
    best, places = suits.topk(min(TOP, suits.shape[2]), dim=2)  # [B, M, TOP]
    chosen = torch.zeros_like(suits).scatter(2, places, best)
    value, owner = chosen.max(dim=1)  # [B, L]
    own_boxes = boxes.gather(1, owner.unsqueeze(-1).expand(-1, -1, 4))
    return Assigned(value > 0, own_boxes, labels.gather(1, owner).clamp(min=0))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] with their partners, in 0..1; shapes are broadcast."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b))
    return common / (area_a + area_b - common).clamp(min=1e-6)
