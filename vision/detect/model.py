"""The detector: a residual network, a feature pyramid, and a head that says at every point what is there, and where.

After FCOS (Tian et al. 2019, arXiv 1904.01355): no anchors; each point of each level is asked for a class, a box and
how well that box fits. What a box's score is, and which boxes are kept, stands in `select`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)  # pixels between the points of each level
BOX = 4.0  # strides: the side of every box before training
RARE = 0.01  # probability of every class before training, as in RetinaNet (arXiv 1708.02002)
CANDIDATES, MOST, LOWEST, OVERLAP = 300, 100, 0.05, 0.6  # of an image: see `select`
OWN = "residual"  # the backbone of this file

# Channels of the first level, residual blocks of each level, and channels of pyramid and heads.
SIZES = {"tiny": (6, 1, 16), "small": (24, 1, 48), "base": (32, 2, 64), "large": (64, 3, 128)}


class Outputs(NamedTuple):
    """What the network says of every point of every level, the finest level first.

    Args:
        classes: logits [B, L, K].
        quality: logits [B, L] of the IoU that the box has with the object.
        boxes: [B, L, 4], left, top, right and bottom in pixels of the canvas.
    """

    classes: Tensor
    quality: Tensor
    boxes: Tensor


def conv(channels: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, SiLU."""
    layer = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions, and what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(channels, channels), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Backbone(nn.Module):
    """Images [B, 3, H, W] to features of each level, [B, C_l, H / stride_l, W / stride_l].

    Attributes:
        channels: of each level.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.channels = [2 * width, 4 * width, 6 * width, 8 * width]
        self.stem = conv(3, width, stride=2)
        before = [width, *self.channels]
        self.levels = nn.ModuleList(
            nn.Sequential(conv(c, outputs, stride=2), *(Residual(outputs) for _ in range(blocks)))
            for c, outputs in zip(before, self.channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144): every level learns what the coarser ones know."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv(c, width, kernel=1) for c in channels)
        self.smooth = nn.ModuleList(conv(width, width) for _ in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for fine in reversed(range(len(levels) - 1)):
            size = levels[fine].shape[-2:]
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size, mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


class Head(nn.Module):
    """Two towers and three answers, with the same kernels on every level but norms of its own."""

    def __init__(self, classes: int, width: int, levels: int) -> None:
        super().__init__()
        self.what = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.where = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.what_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        self.where_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.box = nn.Conv2d(width, 5, 3, padding=1)  # centre, size, quality
        nn.init.constant_(_bias(self.classes), -math.log((1 - RARE) / RARE))
        nn.init.normal_(self.box.weight, std=0.01)
        nn.init.zeros_(_bias(self.box))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """[B, width, h, w] to classes [B, h × w, K] and the rest [B, h × w, 5]."""
        what = F.silu(self.what_norms[level](self.what(x)))
        where = F.silu(self.where_norms[level](self.where(x)))
        return self.classes(what).flatten(2).mT, self.box(where).flatten(2).mT


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class Detector(nn.Module):
    """Images, normalised [B, 3, H, W], to the three of `Outputs` for L points.

    Args:
        backbone: with `channels` of each level.
        classes: K.
        width: channels of pyramid and head.
        size: height and width of the images.
    """

    points: Tensor
    strides: Tensor

    def __init__(self, backbone: nn.Module, classes: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = Pyramid(list(backbone.channels), width)  # type: ignore[arg-type]
        self.head = Head(classes, width, len(STRIDES))
        points, strides = point_grid(*size)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = [self.head(x, level) for level, x in enumerate(self.pyramid(self.backbone(images)))]
        classes, rest = (torch.cat(parts, dim=1).float() for parts in zip(*found, strict=True))  # [B, L, K], [B, L, 5]
        centre = self.points + rest[..., 0:2] * self.strides  # [B, L, 2]
        half = 0.5 * BOX * F.hardtanh(rest[..., 2:4], -6, 6).exp() * self.strides
        return classes, rest[..., 4], torch.cat([centre - half, centre + half], dim=-1)


def point_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The points of every level [L, 2], in the middle of their cells, in pixels; and the stride of each [L, 1]."""
    points, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(-(-height // stride)), torch.arange(-(-width // stride)), indexing="ij")
        points.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((len(points[-1]), 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


def build(size: str, classes: int, canvas: tuple[int, int], backbone: str = OWN, weights: str = "none") -> Detector:
    """The detector of one of SIZES.

    Args:
        canvas: height and width of the images.
        backbone: OWN, or `torchvision/NAME`, then with the weights that `backbones.build` takes.
    """
    width, blocks, head = SIZES[size]
    if backbone == OWN:
        return Detector(Backbone(width, blocks), classes, head, canvas)
    from vision.detect import backbones

    return Detector(backbones.build(backbone, weights), classes, head, canvas)


# --- from outputs to boxes ---------------------------------------------------------------------------------


@torch.no_grad()
def select(outputs: Outputs) -> Tensor:
    """The boxes of each image that are kept: [B, MOST, 6], left, top, right, bottom, score, class; on the CPU.

    A score is √(probability of the class × quality). Of the CANDIDATES best ones from LOWEST on, those are dropped that
    overlap a better one of their class by an IoU of more than OVERLAP (non-maximum suppression). Best first; a score of
    0 where there is no more.
    """
    from torchvision.ops import batched_nms

    scores = (outputs.classes.sigmoid() * outputs.quality.sigmoid().unsqueeze(-1)).sqrt()  # [B, L, K]
    classes = scores.shape[-1]
    best, places = scores.flatten(1).topk(min(CANDIDATES, scores[0].numel()))  # [B, C]
    boxes = outputs.boxes.gather(1, (places // classes).unsqueeze(-1).expand(-1, -1, 4))
    # A few hundred boxes: the CPU is as fast, and every device then drops the same ones.
    best, labels, boxes = best.cpu(), (places % classes).cpu(), boxes.cpu()
    kept = torch.zeros(len(scores), MOST, 6)
    for image in range(len(scores)):
        good = best[image] >= LOWEST
        b, s, c = boxes[image][good], best[image][good], labels[image][good]
        order = batched_nms(b, s, c, OVERLAP)[:MOST]
        kept[image, : len(order)] = torch.cat([b[order], s[order, None], c[order, None].float()], dim=1)
    return kept


class Selecting(nn.Module):
    """A detector whose output is what `select` keeps."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        return select(Outputs(*self.detector(images)))
