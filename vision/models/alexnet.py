"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012, "ImageNet classification with deep convolutional neural
networks", NeurIPS; no arXiv). `large` is ZFNet's wider variant (Zeiler, Fergus, 2013, arXiv:1311.2901).

Deviations from the paper:
1. Below 96 px the first convolution is 5×5 with stride 1, in place of 11×11 with stride 4.
2. Batch norm (Ioffe, Szegedy, 2015, arXiv:1502.03167) in place of local response normalisation.
3. One column: no split of the channels over two GPUs.
4. The last pool reaches 2×2 whatever the image size (the paper: 6×6 at 224 px), so that the first fully
   connected layer is 9 × smaller.
5. Dropout is 0.2 in `tiny` and `small`, 0.5 as in the paper in the other sizes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vision.models.layers import conv_bn_act, init_weights, reduction

# widths: of the five convolutions; hidden: units of the two fully connected layers
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (8, 16, 24, 24, 16), "hidden": 64, "dropout": 0.2},
    "small": {"widths": (32, 64, 96, 96, 64), "hidden": 256, "dropout": 0.2},
    "base": {"widths": (96, 256, 384, 384, 256), "hidden": 4096, "dropout": 0.5},
    "large": {"widths": (96, 256, 512, 1024, 512), "hidden": 4096, "dropout": 0.5},
}


class AlexNet(nn.Module):
    def __init__(
        self, *, classes: int, channels: int, image_size: int, widths: tuple[int, ...], hidden: int, dropout: float
    ) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = widths
        if reduction(image_size) == 1:
            first, side = conv_bn_act(channels, w1, 5), image_size
        else:
            first, side = conv_bn_act(channels, w1, 11, stride=4), (image_size + 3) // 4
        side = ((side - 1) // 2 - 1) // 2  # after the first two pools: 6 at 28 px, 13 at 224 px
        self.features = nn.Sequential(  # shapes for 28 px
            first,  # [B, w1, 28, 28]
            nn.MaxPool2d(3, 2),  # [B, w1, 13, 13]
            conv_bn_act(w1, w2, 5),
            nn.MaxPool2d(3, 2),  # [B, w2, 6, 6]
            conv_bn_act(w2, w3),
            conv_bn_act(w3, w4),
            conv_bn_act(w4, w5),  # [B, w5, 6, 6]
            nn.MaxPool2d(side // 2),  # [B, w5, 2, 2]
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * w5, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(hidden, classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> logits [B, classes]
        return self.head(self.classifier(self.features(images).flatten(1)))


def build(size: str, *, classes: int, channels: int, image_size: int) -> nn.Module:
    return AlexNet(classes=classes, channels=channels, image_size=image_size, **SIZES[size])
