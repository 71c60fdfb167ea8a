"""Which points answer for which object, and what their answers should have been."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.detect.model import STRIDES, Outputs

TINY = 1e-6  # square pixels
TOP = 9  # points that answer for an object
CLASS_POWER, FIT_POWER = 0.5, 4.0  # of a point's class and of its box, in how well it suits an object
CLASS_WEIGHT, BOX_WEIGHT, QUALITY_WEIGHT = 2.5, 2.0, 1.0


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
        points: of the detector, [L, 2].
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __call__(self, outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        """A scalar.

        Args:
            outputs: as of `model.Outputs`.
            targets: float [B, M, 5], left, top, right, bottom and class of each object; a class of −1 where there is
                none.
        """
        from torchvision.ops import sigmoid_focal_loss

        found = Outputs(*(part.float() for part in outputs))
        targets = _trimmed(targets)
        assigned = assign(found, targets, self.points)
        positive = assigned.positive.float()
        # Not by one_hot, which looks at the labels first: a GPU would be waited for.
        numbers = torch.arange(found.classes.shape[-1], device=targets.device)
        wanted = (assigned.labels.unsqueeze(-1) == numbers) * positive.unsqueeze(-1)  # [B, L, K]
        classes = sigmoid_focal_loss(found.classes, wanted, alpha=0.25, gamma=2.0).sum()
        box = ((1 - generalized_iou(found.boxes, assigned.boxes)) * positive).sum()
        fit = paired_iou(found.boxes.detach(), assigned.boxes)
        quality = F.binary_cross_entropy_with_logits(found.quality, fit, reduction="none")
        loss = CLASS_WEIGHT * classes + BOX_WEIGHT * box + QUALITY_WEIGHT * (quality * positive).sum()
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
def assign(found: Outputs, targets: Tensor, points: Tensor) -> Assigned:
    """For each object the TOP points that suit it best, after TOOD (Feng et al. 2021, arXiv 2108.07755).

    Points within an object, of every level, may answer for it. How well one suits is what it says already: the
    probability of the object's class, and the IoU of its box with the object, each to a power. A point that suits
    several objects answers for the one that it suits best.
    """
    boxes, labels = targets[..., :4], targets[..., 4].long()  # [B, M, 4], [B, M]
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half.clamp(min=float(STRIDES[0]))  # the smallest objects still have a point or two
    # By axis, because tensors whose last dimension is 2 or 4 are several times as slow.
    apart = [(points[:, axis] - centre[..., axis, None]).abs() / half[..., axis, None] for axis in (0, 1)]  # [B, M, L]
    outward = torch.maximum(*apart)  # 0 in the middle of an object, 1 at its edge
    index = labels.clamp(min=0).unsqueeze(2).expand(-1, -1, len(points))  # [B, M, L]
    says = found.classes.mT.sigmoid().gather(1, index)  # [B, M, L]
    fits = paired_iou(found.boxes.unsqueeze(1), boxes.unsqueeze(2))  # [B, M, L]
    inside = (outward < 1) & (labels >= 0).unsqueeze(2)
    # The second term: where no box overlaps an object yet, the points nearest to its middle answer for it.
    suits = (says.pow(CLASS_POWER) * fits.pow(FIT_POWER) + 1e-9 * (2 - outward)) * inside
    best, places = suits.topk(min(TOP, suits.shape[2]), dim=2)  # [B, M, TOP]
    chosen = torch.zeros_like(suits).scatter(2, places, best)
    value, owner = chosen.max(dim=1)  # [B, L]
    own_boxes = boxes.gather(1, owner.unsqueeze(-1).expand(-1, -1, 4))
    return Assigned(value > 0, own_boxes, labels.gather(1, owner).clamp(min=0))


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] with their partners, in 0..1; shapes are broadcast."""
    common, union, _ = _areas(boxes, others)
    return common / union


def generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The same in −1..1: less, the more of the box around both is in neither (Rezatofighi et al. 2019).

    torchvision's loss picks the boxes that overlap, for which a GPU is waited for.
    """
    common, union, around = _areas(boxes, others)
    return common / union - (around - union) / around


def _areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The areas of the intersections, of the unions, and of the boxes around both; the latter two above 0."""
    # Each edge by itself: tensors whose last dimension is 4 are several times as slow.
    left, top, right, bottom = boxes.movedim(-1, 0).contiguous()
    x, y, u, v = others.movedim(-1, 0).contiguous()
    width, height = torch.minimum(right, u) - torch.maximum(left, x), torch.minimum(bottom, v) - torch.maximum(top, y)
    common = F.relu(width) * F.relu(height)
    union = F.relu(right - left) * F.relu(bottom - top) + F.relu(u - x) * F.relu(v - y) - common + TINY
    whole = (torch.maximum(right, u) - torch.minimum(left, x)) * (torch.maximum(bottom, v) - torch.minimum(top, y))
    return common, union, whole + TINY
