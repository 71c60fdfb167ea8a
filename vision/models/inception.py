"""GoogLeNet, the first Inception network (Szegedy et al., 2014, arXiv:1409.4842).

Deviations from the paper:
1. Below 96 px the stem is one 3×3 convolution with stride 1 (layers.stem).
2. Batch norm after every convolution (Ioffe, Szegedy, 2015, arXiv:1502.03167), so no local response
   normalisation and no auxiliary classifiers, which were there to help gradients.
3. `tiny` and `small` keep some of the nine modules and a fraction of their widths; `large` widens them by 1.5.
4. Dropout (0.4) only in `base` and `large`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vision.models.layers import conv_bn_act, init_weights, stem

# Table 1 of the paper: 1×1, then 3×3 after its reduction, 5×5 after its reduction, 1×1 after the pool
MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# factor: of every width; stages: modules between two pools
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"factor": 0.125, "stages": (("3a",), ("4a",), ("5a",))},
    "small": {"factor": 0.25, "stages": (("3a", "3b"), ("4a", "4c"), ("5b",))},
    "base": {"factor": 1.0, "stages": (("3a", "3b"), ("4a", "4b", "4c", "4d", "4e"), ("5a", "5b")), "dropout": 0.4},
    "large": {"factor": 1.5, "stages": (("3a", "3b"), ("4a", "4b", "4c", "4d", "4e"), ("5a", "5b")), "dropout": 0.4},
}


class Inception(nn.Module):
    """Four views of the same maps side by side: 1×1, 3×3, 5×5 and pooled."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        w1, reduce3, w3, reduce5, w5, pooled = widths
        self.outputs = w1 + w3 + w5 + pooled
        self.branch1 = conv_bn_act(inputs, w1, 1)
        self.branch3 = nn.Sequential(conv_bn_act(inputs, reduce3, 1), conv_bn_act(reduce3, w3, 3))
        self.branch5 = nn.Sequential(conv_bn_act(inputs, reduce5, 1), conv_bn_act(reduce5, w5, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv_bn_act(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H, W]
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.pooled(x)], dim=1)


class GoogLeNet(nn.Module):
    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        factor: float,
        stages: tuple[tuple[str, ...], ...],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()

        def scaled(width: int) -> int:
            return max(4, round(width * factor / 4) * 4)

        first, inputs = scaled(64), scaled(192)
        self.stem = nn.Sequential(
            stem(channels, first, image_size),  # [B, first, 28, 28] at 28 px, 56 at 224 px
            conv_bn_act(first, first, 1),
            conv_bn_act(first, inputs, 3),
        )
        layers: list[nn.Module] = []
        for names in stages:
            layers.append(nn.MaxPool2d(3, 2, padding=1))  # 28, 14, 7, 4
            for name in names:
                module = Inception(inputs, tuple(scaled(width) for width in MODULES[name]))
                layers.append(module)
                inputs = module.outputs
        self.stages = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.stages(self.stem(images))  # [B, inputs, h, w]
        return self.head(self.dropout(maps.mean((2, 3))))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return GoogLeNet(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
