"""VGG (Simonyan, Zisserman, 2014, arXiv:1409.1556): stages of plain 3×3 convolutions with a pool after each.
`base` has the convolutions of VGG-16 (configuration D), `large` those of VGG-19 (E).

Deviations from the paper:
1. Batch norm after every convolution; the paper predates it and had to train in steps.
2. The last pool is global, so that every image size works. `tiny` and `small` classify its output directly;
   `base` and `large` have 512 units in the two fully connected layers, not 4,096.
3. `tiny` and `small` have three stages.
4. Images from 96 px on pass a stem that shrinks them by 4 (layers.stem); VGG-16 at 224 px would cost 15 GMACs.
5. Pools round up (28, 14, 7, 4, 2), so that 28 px survive five stages.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vision.models.layers import conv_bn_act, init_weights, reduction, stem

# widths and depths: channels and convolutions of each stage; hidden: units of the fully connected layers
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 16, 32), "depths": (1, 1, 1)},
    "small": {"widths": (16, 32, 64), "depths": (2, 2, 2)},
    "base": {"widths": (64, 128, 256, 512, 512), "depths": (2, 2, 3, 3, 3), "hidden": 512},
    "large": {"widths": (64, 128, 256, 512, 512), "depths": (2, 2, 4, 4, 4), "hidden": 512},
}


class VGG(nn.Module):
    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        hidden: int = 0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        shrink = reduction(image_size) > 1
        self.stem = stem(channels, widths[0], image_size) if shrink else nn.Identity()
        inputs = widths[0] if shrink else channels
        layers: list[nn.Module] = []
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 28, 14, 7, 4, 2
            for _ in range(depth):
                layers.append(conv_bn_act(inputs, width))
                inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential()
        for _ in range(2 if hidden else 0):
            self.classifier.extend([nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)])
            inputs = hidden
        self.head = nn.Linear(inputs, classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.features(self.stem(images))  # [B, widths[-1], h, w]
        return self.head(self.classifier(maps.amax((2, 3))))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return VGG(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
