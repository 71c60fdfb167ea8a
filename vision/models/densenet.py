"""DenseNet-BC (Huang, Liu, van der Maaten, Weinberger, 2016, arXiv:1608.06993).
`base` is the paper's network for CIFAR of depth 100 and growth 12, `large` has the blocks of DenseNet-121.

Deviations from the paper:
1. `large` below 96 px has a 3×3 stem with stride 1 (layers.stem); `base` from 96 px on has the ImageNet stem.
2. `tiny` and `small` have bottlenecks of twice the growth, not four times: on a CPU the wide 28×28 maps cost most.
3. No dropout (the paper uses 0.2 where it does not augment).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vision.models.layers import init_weights, stem

# growth: maps that each layer adds; blocks: layers of each dense block; bottleneck: its width in units of growth
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"growth": 8, "blocks": (1, 2, 2), "bottleneck": 2},
    "small": {"growth": 16, "blocks": (2, 4, 4), "bottleneck": 2},
    "base": {"growth": 12, "blocks": (16, 16, 16), "bottleneck": 4},
    "large": {"growth": 32, "blocks": (6, 12, 24, 16), "bottleneck": 4},
}


def bn_relu_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Batch norm, ReLU, convolution; [B, inputs, H, W] -> [B, outputs, H, W]."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
    )


class DenseLayer(nn.Module):
    """Appends `growth` new maps to all maps before it."""

    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        hidden = bottleneck * growth
        self.layers = nn.Sequential(bn_relu_conv(inputs, hidden, 1), bn_relu_conv(hidden, growth, 3))

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, inputs + growth, H, W]
        return torch.cat([x, self.layers(x)], dim=1)


class DenseNet(nn.Module):
    def __init__(
        self, *, classes: int, channels: int, image_size: int, growth: int, blocks: tuple[int, ...], bottleneck: int
    ) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = stem(channels, width, image_size)
        layers: list[nn.Module] = []
        for block, count in enumerate(blocks):
            if block:  # transition with compression 0.5: half the maps, half the side (28, 14, 7)
                layers += [bn_relu_conv(width, width // 2, 1), nn.AvgPool2d(2)]
                width //= 2
            for _ in range(count):
                layers.append(DenseLayer(width, growth, bottleneck))
                width += growth
        self.blocks = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.blocks(self.stem(images))  # [B, width, h, w]
        return self.head(maps.mean((2, 3)))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return DenseNet(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
