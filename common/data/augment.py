"""Augmentation of whole batches on their device, with parameters of its own for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Config, Range
from common.config import option as any_option

GROUPS = 16  # of a batch that RandAugment treats apart
option = partial(any_option, group="Augmentation")


@dataclass(frozen=True)
class AugmentConfig(Config):
    """The settings of `Augment`, for an example's config to inherit; those left open are its recipe's to decide."""

    flip: bool = option(None, "mirror images left to right", unset="by data set")
    crop: int = option(None, "shift by up to this many pixels", at_least=0, at_most=64, unset="by data set")
    rotate: float = option(
        None, "turn by up to this many degrees", at_least=0, at_most=180, unset="by data set", tune=Range(0.0, 20.0)
    )
    zoom: float = option(
        None,
        "crop away up to this share of the area",
        at_least=0,
        at_most=0.95,
        unset="by data set",
        tune=Range(0.0, 0.5),
    )
    randaugment: int = option(0, "RandAugment magnitude; 0 for none", at_least=0, at_most=30)
    mixup: float = option(0.0, "mixup alpha; 0 for none", at_least=0, at_most=10)
    cutmix: float = option(0.0, "CutMix alpha; 0 for none", at_least=0, at_most=10)


@dataclass(frozen=True)
class Augment:
    """(x uint8 [B, C, S, S], y int64 [B]) to the same, augmented; in the order of the fields, those at 0 cost nothing.

    A pure function of the batch and of PyTorch's global random state (of the CPU, and of the batch's device); the
    batch must be shuffled, because mixup and cutmix pair neighbours. Mixing makes y float [B, classes], and mixup x
    float in [0, 255], which `ImageInput.normalize` takes too: mixing before or after an affine map is the same.

    Args:
        flip: mirror half of the images left to right.
        crop: shift by up to ± this many pixels in both directions, exactly; `padding` fills in.
        rotate: by up to ± this many degrees, bilinear.
        zoom: look at a random square of 1 − zoom to 1 of the area, enlarged, bilinear; in [0, 1).
        randaugment: magnitude, 1 to 30, of two random operations (Cubuk et al. 2020), drawn anew for each sixteenth of
            the batch.
        mixup: alpha of mixup (Zhang et al. 2018).
        cutmix: alpha of CutMix (Yun et al. 2019); with mixup, each batch gets one of the two.
        classes: number of classes, which mixing needs.
        padding: "zeros", or "reflect" as suits photos; for crop and rotate.

    Raises:
        ValueError: a field is out of range.
    """

    flip: bool = False
    crop: int = 0
    rotate: float = 0.0
    zoom: float = 0.0
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    classes: int = 0
    padding: str = "zeros"

    def __post_init__(self) -> None:
        if min(self.crop, self.rotate, self.mixup, self.cutmix) < 0 or not 0 <= self.zoom < 1:
            raise ValueError(f"crop, rotate, mixup and cutmix must be at least 0, and zoom in [0, 1): {self}")
        if not 0 <= self.randaugment <= 30 or self.padding not in ("zeros", "reflect"):
            raise ValueError(f"randaugment must be in 0 to 30, and padding zeros or reflect: {self}")
        if (self.mixup or self.cutmix) and self.classes < 2:
            raise ValueError("mixup and cutmix need the number of classes")

    @classmethod
    def of(cls, config: AugmentConfig, classes: int = 0) -> Augment:
        """What a config asks for; mixing needs the number of classes."""
        return cls(
            flip=config.flip,
            crop=config.crop,
            rotate=config.rotate,
            zoom=config.zoom,
            randaugment=config.randaugment,
            mixup=config.mixup,
            cutmix=config.cutmix,
            classes=classes,
        )

    @property
    def active(self) -> bool:
        """Whether any augmentation is on."""
        return any((self.flip, self.crop, self.rotate, self.zoom, self.randaugment, self.mixup, self.cutmix))

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one batch."""
        if self.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
        if self.crop:
            x = _shift(x, self.crop, self.padding)
        if self.rotate or self.zoom:
            x = _rotate_and_zoom(x, self.rotate, self.zoom, self.padding)
        if self.randaugment:
            x = torch.cat([self._randaugment(group) for group in x.split(math.ceil(len(x) / GROUPS))])
        if self.mixup or self.cutmix:
            x, y = self._mix(x.float() if self.mixup else x, y)
        return x, y

    @cached_property
    def _randaugment(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        transform: Callable[[Tensor], Tensor] = v2.RandAugment(num_ops=2, magnitude=self.randaugment)
        return transform

    @cached_property
    def _mix(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        from torchvision.transforms import v2

        kinds = [(v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)]
        chosen = [kind(alpha=alpha, num_classes=self.classes) for kind, alpha in kinds if alpha]
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = (
            chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)
        )
        return mix


def _shift(x: Tensor, most: int, padding: str) -> Tensor:
    """Each image moved by whole pixels, up to ± most; most < S where it reflects."""
    batch, _, height, width = x.shape
    if padding == "zeros":
        padded = F.pad(x, (most,) * 4)
    else:  # F.pad reflects no uint8
        padded = torch.cat([x[:, :, 1 : most + 1].flip(2), x, x[:, :, -most - 1 : -1].flip(2)], dim=2)
        padded = torch.cat([padded[..., 1 : most + 1].flip(3), padded, padded[..., -most - 1 : -1].flip(3)], dim=3)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 2·most+1, 2·most+1, S, S], a view
    offsets = torch.randint(2 * most + 1, (2, batch), device=x.device)
    return windows[torch.arange(batch, device=x.device), :, offsets[0], offsets[1]]


def _rotate_and_zoom(x: Tensor, degrees: float, zoom: float, padding: str) -> Tensor:
    """Each image turned by up to ± degrees about the middle of a random square of 1 − zoom to 1 of its area."""
    random = torch.rand(4, len(x), device=x.device)
    angle = (2 * random[0] - 1) * math.radians(degrees)
    scale = (1 - zoom * random[1]).sqrt()  # side of the square
    middle = (2 * random[2:] - 1) * (1 - scale)  # [2, B], the square stays inside
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([cos, -sin, middle[0], sin, cos, middle[1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    mode = "zeros" if padding == "zeros" else "reflection"
    turned = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode=mode, align_corners=False)
    return turned.round_().to(torch.uint8)
