"""Encoder and decoder of a VAE, and what pictures cost in bits by them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from generative.layers import UpConv2d

WIDTHS = {"tiny": 16, "small": 32, "base": 64}  # channels of the largest map


def stages(side: int, width: int) -> tuple[int, list[int]]:
    """The side of the smallest map, and the channels of each map from the largest on; each is half the one before."""
    widths = [width]
    while side > 4 and side % 2 == 0:
        side, widths = side // 2, [*widths, min(2 * widths[-1], 4 * width)]
    return side, widths


def layer(convolution: nn.Module, wide: int) -> list[nn.Module]:
    return [convolution, nn.GroupNorm(8, wide), nn.SiLU()]


class Encoder(nn.Module):
    """Pictures [B, C, S, S] in [−1, 1] to means and logarithms of variances, [B, 2, Z]."""

    def __init__(self, channels: int, side: int, latent: int, width: int) -> None:
        super().__init__()
        smallest, widths = stages(side, width)
        layers = layer(nn.Conv2d(channels, width, 3, padding=1), width)
        for above, wide in pairwise(widths):
            layers += layer(nn.Conv2d(above, wide, 4, stride=2, padding=1), wide)
            layers += layer(nn.Conv2d(wide, wide, 3, padding=1), wide)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * smallest**2, 2 * latent))

    def forward(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.body(pictures).unflatten(1, (2, -1)).float()
        return found


class Decoder(nn.Module):
    """Latents [B, Z] to the middle of each pixel and the logarithm of its scale, [B, 2C, S, S]."""

    def __init__(self, channels: int, side: int, latent: int, width: int) -> None:
        super().__init__()
        smallest, widths = stages(side, width)
        self.first = nn.Linear(latent, widths[-1] * smallest**2)
        layers: list[nn.Module] = layer(nn.Identity(), widths[-1])
        for wide, above in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers += layer(UpConv2d(wide, above), above) + layer(nn.Conv2d(above, above, 3, padding=1), above)
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, 2 * channels, 3, padding=1)
        self.side = smallest

    def forward(self, latents: Tensor) -> Tensor:
        x = self.first(latents).unflatten(1, (-1, self.side, self.side))
        pixels: Tensor = self.last(self.body(x)).float()
        return pixels


class Coded(NamedTuple):
    """What a VAE makes of pictures: the code's distribution [B, 2, Z], and that of the pixels, [B, 2C, S, S]."""

    code: Tensor
    pixels: Tensor


class Vae(nn.Module):
    """Encoder and decoder (Kingma and Welling 2014, arXiv 1312.6114); noise comes from outside."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Coded:
        """Of pictures [B, C, S, S] and normal noise [B, Z]."""
        pictures, noise = inputs
        code = self.encoder(pictures)
        mean, log_variance = code.unbind(1)
        return Coded(code, self.decoder(mean + (log_variance / 2).exp() * noise))


def bits(coded: Coded, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of the bound in bits per dimension, [B] each: of the pixels given the code, and of the code.

    The second is the Kullback-Leibler divergence from N(0, 1).
    """
    mean, log_variance = coded.code.unbind(1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    unit = math.log(2) * pictures[0].numel()
    return -log_likelihood(coded.pixels, pictures).flatten(1).sum(1) / unit, divergence / unit


def log_likelihood(pixels: Tensor, pictures: Tensor) -> Tensor:
    """The logarithm of the probability of each pixel's value among 256, [B, C, S, S].

    A logistic distribution, cut into 256 values and with its tails in the outermost ones (Salimans et al. 2017, arXiv
    1701.05517).
    """
    middle, log_scale = pixels.chunk(2, dim=1)
    log_scale = 7 * (log_scale / 7).tanh()  # within ±7, and never without a gradient
    centred, sharp = pictures - middle, (-log_scale).exp()
    upper, lower = sharp * (centred + 1 / 255), sharp * (centred - 1 / 255)
    share = upper.sigmoid() - lower.sigmoid()
    # Far from the middle the difference drowns in rounding: there the density times the width of a value.
    density = sharp * centred - log_scale - 2 * F.softplus(sharp * centred) - math.log(127.5)
    inside = _either(share > 1e-5, (share + 1e-12).log(), density)
    return _either(pictures < -0.999, -F.softplus(-upper), _either(pictures > 0.999, -F.softplus(lower), inside))


def _either(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """One value or the other; what is not chosen gets no gradient, be it NaN."""
    return yes.masked_fill(~mask, 0) + no.masked_fill(mask, 0)
