"""Networks for rows of numbers, categories and gaps.

Shapes: B rows, F columns of which N are numbers and C categories, T bins, D the width of a column's embedding, M
members of an ensemble, K outputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kinds.number import SHARE

NAMES = ("mlp", "ft-transformer")
OUTSIDE = 1.0  # bins beyond the first and the last edge, at which a number far from all training rows is cut off
FARTHEST = 5.0  # the same in deviations


class PiecewiseLinear(nn.Module):
    """A number as how far it has got through each of T bins, and as it is, standardised: [B, N] to [B, N, T + 1].

    Bins lie between quantiles of the training rows (Gorishniy et al. 2022, arXiv 2203.05556). A gap stands where the
    median does.

    Args:
        columns, bins: N and T.
    """

    def __init__(self, columns: int, bins: int) -> None:
        super().__init__()
        self.start: Tensor
        self.width: Tensor
        self.lowest: Tensor
        self.highest: Tensor
        self.middle: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("start", torch.zeros(columns, bins))
        self.register_buffer("width", torch.ones(columns, bins))
        self.register_buffer("lowest", torch.zeros(columns, bins))
        self.register_buffer("highest", torch.zeros(columns, bins))  # 0 switches a bin off that a column has no use for
        self.register_buffer("middle", torch.zeros(columns))
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))

    def fit(self, x: Tensor) -> None:
        """Sets the bins by training rows [M, N]; gaps are left out."""
        levels = torch.linspace(0, 1, self.start.shape[1] + 1, dtype=torch.float64)
        for place, column in enumerate(x.double().T):
            known = column[~column.isnan()]
            if not len(known):
                continue
            edges = known.quantile(levels).float().unique()
            if len(edges) < 2:
                edges = torch.cat([edges, edges + 1])
            count = len(edges) - 1
            self.start[place, :count], self.width[place, :count] = edges[:-1], edges.diff()
            self.highest[place, :count] = 1.0
            self.lowest[place, 0], self.highest[place, count - 1] = -OUTSIDE, 1 + OUTSIDE
            self.middle[place], self.mean[place] = known.median(), known.mean()
            self.std[place] = known.std(correction=0) or 1.0

    def forward(self, x: Tensor) -> Tensor:
        filled = torch.where(x.isnan(), self.middle, x)
        way = (filled.unsqueeze(-1) - self.start) / self.width  # [B, N, T]
        bins = torch.minimum(torch.maximum(way, self.lowest), self.highest)
        standard = ((filled - self.mean) / self.std).clamp(-FARTHEST, FARTHEST)
        return torch.cat([bins, standard.unsqueeze(-1)], dim=-1)


class Embedding(nn.Module):
    """Every column of raw rows as D features: [B, F] to [B, F, D], numbers first.

    Args:
        categories: how many each column has; 0 for numbers.
        bins, width: T and D.
    """

    def __init__(self, categories: list[int], bins: int, width: int) -> None:
        super().__init__()
        numbers = [place for place, count in enumerate(categories) if not count]
        others = [place for place, count in enumerate(categories) if count]
        self.numbers: Tensor
        self.others: Tensor
        self.first: Tensor
        self.counts: Tensor
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        self.register_buffer("others", torch.tensor(others, dtype=torch.long), persistent=False)
        # All categories share a table, in which each column has a row for gaps and then its own.
        sizes = torch.tensor([0, *(1 + categories[place] for place in others)])
        self.register_buffer("first", sizes.cumsum(0)[:-1], persistent=False)
        self.register_buffer("counts", sizes[1:] - 1, persistent=False)
        self.encode = PiecewiseLinear(len(numbers), bins)
        weight = torch.randn(len(numbers), bins + 1, width)
        weight[:, :bins] /= math.sqrt(bins)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(numbers), width))
        self.gap = nn.Parameter(torch.zeros(len(numbers), width))
        self.category = nn.Embedding(max(1, int(sizes.sum())), width)

    def forward(self, x: Tensor) -> Tensor:
        numbers, others = x[:, self.numbers], x[:, self.others]
        found = torch.einsum("bnt,ntd->bnd", self.encode(numbers), self.weight) + self.bias
        found = found + numbers.isnan().unsqueeze(-1) * self.gap
        known = (others >= 0) & (others < self.counts)  # a gap is not, nor is what training never saw
        places = self.first + (others + 1).masked_fill(~known, 0.0).long()  # [B, C]
        return torch.cat([found, self.category(places)], dim=1)


class Members(nn.Module):
    """A linear layer of M networks that share most of it: [B, M, in] to [B, M, out].

    Each member scales what goes in and what comes out (BatchEnsemble; Wen et al. 2020, arXiv 2002.06715), as TabM does
    (Gorishniy et al. 2024, arXiv 2410.24210).

    Args:
        first: of the network: its members begin apart, with signs of their own.
    """

    def __init__(self, members: int, features: int, outputs: int, first: bool = False) -> None:
        super().__init__()
        signs = torch.randint(2, (members, features)) * 2.0 - 1 if first else torch.ones(members, features)
        self.linear = nn.Linear(features, outputs, bias=False)
        self.scale_in = nn.Parameter(signs)
        self.scale_out = nn.Parameter(torch.ones(members, outputs))
        bound = 1 / math.sqrt(features)
        self.shift = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.scale_in) * self.scale_out + self.shift


class Heads(nn.Module):
    """A linear layer of M networks that share nothing of it: [B, M, in] to [B, M, out]."""

    def __init__(self, members: int, features: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(members, features, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bmi,mio->bmo", x, self.weight) + self.bias


class MLP(nn.Module):
    """M multilayer perceptrons over the embedded columns, which share most weights: [B, F, D] to [B, M, K]."""

    def __init__(self, features: int, outputs: int, members: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.members = members
        sizes = [features, *[width] * layers]
        self.body = nn.Sequential(
            *(
                nn.Sequential(Members(members, sizes[i], width, first=i == 0), nn.ReLU(), nn.Dropout(dropout))
                for i in range(layers)
            )
        )
        self.head = Heads(members, width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.relu().flatten(1)  # [B, F * D]
        return self.head(self.body(flat.unsqueeze(1).expand(-1, self.members, -1)))


class FTTransformer(nn.Module):
    """A Transformer over the columns of a row (Gorishniy et al. 2021, arXiv 2106.11959): [B, F, D] to [B, 1, K]."""

    def __init__(self, outputs: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.reader = nn.Parameter(0.02 * torch.randn(width))  # the token that the answer is read from
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        reader = self.reader.expand(len(x), 1, -1)
        tokens = self.blocks(torch.cat([reader, x], dim=1))  # [B, 1 + F, D]
        return self.head(self.norm(tokens[:, :1]).relu())


class Block(nn.Module):
    """Attention and MLP, each with its layer norm before and the identity around it: [B, F, D] to the same."""

    def __init__(self, width: int, dropout: float, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # q, k, v: [B, heads, F, D / heads]
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.project(attended))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Network(nn.Module):
    """Raw rows [B, F] to what each member says, [B, M, K]: logits of K classes, or a quantity in deviations (K = 1)."""

    def __init__(self, embedding: Embedding, trunk: nn.Module) -> None:
        super().__init__()
        self.embedding, self.trunk = embedding, trunk

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.embedding(x))


def build(
    name: str, categories: list[int], outputs: int, *, bins: int, embedding: int, members: int, width: int, layers: int,
    dropout: float,
) -> Network:  # fmt: skip
    """The network of a name, its bins still to be set.

    Args:
        categories: how many each column has; 0 for numbers.
        outputs: K.
    """
    if name == "ft-transformer":
        return Network(Embedding(categories, bins, width), FTTransformer(outputs, width, layers, dropout))
    columns = Embedding(categories, bins, embedding)
    return Network(columns, MLP(len(categories) * embedding, outputs, members, width, layers, dropout))


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of the members, [B, M, K]: cross-entropy, or squared error where targets are no classes."""
    if targets.is_floating_point():
        return F.mse_loss(outputs.squeeze(-1), targets.unsqueeze(1).expand(-1, outputs.shape[1]))
    return F.cross_entropy(outputs.flatten(0, 1), targets.repeat_interleave(outputs.shape[1]))


