"""Encoder and decoder, as a Transformer or as GRUs with Bahdanau's attention, behind one interface.

Called with sources [B, S] and the targets so far [B, T], a network gives the logits of the token after each; `start`,
`step` and a state write token by token, several hypotheses of each source at once. PAD fills what is short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAMILIES = ("transformer", "gru")
PAD = -1  # no token at all: it has no embedding, is never attended to and never a target


@dataclass(frozen=True)
class Shape:
    """The sizes of a network.

    Args:
        sources, targets: tokens of the two vocabularies.
        joint: whether these are one: source, target and output layer then share one embedding, else the last two.
        depth: layers of the encoder.
        decoder_depth: layers of the Transformer's decoder; that of the GRU has one.
        width: numbers that stand for a token, C.
        heads: of attention, in the Transformer; each has D = C / heads numbers.
        dropout: share of what layers add that is left out in training.
    """

    sources: int
    targets: int
    joint: bool
    depth: int
    decoder_depth: int
    width: int
    heads: int
    dropout: float = 0.0


Pair = tuple[Tensor, Tensor]  # sources [B, S] and targets [B, T], which begin with END; int64
# What a network says outside of training: the logits of the token after each of the target's, [B, T, V], and where the
# decoder looked before it, [B, T, S], each row of which sums to 1.
Read = tuple[Tensor, Tensor]


def build(family: str, shape: Shape) -> Transformer | Recurrent:
    """The network of a family, one of FAMILIES."""
    return Transformer(shape) if family == "transformer" else Recurrent(shape)


class Words(nn.Module):
    """The embeddings, of which that of the targets is the output layer too (Press and Wolf 2017, 1608.05859)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.targets = nn.Embedding(shape.targets, shape.width)
        self.sources = None if shape.joint else nn.Embedding(shape.sources, shape.width)
        for weight in self.parameters():
            nn.init.normal_(weight, std=shape.width**-0.5)

    def source(self, tokens: Tensor) -> Tensor:
        """[B, S] to [B, S, C]."""
        embedding = self.targets if self.sources is None else self.sources
        return norm(embedding(tokens.clamp(min=0)))

    def target(self, tokens: Tensor) -> Tensor:
        return norm(self.targets(tokens.clamp(min=0)))

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.targets.weight)


def norm(x: Tensor) -> Tensor:
    """x over its root mean square along the last dimension, without weights (Zhang and Sennrich 2019, 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],))


# --- Transformer -------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Queries of one sequence look at keys and values of another, or of its own."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query, self.key, self.value, self.output = (
            nn.Linear(shape.width, shape.width, bias=False) for _ in range(4)
        )
        nn.init.zeros_(self.output.weight)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, H, T, D]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def read(self, x: Tensor) -> Pair:
        """Keys and values of x [B, S, C], [B, H, S, D] each."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(self, x: Tensor, read: Pair, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """What the queries of x [B, T, C] find among `read`; mask [B, 1, 1, S] is true for what may be seen."""
        found = F.scaled_dot_product_attention(self.split(self.query(x)), *read, attn_mask=mask, is_causal=causal)
        return self.output(found.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, read: Pair, mask: Tensor) -> Tensor:
        """Where the queries look, on average over the heads: [B, T, S]."""
        q = self.split(self.query(x))
        scores = (q @ read[0].mT / math.sqrt(q.shape[-1])).float().masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).mean(1)


class MLP(nn.Sequential):
    """Two matrices with ReLU² between them (So et al. 2021, arXiv 2109.08668)."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width, bias=False), Squared(), nn.Linear(4 * width, width, bias=False))
        nn.init.zeros_(self[2].weight)  # type: ignore[arg-type]


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class EncoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.own, self.mlp, self.dropout = Attention(shape), MLP(shape.width), nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = norm(x)
        x = x + self.dropout(self.own(y, self.own.read(y), mask))
        return x + self.dropout(self.mlp(norm(x)))


class DecoderLayer(nn.Module):
    """Looks at what is written, then at what was read."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.own, self.cross, self.mlp = Attention(shape), Attention(shape), MLP(shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, source: Pair, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, C] changed, and the queries with which it looked at the source."""
        y = norm(x)
        x = x + self.dropout(self.own(y, self.own.read(y), causal=True))
        return self.rest(x, source, mask), norm(x)

    def rest(self, x: Tensor, source: Pair, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.cross(norm(x), source, mask))
        return x + self.dropout(self.mlp(norm(x)))


