"""From a waveform to classes: log-mel spectrogram, what is hidden of it in training, and a depthwise CNN."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDS, WINDOW, HOP = 40, 0.025, 0.010  # mel bands; seconds of a frame, and from one to the next
LOWEST = 60.0  # Hz, of the first band
RANGE = 6.0  # of the logarithm (base 10) of energy, below the loudest of a clip: 60 dB
# Channels of the stem and of each stage; every stage but the first halves the spectrogram's sides.
SIZES: dict[str, tuple[int, ...]] = {"tiny": (16, 32), "small": (32, 64, 96), "base": (64, 128, 192)}
DEPTH = {"tiny": 1, "small": 2, "base": 3}  # blocks of a stage


class LogMel(nn.Module):
    """The log-mel spectrogram of waveforms, its loudness and contrast made those of every other clip.

    Args:
        rate: samples a second.
    """

    window: Tensor
    bands: Tensor

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.length, self.hop = round(WINDOW * rate), round(HOP * rate)
        self.size = 2 ** math.ceil(math.log2(self.length))
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        self.register_buffer("bands", mel_bands(self.size // 2 + 1, rate), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms [B, N] in -1..1 to [B, 1, BANDS, T], of mean 0 and deviation 1 in each clip."""
        # Energies span six powers of ten, which half a float's digits don't hold.
        device = waveforms.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            side = (self.length - self.hop) // 2
            frames = F.pad(waveforms.float(), (side, side)).unfold(1, self.length, self.hop)  # [B, T, length]
            spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window.float(), self.size))  # [B, T, F, 2]
            energy = spectrum.square().sum(3) @ self.bands.float()  # [B, T, BANDS]
            logs = energy.clamp(min=1e-10).log10()
            logs = torch.maximum(logs, logs.amax((1, 2), keepdim=True) - RANGE)
            mean = logs.mean((1, 2), keepdim=True)
            deviation = (logs - mean).square().mean((1, 2), keepdim=True).sqrt()
            return ((logs - mean) / (deviation + 1e-3)).transpose(1, 2).unsqueeze(1)


def mel_bands(bins: int, rate: int) -> Tensor:
    """Triangles over the frequencies of a Fourier transform, even on the mel scale (HTK's), [bins, BANDS]."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = 700 * (10 ** (torch.linspace(mel(LOWEST), mel(rate / 2), BANDS + 2) / 2595) - 1)  # [BANDS + 2]
    frequencies = torch.linspace(0, rate / 2, bins).unsqueeze(1)  # [bins, 1]
    width = (edges[1:] - edges[:-1]).clamp(min=rate / 2 / (bins - 1))  # no triangle falls between two bins
    up = (frequencies - edges[:-2]) / width[:-1]
    down = (edges[2:] - frequencies) / width[1:]
    return torch.minimum(up, down).clamp(0, 1)


class Hide(nn.Module):
    """In training, spectrograms as other throats would have made them, with parts hidden; drawn for each clip.

    Args:
        warp: largest stretch of the frequencies, as of a vocal tract that is so much shorter or longer (Jaitly and
            Hinton 2013); 0 for none.
        masks: bands of frequencies, and as many of time, that are hidden (SpecAugment, Park et al. 2019).
    """

    def __init__(self, warp: float, masks: int) -> None:
        super().__init__()
        self.warp, self.masks = warp, masks

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, M, T] to the same."""
        if not self.training:
            return x
        if self.warp:
            x = self._warped(x)
        for _ in range(self.masks):
            x = self._hidden(x, 2, 0.2)
            x = self._hidden(x, 3, 0.15)
        return x

    def _warped(self, x: Tensor) -> Tensor:
        count, _, bands, length = x.shape
        stretch = 1 + self.warp * (2 * torch.rand(count, 1, 1, device=x.device) - 1)
        rows = torch.linspace(-1, 1, bands, device=x.device).view(1, bands, 1)
        rows = ((rows + 1) * stretch - 1).expand(count, bands, length)  # the lowest band stays
        columns = torch.linspace(-1, 1, length, device=x.device).view(1, 1, length).expand(count, bands, length)
        grid = torch.stack([columns, rows], dim=3)  # [B, M, T, 2]
        return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="border", align_corners=True)

    def _hidden(self, x: Tensor, dimension: int, share: float) -> Tensor:
        """A run of up to a share of one dimension set to the mean, which is 0."""
        size = x.shape[dimension]
        random = torch.rand(2, len(x), 1, device=x.device)
        width = random[0] * share * size
        start = random[1] * (size - width)
        place = torch.arange(size, device=x.device)
        hidden = (place >= start) & (place < start + width)  # [B, size]
        shape = [len(x), 1, 1, 1]
        shape[dimension] = size
        return x.masked_fill(hidden.view(shape), 0.0)


class Block(nn.Module):
    """A depthwise 3 × 3 convolution, a pointwise one, and around both a way past them where shapes allow."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.past = inside == outside and stride == 1
        self.layers = nn.Sequential(
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
            nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return F.relu(x + y if self.past else y)


class Network(nn.Module):
    """A depthwise separable CNN over log-mel spectrograms, after DS-CNN (Zhang et al. 2017, arXiv 1711.07128).

    Args:
        rate: samples a second of what it hears.
        size: a key of SIZES.
    """

    def __init__(
        self, rate: int, size: str, classes: int, *, dropout: float = 0.0, warp: float = 0.0, masks: int = 0
    ) -> None:
        super().__init__()
        stem, *_ = channels = SIZES[size]
        self.spectrogram = LogMel(rate)
        self.hide = Hide(warp, masks)
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 5, 2, 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        blocks: list[nn.Module] = []
        inside = stem
        for stage, outside in enumerate(channels):
            for number in range(DEPTH[size] if stage else 1):
                blocks.append(Block(inside, outside, 2 if stage and not number else 1))
                inside = outside
        self.blocks = nn.Sequential(*blocks)
        rows = BANDS // 2 ** len(channels)  # that are left of the bands; where energy lies along them is what was said
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(inside * rows, classes))

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms [B, N] in -1..1 to logits [B, classes]."""
        x = self.hide(self.spectrogram(waveforms))  # [B, 1, BANDS, T]
        x = self.stem(x.to(self.head[2].weight.dtype))
        if x.device.type == "cpu":  # depthwise convolutions are a third faster so
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.blocks(x)  # [B, C, rows, time]
        logits: Tensor = self.head(x.mean(3))
        return logits
