"""Other ways in which a word might have been spoken and recorded, for whole batches on their device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Perturb:
    """(clips int16 [B, N], targets int64 [B]) to clips as float32 in -1..1, and targets; drawn for each clip.

    A pure function of the batch and of PyTorch's global random state; the batch must be shuffled, because mixup pairs
    neighbours.

    Args:
        speed: spoken up to so much faster or slower, and higher or lower with it (Ko et al. 2015).
        shift: moved by up to this share of the clip.
        noise: largest strength of noise, as a share of the loudness of the clip; half of the clips get some.
        mixup: alpha of mixup (Zhang et al. 2018); 0 for none. The targets are then float [B, classes].
        classes: number of classes.
        recordings: of noise, float32 [M] each, M ≥ N; none for white and brown noise alone.
    """

    speed: float = 0.0
    shift: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    classes: int = 0
    recordings: Sequence[Tensor] = ()

    def __call__(self, clips: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One batch."""
        x = clips.float() / 32768
        if self.speed or self.shift:
            x = self._moved(x)
        if self.noise:
            x = x + self._noise(x)
        if self.mixup:
            return self._mixed(x, targets)
        return x, targets

    def _moved(self, x: Tensor) -> Tensor:
        """Faster or slower about the middle, and shifted; between samples in a straight line."""
        count, length = x.shape
        random = 2 * torch.rand(2, count, 1, device=x.device) - 1
        places = (
            torch.linspace(-1, 1, length, device=x.device) * (1 + self.speed * random[0]) + 2 * self.shift * random[1]
        )
        grid = torch.stack([places, torch.zeros_like(places)], dim=2).unsqueeze(1)  # [B, 1, N, 2]
        moved = F.grid_sample(x.view(count, 1, 1, length), grid, padding_mode="zeros", align_corners=True)
        return moved.view(count, length)

    def _noise(self, x: Tensor) -> Tensor:
        count, length = x.shape
        noise = torch.randn(count, length, device=x.device)
        # Brown noise as white noise whose neighbours are averaged over up to 16 samples.
        soft = F.avg_pool1d(noise.unsqueeze(1), 9, 1, 4).squeeze(1) * 3
        random = torch.rand(3, count, 1, device=x.device)
        noise = torch.lerp(noise, soft, random[0])
        if self.recordings:
            noise = torch.where(torch.rand(count, 1, device=x.device) < 0.5, self._recorded(x), noise)
        loudness = x.square().mean(1, keepdim=True).sqrt()
        strength = self.noise * random[1].square() * (random[2] < 0.5)
        return noise * loudness * strength

    def _recorded(self, x: Tensor) -> Tensor:
        """Of loudness 1, from anywhere in any of the recordings."""
        count, length = x.shape
        which = torch.randint(len(self.recordings), (count,)).tolist()
        parts = []
        for number in which:
            start = int(torch.randint(len(self.recordings[number]) - length + 1, ()))
            parts.append(self.recordings[number][start : start + length])
        noise = torch.stack(parts).to(x.device)
        return noise / noise.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)

    def _mixed(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.distributions.Beta(self.mixup, self.mixup).sample((len(x), 1)).to(x.device)
        hot = F.one_hot(targets, self.classes).float()
        return torch.lerp(x, x.roll(1, 0), share), torch.lerp(hot, hot.roll(1, 0), share)
