"""Convolutional generator and discriminator for images of 32 × 32, with and without normalisation.

DCGAN's layout (Radford, Metz and Chintala 2016, arXiv 1511.06434) with resize-convolutions in the place of transposed
ones (Odena, Dumoulin and Olah 2016, distill.pub/2016/deconv-checkerboard).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from generative.layers import UpConv2d

SIDE = 32  # pixels

# Channels of the generator, from its smallest map to the full size, and of the discriminator, each half the size of
# the one before. "base" are the channels of PyTorch-GAN's dcgan.py at 32 × 32.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tiny": ((32, 24, 12), (12, 24, 48)),
    "small": ((128, 64, 32, 32), (32, 64, 128)),
    "base": ((128, 128, 64), (16, 32, 64, 128)),
}


class Generator(nn.Module):
    """Latents to images: [B, Z, 1, 1] (and labels [B]) to [B, channels, 32, 32] in [−1, 1].

    Args:
        latent_size: Z.
        classes: 0 where images are not asked for by class.
        widths: channels from the smallest map to the full size.
        norm: batch norm behind every convolution but the last.
    """

    def __init__(self, latent_size: int, classes: int, channels: int, widths: tuple[int, ...], norm: bool) -> None:
        super().__init__()
        self.side = SIDE >> (len(widths) - 1)
        self.embed = nn.Embedding(classes, latent_size) if classes else None
        inputs = 2 * latent_size if classes else latent_size
        self.project = nn.Linear(inputs, widths[0] * self.side**2, bias=not norm)
        self.first = nn.Sequential(*_finish(widths[0], norm))
        layers: list[nn.Module] = []
        for narrow, wide in zip(widths[1:], widths[:-1], strict=True):
            layers += [UpConv2d(wide, narrow, bias=not norm), *_finish(narrow, norm)]
        self.body = nn.Sequential(*layers)
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.apply(_dcgan_init if norm else _he_init)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Labels default to class 0 where the generator wants any."""
        z = latents.flatten(1)  # [B, Z]
        if self.embed is not None:
            labels = torch.zeros(len(z), dtype=torch.long, device=z.device) if labels is None else labels
            z = torch.cat([z, self.embed(labels)], dim=1)  # [B, 2Z]
        # Cut so that the channels come last in memory: no copy before the convolutions.
        x = self.project(z).unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2)  # [B, W, S, S]
        return torch.tanh(self.to_image(self.body(self.first(x))).float())


class Discriminator(nn.Module):
    """Images to one logit each: [B, channels, 32, 32] (and labels [B]) to [B].

    With classes, the label's embedding is projected on the features and added to the logit (Miyato and Koyama 2018,
    arXiv 1802.05637).

    Args:
        classes: 0 for a discriminator that sees no labels.
        widths: channels of the convolutions, each of stride 2.
        norm: batch norm behind every convolution but the first.
    """

    def __init__(self, classes: int, channels: int, widths: tuple[int, ...], norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (wide, narrow) in enumerate(zip(widths, (channels, *widths[:-1]), strict=True)):
            normed = norm and number > 0
            layers.append(nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=not normed))
            layers += [nn.BatchNorm2d(wide)] if normed else []
            layers.append(nn.LeakyReLU(0.2, inplace=normed))
        self.body = nn.Sequential(*layers)
        features = widths[-1] * (SIDE >> len(widths)) ** 2
        self.head = nn.Linear(features, 1)
        self.embed = nn.Embedding(classes, features) if classes else None
        self.apply(_dcgan_init if norm else _he_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.body(images).flatten(1)  # [B, F]
        logits = self.head(features).squeeze(1)  # [B]
        if self.embed is not None:
            assert labels is not None, "this discriminator was built for classes"
            logits = logits + (self.embed(labels) * features).sum(1)
        return logits.float()


def _finish(width: int, norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU(inplace=True)] if norm else [nn.LeakyReLU(0.2)]


def _dcgan_init(module: nn.Module) -> None:
    """Weights from N(0, 0.02²), scales of batch norm from N(1, 0.02²): Radford et al. 2016, section 4."""
    _init(module, lambda weight: nn.init.normal_(weight, std=0.02))
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _he_init(module: nn.Module) -> None:
    """Weights that keep the variance from layer to layer, which nothing else does without normalisation."""
    _init(module, lambda weight: nn.init.kaiming_normal_(weight, a=0.2))


def _init(module: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        draw(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):  # of the generator's latents, or of the discriminator's many features
        nn.init.normal_(module.weight, std=1.0 if module.embedding_dim <= 512 else 0.02)
