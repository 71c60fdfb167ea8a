"""Training images as the detector sees them: mosaics of four, other scales, mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.kinds.photo import Fitted

VISIBLE = 0.3  # of an object that is cut: with less of its area left it is no object any more
SMALLEST = 2.0  # pixels, across and down


@dataclass(frozen=True)
class Mosaic:
    """(Fitted [B, 3, H, W], targets [B, M, 5]) to the same, augmented, with 4 × M places for objects.

    A pure function of the batch and of PyTorch's global random state. Four images around a random point are one mosaic
    (Bochkovskiy et al. 2020, arXiv 2004.10934); the other images are scaled and moved alone.

    Args:
        share: of the batch that are mosaics, in 0..1.
        scale: largest factor by which an image is enlarged, and smallest, its inverse; from 1.
        flip: mirror half of the images left to right.
        colour: largest change of brightness and contrast, as a share.
        fill: what is beside an image, of each channel in 0..255.
    """

    share: float
    scale: float
    flip: bool
    colour: float
    fill: tuple[float, ...]

    def __call__(self, inputs: Fitted, targets: Tensor) -> tuple[Fitted, Tensor]:
        images = inputs.image.float()
        fill = torch.tensor(self.fill, device=images.device).view(-1, 1, 1).expand(images.shape[1:])
        made = [self._one(images, targets, index, fill) for index in range(len(images))]
        pixels = torch.stack([image for image, _ in made])
        room = 4 * targets.shape[1]
        boxes = torch.stack([F.pad(found, (0, 0, 0, room - len(found)), value=-1.0) for _, found in made])
        if self.flip:
            pixels, boxes = _mirrored(pixels, boxes)
        if self.colour:
            bright, contrast = (1 + self.colour * (2 * torch.rand(2, len(pixels), 1, 1, 1) - 1)).to(pixels.device)
            mean = pixels.mean((1, 2, 3), keepdim=True)
            pixels = ((pixels - mean) * contrast + mean * bright).clamp_(0, 255)
        return Fitted(pixels, inputs.size), boxes

    def _one(self, images: Tensor, targets: Tensor, index: int, fill: Tensor) -> tuple[Tensor, Tensor]:
        """One image [3, H, W] and what is in it, up to 4 × M rows."""
        count, _, height, width = images.shape
        dice = torch.rand(16).tolist()  # on the CPU: shapes depend on them, and a device would be waited for
        image = fill.clone()
        found = []
        if dice[0] < self.share:
            across, down = round(width * (0.3 + 0.4 * dice[1])), round(height * (0.3 + 0.4 * dice[2]))
            parts = [(0, 0, across, down), (across, 0, width, down), (0, down, across, height)]
            parts.append((across, down, width, height))
            others = [index, *(int(value * count) for value in dice[3:6])]
        else:
            parts, others = [(0, 0, width, height)], [index]
        for number, (part, other) in enumerate(zip(parts, others, strict=True)):
            scale = self.scale ** (2 * dice[6 + number] - 1) * (0.75 if len(parts) > 1 else 1.0)
            found.append(_paste(image, part, images[other], targets[other], scale, *torch.rand(2).tolist()))
        return image, torch.cat(found)


def _paste(
    image: Tensor, part: tuple[int, int, int, int], source: Tensor, objects: Tensor, scale: float, x: float, y: float
) -> Tensor:
    """Fills a part of an image, in place, with a piece of another; the objects [M, 5] as they are then.

    Args:
        scale: of the source.
        x, y: where the piece is taken from, in 0..1 of what there is to choose; a source that is smaller than the part
            lies there instead.
    """
    left, top, right, bottom = part
    height, width = source.shape[1:]
    sizes = ((width, right - left, x), (height, bottom - top, y))
    spans = [_span(size, room, scale, where) for size, room, where in sizes]
    (from_x, to_x, at_x, wide), (from_y, to_y, at_y, high) = spans
    piece = source[None, :, from_y:to_y, from_x:to_x]
    smooth = source.device.type != "mps"  # which has no antialiasing
    pixels = F.interpolate(piece, (high, wide), mode="bilinear", align_corners=False, antialias=smooth)[0]
    image[:, top + at_y : top + at_y + high, left + at_x : left + at_x + wide] = pixels
    # Along each side by plain numbers: a tensor made of them would be a copy to the device each.
    x_ends = (objects[:, 0:4:2] - from_x) * (wide / (to_x - from_x)) + (left + at_x)  # [M, 2]
    y_ends = (objects[:, 1:4:2] - from_y) * (high / (to_y - from_y)) + (top + at_y)
    whole = torch.stack([ends[:, 1] - ends[:, 0] for ends in (x_ends, y_ends)], dim=1)
    x_ends, y_ends = x_ends.clamp(left + at_x, left + at_x + wide), y_ends.clamp(top + at_y, top + at_y + high)
    sides = torch.stack([ends[:, 1] - ends[:, 0] for ends in (x_ends, y_ends)], dim=1)
    kept = (objects[:, 4] >= 0) & (sides > SMALLEST).all(1) & (sides.prod(1) > VISIBLE * whole.prod(1))
    cut = torch.stack([x_ends[:, 0], y_ends[:, 0], x_ends[:, 1], y_ends[:, 1], objects[:, 4]], dim=1)
    return cut.masked_fill(~kept[:, None], -1.0)


def _span(size: int, room: int, scale: float, where: float) -> tuple[int, int, int, int]:
    """Along one side: the piece of the source, from pixel to pixel, where it begins in the part, and how long it is."""
    taken = min(size, max(1, round(room / scale)))
    start = round(where * (size - taken))
    length = min(room, max(1, round(taken * scale)))
    return start, start + taken, round(where * (room - length)), length


def _mirrored(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    flip = (torch.rand(len(pixels)) < 0.5).to(pixels.device)
    width = pixels.shape[3]
    other = torch.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], dim=-1)
    other = torch.cat([other, boxes[..., 4:]], dim=-1)
    return torch.where(flip[:, None, None, None], pixels.flip(3), pixels), torch.where(
        flip[:, None, None], other, boxes
    )
