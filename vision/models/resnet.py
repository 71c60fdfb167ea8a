"""ResNet (He, Zhang, Ren, Sun, 2015, arXiv:1512.03385). `base` is ResNet-18, `large` is ResNet-50.

Deviations from the paper:
1. Below 96 px the stem is one 3×3 convolution with stride 1 (layers.stem), as in the paper's CIFAR-10 networks.
2. The stride of a bottleneck is in its 3×3 convolution, not in the first 1×1 ("v1.5", more accurate).
3. The last batch norm of each block starts at zero (Goyal et al., 2017, arXiv:1706.02677).
4. Shortcuts that change shape are 1×1 projections (the paper's option B) in all sizes.
5. `tiny` and `small` have three stages, like the paper's CIFAR-10 networks, of one block each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vision.models.layers import conv_bn_act, init_weights, start_at_zero, stem

# widths and blocks: channels and residual blocks of each stage (a bottleneck's output has four times the width)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 16, 32), "blocks": (1, 1, 1)},
    "small": {"widths": (24, 48, 96), "blocks": (1, 1, 1)},
    "base": {"widths": (64, 128, 256, 512), "blocks": (2, 2, 2, 2)},
    "large": {"widths": (64, 128, 256, 512), "blocks": (3, 4, 6, 3), "bottleneck": True},
}


class Block(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3, 1×1 in a bottleneck, around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            self.layers = nn.Sequential(
                conv_bn_act(inputs, width, 1),
                conv_bn_act(width, width, 3, stride),
                last := conv_bn_act(width, outputs, 1, act=None),
            )
        else:
            self.layers = nn.Sequential(
                conv_bn_act(inputs, width, 3, stride),
                last := conv_bn_act(width, outputs, 3, act=None),
            )
        start_at_zero(last[-1])
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn_act(inputs, outputs, 1, stride, act=None) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]
        return F.relu(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        self.stem = stem(channels, widths[0], image_size)
        inputs = widths[0]
        layers: list[nn.Module] = []
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1  # 28, 14, 7, 4
                layers.append(Block(inputs, width, stride, bottleneck))
                inputs = 4 * width if bottleneck else width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.blocks(self.stem(images))  # [B, outputs, h, w]
        return self.head(maps.mean((2, 3)))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return ResNet(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
