"""EfficientNet (Tan, Le, 2019, arXiv:1905.11946). `base` is B0, `large` is B2.

Deviations from the paper:
1. Below 96 px the stem and the second stage have stride 1 (layers.reduction), so that 28 px end at 4×4, not 1×1.
2. No stochastic depth.
3. `tiny` and `small` have their own, shorter stages with expansion 3 or 4; dropout only in `base` and `large`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from vision.models.layers import InvertedResidual, conv_bn_act, init_weights, reduction

# Table 1 of the paper, one row a stage: expansion, width, layers, stride, kernel
B0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# first and last: channels of the first and last convolution; width and depth: the paper's compound scaling
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"stages": ((1, 8, 1, 1, 3), (3, 16, 1, 2, 3), (3, 24, 1, 2, 3), (3, 32, 1, 2, 3)), "first": 8, "last": 96},
    "small": {
        "stages": ((1, 16, 1, 1, 3), (3, 24, 1, 2, 3), (4, 40, 2, 2, 3), (4, 80, 2, 2, 5)),
        "first": 16,
        "last": 320,
    },
    "base": {"stages": B0, "first": 32, "last": 1280, "dropout": 0.2},
    "large": {"stages": B0, "first": 32, "last": 1280, "width": 1.1, "depth": 1.2, "dropout": 0.3},
}


class EfficientNet(nn.Module):
    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        stages: tuple[tuple[int, int, int, int, int], ...],
        first: int,
        last: int,
        width: float = 1.0,
        depth: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return round(channels * width / 8) * 8

        early = 2 if reduction(image_size) > 1 else 1
        inputs = scaled(first)
        layers: list[nn.Module] = [conv_bn_act(channels, inputs, 3, stride=early, act=nn.SiLU)]
        for stage, (expand, outputs, count, stride, kernel) in enumerate(stages):
            for layer in range(math.ceil(count * depth)):
                block = InvertedResidual(
                    inputs,
                    scaled(outputs),
                    expand=expand,
                    kernel=kernel,
                    stride=1 if layer else early if stage == 1 else stride,  # 28, 14, 7, 4
                    act=nn.SiLU,
                    squeeze=max(1, inputs // 4),
                )
                layers.append(block)
                inputs = scaled(outputs)
        layers.append(conv_bn_act(inputs, scaled(last), 1, act=nn.SiLU))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(scaled(last), classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.features(images)  # [B, last, h, w]
        return self.head(self.dropout(maps.mean((2, 3))))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return EfficientNet(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