class Transformer(nn.Module):
    """Vaswani et al. 2017 (arXiv 1706.03762), normed before each part (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.words = Words(shape)
        self.encoder = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.depth))
        self.decoder: Any = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.decoder_depth))
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, pair: Pair) -> Tensor | Read:
        """In training the logits of real tokens alone, [N, V]: the output layer is most of the work. Else a Read."""
        source, target = pair
        memory, mask = self.encode(source)
        x = self.placed(self.words.target(target), 0)
        for layer in self.decoder:
            keys = layer.cross.read(memory)
            x, queries = layer(x, keys, mask)
        x = norm(x)
        if self.training:
            return self.words.logits(x[target != PAD])
        return self.words.logits(x), self.decoder[-1].cross.weights(queries, keys, mask)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What was read, [B, S, C], and which of it are tokens, [B, 1, 1, S]."""
        mask = (source != PAD)[:, None, None]
        x = self.placed(self.words.source(source), 0)
        for layer in self.encoder:
            x = layer(x, mask)
        return norm(x), mask

    def placed(self, x: Tensor, first: int) -> Tensor:
        """x [B, T, C] with its places added, of which the first is `first`."""
        return self.dropout(x + positions(first, x))

    # -- writing ----------------------------------------------------------------------------------------

    def start(self, source: Tensor, beams: int) -> TransformerState:
        """The state of `beams` hypotheses for each source [B, S], before anything was written."""
        memory, mask = self.encode(source)
        return TransformerState([layer.cross.read(memory) for layer in self.decoder], mask, beams)

    def step(self, tokens: Tensor, state: TransformerState) -> Tensor:
        """Adds a token to each hypothesis, [B × beams], and returns the logits of the next, [B × beams, V]."""
        x = self.placed(self.words.target(tokens.unsqueeze(1)), state.length)  # [B × beams, 1, C]
        for number, layer in enumerate(self.decoder):
            y = norm(x)
            x = x + layer.own(y, state.extend(number, layer.own.read(y)))
            # The hypotheses of a source ask it together: they are queries side by side.
            together = x.view(-1, state.beams, x.shape[-1])
            x = layer.rest(together, state.sources[number], state.mask).view(x.shape)
        state.length += 1
        return self.words.logits(norm(x)).squeeze(1)


