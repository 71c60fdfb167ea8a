"""Networks from a history to the quantiles of what follows; all start from ridge regression.

Shapes: B windows, C columns, L rows of history, H of the forecast, Q = len(LEVELS) quantiles. Columns are forecast
one by one with the same weights (channel independence; Nie et al. 2023, arXiv 2211.14730).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kinds.curve import LEVELS

NAMES = ("ridge", "nlinear", "patchtst", "lstm")
FLOOR = 0.05  # least scale of a window, in deviations of the training data: a flat one must not be divided by 0
MIDDLE = LEVELS.index(0.5)


class Forecaster(nn.Module):
    """The last value, a linear map of what came before it, and bands as wide as the window is restless.

    With the weights of ridge regression this is ridge regression; trained on it is NLinear (Zeng et al. 2023,
    arXiv 2205.13504). A trunk adds what a line can't say.

    Args:
        weights: of the ridge regression, [H, L].
        trunk: from scaled windows [N, L] to corrections [N, H, Q]; None for none.
        fixed: leave the line as it is, and learn only the bands.
    """

    def __init__(self, weights: Tensor, trunk: nn.Module | None = None, fixed: bool = False) -> None:
        super().__init__()
        horizon, lookback = weights.shape
        self.linear = nn.Linear(lookback, horizon, bias=False)
        self.linear.weight = nn.Parameter(weights.clone(), requires_grad=not fixed)
        self.bands = nn.Parameter(torch.zeros(horizon, len(LEVELS)))
        self.trunk = trunk
        self.free: Tensor
        self.register_buffer("free", torch.ones(len(LEVELS)), persistent=False)
        if fixed:
            self.free[MIDDLE] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Standardised windows [B, C, L] to quantiles [B, C, H, Q]; neighbours may cross."""
        last = x[..., -1:]
        centred = x - last
        scale = centred.std(-1, correction=0, keepdim=True) + FLOOR  # [B, C, 1]
        around = self.bands * self.free  # [H, Q]
        if self.trunk is not None:
            around = around + self.trunk((centred / scale).flatten(0, 1)).unflatten(0, x.shape[:2])
        middle = (last + self.linear(centred)).unsqueeze(-1)  # [B, C, H, 1]
        return middle + scale.unsqueeze(-1) * around

    @torch.no_grad()
    def widen(self, inputs: Tensor, targets: Tensor) -> None:
        """Starts the bands at the quantiles of what the line gets wrong: windows [N, C, L] and [N, C, H]."""
        errors = []
        for x, y in zip(inputs.split(1024), targets.split(1024), strict=True):
            middle = self(x)[..., MIDDLE]
            scale = (x - x[..., -1:]).std(-1, correction=0, keepdim=True) + FLOOR
            errors.append(((y - middle) / scale).flatten(0, 1))
        ordered = torch.cat(errors).sort(0).values  # [N × C, H]
        for number, level in enumerate(LEVELS):
            self.bands[:, number] = ordered[min(len(ordered) - 1, int(level * len(ordered)))]


