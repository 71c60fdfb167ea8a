"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen, 2018, arXiv:1801.04381). `large` is its width 1.4.

Deviations from the paper:
1. Below 96 px the stem and the second stage have stride 1 (layers.reduction), so that 28 px end at 4×4, not 1×1.
2. `tiny` and `small` have their own, shorter stages with expansion 3 or 4; dropout only in `base` and `large`.
3. The last batch norm of each residual block starts at zero (Goyal et al., 2017, arXiv:1706.02677).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vision.models.layers import InvertedResidual, conv_bn_act, init_weights, reduction

# Table 2 of the paper, one row a stage: expansion, width, layers, stride
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# first and last: channels of the first and last convolution; width: the paper's multiplier
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"stages": ((1, 8, 1, 1), (3, 16, 1, 2), (3, 24, 1, 2), (3, 32, 1, 2)), "first": 8, "last": 128},
    "small": {"stages": ((1, 16, 1, 1), (3, 24, 1, 2), (4, 40, 2, 2), (4, 80, 2, 2)), "first": 16, "last": 320},
    "base": {"stages": V2, "first": 32, "last": 1280, "dropout": 0.2},
    "large": {"stages": V2, "first": 32, "last": 1280, "width": 1.4, "dropout": 0.2},
}


class MobileNetV2(nn.Module):
    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        stages: tuple[tuple[int, int, int, int], ...],
        first: int,
        last: int,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return round(channels * width / 8) * 8

        early = 2 if reduction(image_size) > 1 else 1
        inputs = scaled(first)
        layers: list[nn.Module] = [conv_bn_act(channels, inputs, 3, stride=early, act=nn.ReLU6)]
        for stage, (expand, outputs, count, stride) in enumerate(stages):
            for layer in range(count):
                block = InvertedResidual(
                    inputs,
                    scaled(outputs),
                    expand=expand,
                    kernel=3,
                    stride=1 if layer else early if stage == 1 else stride,  # 28, 14, 7, 4
                    act=nn.ReLU6,
                )
                layers.append(block)
                inputs = scaled(outputs)
        layers.append(conv_bn_act(inputs, scaled(last), 1, act=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(scaled(last), classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.features(images)  # [B, last, h, w]
        return self.head(self.dropout(maps.mean((2, 3))))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return MobileNetV2(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