def together(outputs: Tensor) -> Tensor:
    """What the members say together, [B, M, K] to [B, K]: the logarithm of their mean probability, or their mean."""
    if outputs.shape[-1] == 1:
        return outputs.mean(1)
    return outputs.log_softmax(-1).logsumexp(1) - math.log(outputs.shape[1])


class Classifier(nn.Module):
    """What is saved of a classifier: raw rows [B, F] to logits [B, K]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return together(self.network(x))


class Regressor(nn.Module):
    """What is saved of a regression: raw rows [B, F] to value, low and high [B, 3], in the units of the target.

    Args:
        mean, std: of the target over the training rows.
        half: half of the band's width.
    """

    def __init__(self, network: nn.Module, mean: float = 0.0, std: float = 1.0, half: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.units: Tensor
        self.band: Tensor
        self.register_buffer("units", torch.tensor([mean, std]))
        self.register_buffer("band", half * torch.tensor([0.0, -1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.units[0] + self.units[1] * together(self.network(x)) + self.band


def half_width(errors: Tensor) -> float:
    """Half of a band that holds SHARE of a validation split, by its errors [N].

    Split conformal prediction (Lei et al. 2018, arXiv 1604.04173) promises that share of a test where validation and
    test are exchangeable.
    """
    ordered = errors.abs().sort().values
    return ordered[min(len(ordered), math.ceil(SHARE * (len(ordered) + 1))) - 1].item()