class PatchTST(nn.Module):
    """A small Transformer over patches of a window (Nie et al. 2023): [N, L] to [N, H, Q]."""

    def __init__(self, lookback: int, horizon: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.patch = max(1, min(16, lookback // 4))
        self.stride = max(1, self.patch // 2)
        count = -(-(lookback - self.patch) // self.stride) + 1
        self.pad = (count - 1) * self.stride + self.patch - lookback
        self.embed = nn.Linear(self.patch, width)
        self.position = nn.Parameter(0.02 * torch.randn(count, width))
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(layers)))
        self.head = Head(count * width, horizon, dropout)

    def forward(self, x: Tensor) -> Tensor:
        # The oldest patch gets zeros before it where the patches do not fit: the newest rows matter most.
        patches = F.pad(x, (self.pad, 0)).unfold(-1, self.patch, self.stride)  # [N, P, patch]
        tokens = self.blocks(self.embed(patches) + self.position)  # [N, P, width]
        return self.head(tokens.flatten(1))


class Block(nn.Module):
    """Attention and MLP, each with its layer norm before and the identity around it: [N, P, width] to the same."""

    def __init__(self, width: int, dropout: float, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # q, k, v: [N, heads, P, width / heads]
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.project(attended))
        return x + self.dropout(self.mlp(self.norm2(x)))


class LSTM(nn.Module):
    """A recurrent network (Hochreiter and Schmidhuber 1997) read row by row: [N, L] to [N, H, Q]."""

    def __init__(self, horizon: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.head = Head(width, horizon, dropout)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x.unsqueeze(-1))  # [N, L, width]
        return self.head(out[:, -1])


class Head(nn.Module):
    """Features [N, D] to corrections [N, H, Q]; all zero before training, so that it starts from the line."""

    def __init__(self, features: int, horizon: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, horizon * len(LEVELS))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x)).unflatten(1, (-1, len(LEVELS)))


def build(name: str, weights: Tensor, width: int = 32, layers: int = 2, dropout: float = 0.2) -> Forecaster:
    """The network of a name, started from the ridge regression with these weights, [H, L]."""
    horizon, lookback = weights.shape
    trunk: nn.Module | None = None
    if name == "patchtst":
        trunk = PatchTST(lookback, horizon, width, layers, dropout)
    elif name == "lstm":
        trunk = LSTM(horizon, width, layers, dropout)
    return Forecaster(weights, trunk, fixed=name == "ridge")


def pinball(quantiles: Tensor, targets: Tensor) -> Tensor:
    """The pinball loss, mean over everything: quantiles [..., Q] against targets [...].

    Twice its mean over all levels is the CRPS (Gneiting and Raftery 2007, doi 10.1198/016214506000001437); here over
    the levels that there are.
    """
    error = targets.unsqueeze(-1) - quantiles
    terms = [
        torch.maximum(level * part, (level - 1) * part) for level, part in zip(LEVELS, error.unbind(-1), strict=True)
    ]
    return torch.stack(terms).mean()


class Deployed(nn.Module):
    """What is saved: raw windows [B, C, L] in, quantiles [B, C, H, Q] in the same units out, its bands made right.

    Args:
        core: takes standardised windows.
        mean, std: of the columns over the training rows, [C].
        stretch: by what each quantile is further from the median than the core says, [C, Q]; None for as it says.
    """

    def __init__(self, core: nn.Module, mean: Tensor, std: Tensor, stretch: Tensor | None = None) -> None:
        super().__init__()
        self.core = core
        self.mean: Tensor
        self.std: Tensor
        self.stretch: Tensor
        stretch = torch.ones(len(mean), len(LEVELS)) if stretch is None else stretch
        self.register_buffer("mean", mean[:, None, None].clone())  # [C, 1, 1]
        self.register_buffer("std", std[:, None, None].clone())
        self.register_buffer("stretch", stretch[:, None].clone())  # [C, 1, Q]

    def forward(self, x: Tensor) -> Tensor:
        quantiles = self.core(((x.unsqueeze(-1) - self.mean) / self.std).squeeze(-1))  # [B, C, H, Q]
        middle = quantiles[..., MIDDLE : MIDDLE + 1]
        # Each quantile was trained for its own level, and may cross its neighbour.
        ordered = (middle + (quantiles - middle) * self.stretch).sort(-1).values
        return ordered * self.std + self.mean


def conformal(quantiles: Tensor, targets: Tensor) -> Tensor:
    """By what each band must be stretched to cover its share of a validation split: a factor for each quantile, [C, Q].

    Conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222) with the distance from the median, in
    half-widths of the band, as its score. It promises coverage where validation and test are exchangeable, which
    seasons and drifts are not: what came of it is measured.

    Args:
        quantiles, targets: of all windows, [N, C, H, Q] and [N, C, H].
    """
    middle = quantiles[..., MIDDLE]
    off = targets - middle
    found = []
    for number in range(MIDDLE):
        lower, upper = middle - quantiles[..., number], quantiles[..., -1 - number] - middle
        half = torch.where(off < 0, lower, upper).clamp(min=1e-6)
        scores = (off.abs() / half).transpose(0, 1).flatten(1).sort(1).values  # [C, N × H]
        share = LEVELS[-1 - number] - LEVELS[number]
        count = scores.shape[1]
        found.append(scores[:, min(count - 1, math.ceil(share * (count + 1)) - 1)])
    return torch.stack([*found, torch.ones_like(found[0]), *reversed(found)], dim=1)
