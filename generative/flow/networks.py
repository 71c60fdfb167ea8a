"""A U-Net that says of a noisy picture what is picture in it and what is noise.

The layout is that of Ho et al. 2020 (arXiv 2006.11239), small; time and class scale and shift the features of every
block, as in Dhariwal and Nichol 2021 (arXiv 2105.05233).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generative.layers import UpConv2d

# Channels at the first level, their multiples at each level, and blocks per level.
SIZES: dict[str, tuple[int, tuple[int, ...], int]] = {
    "tiny": (16, (1, 2), 1),
    "small": (32, (1, 2, 4), 1),
    "base": (64, (1, 2, 4), 2),
}
WORKING_SIDE = 16  # pixels at the first level, or up to twice as many: larger pictures are folded into channels


class UNet(nn.Module):
    """Noisy pictures, times and classes to the target of the training, [B, C, S, S].

    Args:
        classes: K; 0 where pictures are not asked for by class. Class K stands for none.
        side: S, a multiple of `step_of(side, size)`.
    """

    def __init__(self, channels: int, classes: int, side: int, size: str) -> None:
        super().__init__()
        width, multiples, blocks = SIZES[size]
        self.fold = fold_of(side)
        pixels, known = channels * self.fold**2, 4 * width
        self.time = nn.Sequential(Wave(width), nn.Linear(width, known), nn.SiLU(), nn.Linear(known, known))
        self.label = nn.Embedding(classes + 1, known) if classes else None
        self.first = nn.Conv2d(pixels, width, 3, padding=1)

        widths = [width * multiple for multiple in multiples]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for above, wide in zip([width, *widths], widths, strict=False):
            shrink = nn.Conv2d(above, above, 3, stride=2, padding=1) if len(self.down) else None
            chain: list[nn.Module] = [Block(above if i == 0 else wide, wide, known) for i in range(blocks)]
            self.down.append(Level(chain, before=shrink))
        wide = widths[-1]
        self.middle = Level([Block(wide, wide, known), Attention(wide), Block(wide, wide, known)])
        for wide, above in zip(widths[::-1], [*widths[-2::-1], 0], strict=True):
            grow = UpConv2d(wide, above) if above else None
            # The first block also sees what the level of the same size found on the way down.
            chain = [Block(2 * wide if i == 0 else wide, wide, known) for i in range(blocks)]
            self.up.append(Level(chain, after=grow))
        self.last = nn.Sequential(norm(width), nn.SiLU(), zeroed(nn.Conv2d(width, pixels, 3, padding=1)))

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Of pictures [B, C, S, S], times [B] in [0, 1] and, with classes, labels int64 [B]."""
        x, time, *labels = inputs
        known = self.time(time)  # [B, 4W]
        if self.label is not None:
            known = known + self.label(labels[0])
        known = F.silu(known)
        x = self.first(F.pixel_unshuffle(x, self.fold))  # [B, W, S / fold, S / fold]
        found = []
        for level in self.down:
            x = level(x, known)
            found.append(x)
        x = self.middle(x, known)
        for level in self.up:
            x = level(torch.cat([x, found.pop()], dim=1), known)
        return F.pixel_shuffle(self.last(x), self.fold).float()


class Level(nn.Module):
    """Blocks at one size of the map, between what leads to it from another size and what leads on."""

    def __init__(
        self, blocks: list[nn.Module], before: nn.Module | None = None, after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        x = self.before(x)
        for block in self.blocks:
            x = block(x, known)
        scaled: Tensor = self.after(x)
        return scaled


class Block(nn.Module):
    """A residual block: [B, C, H, W] to [B, C', H, W], scaled and shifted by what is known, [B, D]."""

    def __init__(self, channels: int, wide: int, known: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), nn.Conv2d(channels, wide, 3, padding=1)
        self.norm2, self.conv2 = norm(wide), zeroed(nn.Conv2d(wide, wide, 3, padding=1))
        self.modulate = nn.Linear(known, 2 * wide)
        self.skip = nn.Conv2d(channels, wide, 1) if channels != wide else nn.Identity()

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        scale, shift = self.modulate(known)[:, :, None, None].chunk(2, dim=1)  # [B, C', 1, 1] each
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.norm2(hidden) * (1 + scale) + shift
        mixed: Tensor = self.skip(x) + self.conv2(F.silu(hidden))
        return mixed


class Attention(nn.Module):
    """Self-attention among all places of a map, added to it; what else is known plays no part."""

    def __init__(self, wide: int, head: int = 32) -> None:
        super().__init__()
        self.heads = max(1, wide // head)
        self.norm, self.qkv, self.out = norm(wide), nn.Conv2d(wide, 3 * wide, 1), zeroed(nn.Conv2d(wide, wide, 1))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))  # [B, 3, heads, D, HW]
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [B, heads, HW, D] each
        seen = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)  # [B, heads, D, HW]
        return x + self.out(seen.flatten(1, 2).unflatten(2, x.shape[2:]))


class Wave(nn.Module):
    """Times [B] in [0, 1] as sines and cosines of many frequencies, [B, D] (Vaswani et al. 2017, arXiv 1706.03762)."""

    frequencies: Tensor

    def __init__(self, wide: int) -> None:
        super().__init__()
        exponents = torch.arange(wide // 2) / (wide // 2)
        self.register_buffer("frequencies", 1000 * torch.exp(-math.log(10_000) * exponents), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that says nothing at first: each residual block begins as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def fold_of(side: int) -> int:
    """Pixels along each side that become channels of one place, so that small maps do the work on large pictures."""
    return max(1, 2 ** int(math.log2(side / WORKING_SIDE))) if side >= WORKING_SIDE else 1


def step_of(side: int, size: str) -> int:
    """What the side of a picture must be a multiple of."""
    return int(fold_of(side) * 2 ** (len(SIZES[size][1]) - 1))