def positions(first: int, like: Tensor) -> Tensor:
    """Sines and cosines of each place (Vaswani et al. 2017), [T, C] for x [B, T, C]."""
    length, width = like.shape[1:]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000.0) / width))
    angles = torch.arange(first, first + length, device=like.device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


class TransformerState:
    """What a Transformer keeps while it writes.

    Attributes:
        sources: keys and values of the sources for each layer, [B, H, S, D].
        mask: which of them are tokens, [B, 1, 1, S].
        length: tokens written of each hypothesis.
    """

    def __init__(self, sources: list[Pair], mask: Tensor, beams: int) -> None:
        self.sources, self.mask, self.beams, self.length = sources, mask, beams, 0
        self.written: list[Pair | None] = [None] * len(sources)  # of each layer, [B × beams, H, T, D]

    def extend(self, layer: int, new: Pair) -> Pair:
        """All keys and values of a layer, with those of the newest token."""
        before = self.written[layer]
        found = new if before is None else (torch.cat([before[0], new[0]], 2), torch.cat([before[1], new[1]], 2))
        self.written[layer] = found
        return found

    def keep(self, rows: Tensor, sources: Tensor | None) -> None:
        """Goes on with the hypotheses at `rows`, and with the sources at `sources`, or with all of them."""
        self.written = [pair and (pair[0][rows], pair[1][rows]) for pair in self.written]
        if sources is not None:
            self.sources = [(keys[sources], values[sources]) for keys, values in self.sources]
            self.mask = self.mask[sources]


# --- GRU ---------------------------------------------------------------------------------------------------


class Bahdanau(nn.Module):
    """Additive attention (Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)

    def forward(self, state: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """What states [B, K, C] find in a source, [B, K, C], and where: [B, K, S]."""
        sums = torch.tanh(self.query(state).unsqueeze(2) + memory.keys.unsqueeze(1))  # [B, K, S, C]
        scores = self.energy(sums).squeeze(3).float().masked_fill(~memory.mask.unsqueeze(1), -torch.inf)
        weights = scores.softmax(-1)
        return weights.to(memory.values.dtype) @ memory.values, weights


class Memory(NamedTuple):
    """What was read: values and the keys to them [B, S, C], and which are tokens [B, S]."""

    values: Tensor
    keys: Tensor
    mask: Tensor


class Recurrent(nn.Module):
    """GRUs (Cho et al. 2014, arXiv 1406.1078) that read in both directions, and one that writes with attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.words = Words(shape)
        layers = range(shape.depth)
        self.forwards = nn.ModuleList(nn.GRU(width, width // 2, batch_first=True) for _ in layers)
        self.backwards = nn.ModuleList(nn.GRU(width, width // 2, batch_first=True) for _ in layers)
        self.attention = Bahdanau(width)
        self.first = nn.Linear(width, width)
        self.cell = nn.GRUCell(2 * width, width)
        self.readout = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, pair: Pair) -> Tensor | Read:
        """As of the Transformer."""
        source, target = pair
        memory, hidden = self.encode(source)
        embedded = self.dropout(self.words.target(target))
        outputs, looked = [], []
        for x in embedded.unbind(1):
            hidden, context, weights = self.write(x, hidden, memory)
            outputs.append(torch.cat([x, hidden, context], 1))
            looked.append(weights)
        out = torch.stack(outputs, 1)  # [B, T, 3 C]
        if self.training:
            return self.logits(out[target != PAD])
        return self.logits(out), torch.cat(looked, 1)

    def encode(self, source: Tensor) -> tuple[Memory, Tensor]:
        """What was read, and the decoder's first state [B, C].

        Each direction begins at an end of the tokens themselves, so that what fills a batch up changes nothing.
        """
        mask = source != PAD
        places = torch.arange(source.shape[1], device=source.device)
        turn = mask.sum(1, keepdim=True) - 1 - places  # the reverse of each source's tokens; PAD stays behind
        turn = torch.where(turn < 0, places, turn).unsqueeze(2)
        x = self.dropout(self.words.source(source))
        for there, back in zip(self.forwards, self.backwards, strict=True):
            right, _ = there(x)
            left, _ = back(x.gather(1, turn.expand_as(x)))
            x = self.dropout(torch.cat([right, left.gather(1, turn.expand_as(left))], 2))
        memory = Memory(x, self.attention.key(x), mask)
        mean = (x * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        return memory, torch.tanh(self.first(mean))

    def write(self, x: Tensor, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """The next state and what was looked at, [R, C] each, and where, [B, R / B, S], after tokens x [R, C]."""
        states = hidden.view(len(memory.mask), -1, hidden.shape[1])  # hypotheses of a source beside each other
        context, weights = self.attention(states, memory)
        context = context.reshape(hidden.shape)
        return self.cell(torch.cat([x, context], 1), hidden), context, weights

    def logits(self, out: Tensor) -> Tensor:
        return self.words.logits(norm(self.dropout(torch.tanh(self.readout(out)))))

    # -- writing ----------------------------------------------------------------------------------------

    def start(self, source: Tensor, beams: int) -> RecurrentState:
        """As of the Transformer."""
        memory, hidden = self.encode(source)
        return RecurrentState(memory, hidden.repeat_interleave(beams, 0))

    def step(self, tokens: Tensor, state: RecurrentState) -> Tensor:
        """As of the Transformer."""
        x = self.words.target(tokens)
        state.hidden, context, _ = self.write(x, state.hidden, state.memory)
        return self.logits(torch.cat([x, state.hidden, context], 1))


@dataclass
class RecurrentState:
    """What a Recurrent keeps while it writes: the sources, and a state of each hypothesis [B × beams, C]."""

    memory: Memory
    hidden: Tensor

    def keep(self, rows: Tensor, sources: Tensor | None) -> None:
        """As of TransformerState."""
        self.hidden = self.hidden[rows]
        if sources is not None:
            self.memory = Memory(*(part[sources] for part in self.memory))
