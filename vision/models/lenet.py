"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, 1998, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11); no arXiv).

Deviations from the paper:
1. ReLU and max pooling in place of scaled tanh and trainable average pooling.
2. Every map of C3 sees every map of S2; the paper's table of connections saved work in 1998.
3. A linear layer with cross-entropy in place of Gaussian (RBF) outputs.
4. C1 is padded, so that 28 px (not 32) gives the paper's 28, 14, 10, 5, 1. Larger images leave C5, which is a
   convolution in the paper too, more than one position; their maximum is taken.
5. Images from 96 px on pass a stem that shrinks them by 4 (layers.stem) into C1; C3 is padded then, since 96 px
   leave it 12.
6. `tiny` has the paper's widths; the other sizes double them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vision.models.layers import init_weights, reduction, stem

# widths: maps of C1, C3, C5 and units of F6
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (6, 16, 120, 84)},
    "small": {"widths": (16, 32, 240, 168)},
    "base": {"widths": (32, 64, 480, 336)},
    "large": {"widths": (64, 128, 960, 672)},
}


class LeNet(nn.Module):
    def __init__(self, *, classes: int, channels: int, image_size: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        c1, c3, c5, f6 = widths
        shrink = reduction(image_size) > 1
        self.stem = stem(channels, c1, image_size) if shrink else nn.Identity()
        self.features = nn.Sequential(  # shapes for 28 px
            nn.Conv2d(c1 if shrink else channels, c1, 5, padding=2),  # C1: [B, c1, 28, 28]
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # S2: [B, c1, 14, 14]
            nn.Conv2d(c1, c3, 5, padding=2 if shrink else 0),  # C3: [B, c3, 10, 10]
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # S4: [B, c3, 5, 5]
            nn.Conv2d(c3, c5, 5),  # C5: [B, c5, 1, 1]
            nn.ReLU(inplace=True),
        )
        self.f6 = nn.Sequential(nn.Linear(c5, f6), nn.ReLU(inplace=True))
        self.head = nn.Linear(f6, classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        maps = self.features(self.stem(images))  # [B, c5, h, w]
        return self.head(self.f6(maps.amax((2, 3))))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return LeNet(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
