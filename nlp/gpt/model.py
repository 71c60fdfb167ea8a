"""The networks: a Transformer decoder with the parts of today, and an LSTM or GRU behind the same interface.

Each takes tokens [B, T] and gives logits [B, T, V] of the token after each. For generation each keeps what it has read
in a cache: `start` makes an empty one, `extend` reads further tokens and changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

BASE = 10_000.0  # of the wavelengths of rotary positions
LONGEST = 3  # tokens of an n-gram that has an embedding
FAMILIES = ("gpt", "lstm", "gru")


@dataclass(frozen=True)
class Shape:
    """The sizes of a network.

    Attributes:
        vocabulary: V, different tokens.
        context: tokens that a GPT sees at once, at most.
        depth: layers.
        width: C, numbers that stand for a token between layers.
        heads: of attention; each has C / heads numbers.
        kv_heads: keys and values are shared by heads / kv_heads heads (Ainslie et al. 2023, arXiv 2305.13245).
        rows: of a table of embeddings of n-grams, which share rows as a hash has it (Huang et al. 2025, arXiv
            2501.16975); 0 for none.
        mlp: "relu2" (So et al. 2021, arXiv 2109.08668) or "swiglu" (Shazeer 2020, arXiv 2002.05202).
        tied: the head is the embedding (Press and Wolf 2017, arXiv 1608.05859).
        cap: logits lie within −cap..cap (Gemma 2, arXiv 2408.00118); 0 for no bounds.
        dropout: in training, the share of embeddings and of what layers add that is left out (Srivastava et al. 2014).
    """

    vocabulary: int
    context: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    rows: int = 0
    mlp: str = "relu2"
    tied: bool = False
    cap: float = 0.0
    dropout: float = 0.0


def build(family: str, shape: Shape) -> GPT | Recurrent:
    """The network of a family, one of FAMILIES."""
    return GPT(shape) if family == "gpt" else Recurrent(family, shape)


def norm(x: Tensor) -> Tensor:
    """x over its root mean square along the last dimension, without weights (Zhang and Sennrich 2019, 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],))


# --- Transformer -------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Causal self-attention: keys and queries are normed (Henry et al. 2020, 2010.04245) and turned by position."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.size = shape.width // shape.heads  # D
        self.query = nn.Linear(shape.width, self.heads * self.size, bias=False)
        self.key = nn.Linear(shape.width, self.kv_heads * self.size, bias=False)
        self.value = nn.Linear(shape.width, self.kv_heads * self.size, bias=False)
        self.output = nn.Linear(self.heads * self.size, shape.width, bias=False)

    def forward(self, x: Tensor, turns: Turns, cache: KeyValues | None = None) -> Tensor:
        q, k, v = self._read(x, turns)
        mask = None
        if cache is not None:
            k, v, mask = cache.put(k, v)  # [B, H_kv, S, D] and [B, 1, T, S]
        k, v = self._shared(k), self._shared(v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.output(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, turns: Turns) -> Tensor:
        """By how much each token counts for each, [B, H, T, T], which the fast kernels never write down."""
        q, k, _ = self._read(x, turns)
        scores = q @ self._shared(k).mT / self.size**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1)

    def _read(self, x: Tensor, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, H_kv, T, D]."""
        batch, length, _ = x.shape
        q = self.query(x).view(batch, length, self.heads, self.size).transpose(1, 2)
        k = self.key(x).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        v = self.value(x).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        return turned(norm(q), turns), turned(norm(k), turns), v

    def _shared(self, part: Tensor) -> Tensor:
        """Keys or values for every head, [B, H, S, D]."""
        return part if self.kv_heads == self.heads else part.repeat_interleave(self.heads // self.kv_heads, dim=1)


class MLP(nn.Module):
    """Two matrices with ReLU² between them, or three with SwiGLU, of about as many weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden = 4 * shape.width if shape.mlp == "relu2" else 8 * (shape.width // 3)
        self.gate = nn.Linear(shape.width, hidden, bias=False) if shape.mlp == "swiglu" else None
        self.input = nn.Linear(shape.width, hidden, bias=False)
        self.output = nn.Linear(hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.input(x)
        hidden = F.relu(hidden).square() if self.gate is None else F.silu(self.gate(x)) * hidden
        return self.output(hidden)


class Block(nn.Module):
    """Attention and MLP, each added to what went into it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.mlp = MLP(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, turns: Turns, cache: KeyValues | None = None) -> Tensor:
        x = x + self.dropout(self.attention(norm(x), turns, cache))
        return x + self.dropout(self.mlp(norm(x)))


class GPT(nn.Module):
    """A Transformer decoder (Radford et al. 2018) with rotary positions, norms without weights, and no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.ngrams = nn.Embedding(shape.rows, shape.width) if shape.rows else None
        self.dropout = nn.Dropout(shape.dropout)
        self.head = None if shape.tied else nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.start_weights()

    def start_weights(self) -> None:
        """Matrices that read start at a spread of 1 / √inputs, those that write into the sum at 0, as does the head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = math.sqrt(3 / module.in_features)
                nn.init.uniform_(module.weight, -bound, bound)
        nn.init.normal_(self.embedding.weight, std=1.0 if self.head is not None else 0.02)
        if self.ngrams is not None:
            nn.init.zeros_(self.ngrams.weight)
        for module in self.modules():
            if isinstance(module, (Attention, MLP)):
                nn.init.zeros_(module.output.weight)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        before = [F.pad(tokens, (n, 0))[:, :length] for n in range(1, LONGEST)]
        return self.read(tokens, before, torch.arange(length, device=tokens.device), None)

    def read(self, tokens: Tensor, before: list[Tensor], places: Tensor, cache: Cache | None) -> Tensor:
        """Logits [B, T, V] of tokens [B, T].

        Args:
            before: the tokens that stand 1, 2, ... places before each; 0 where there is none.
            places: of the tokens, int64 [T] or [B, 1, T].
        """
        turns = rotations(places, self.shape.width // self.shape.heads)
        x = norm(self.embedding(tokens))  # [B, T, C]
        if self.ngrams is not None:
            for n in range(1, LONGEST):
                x = x + self.ngrams(hashed([tokens, *before[:n]], self.shape.rows))
        x = self.dropout(x)
        for number, block in enumerate(self.blocks):
            x = block(x, turns, cache.layers[number] if cache is not None else None)
        return logits_of(norm(x), self.head or partial(F.linear, weight=self.embedding.weight), self.shape.cap)

    def attention(self, tokens: Tensor) -> list[Tensor]:
        """Of each layer by how much each of the tokens [B, T] counts for each, [B, H, T, T]."""
        found: list[Tensor] = []

        def note(layer: Any, inputs: tuple[Any, ...]) -> None:
            found.append(layer.weights(*inputs[:2]))

        layers = [module for module in self.modules() if isinstance(module, Attention)]
        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        try:
            self(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    # -- generation -------------------------------------------------------------------------------------

    def start(self, batch: int) -> Cache:
        """An empty cache for B texts."""
        return Cache(self.shape, batch, self.embedding.weight)

    def extend(self, tokens: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Reads on in B texts and returns the logits after each token, [B, T, V].

        Args:
            tokens: the next of each text, int64 [B, T]; those of shorter ones are filled up at the end with any.
            lengths: how many of them count, int64 [B]; what is returned for the others means nothing.
            cache: what was read before, changed. No text may become longer than the context.
        """
        places = cache.place(tokens)  # [B, T]
        logits = self.read(tokens, cache.before(), places.unsqueeze(1), cache)
        cache.lengths += lengths
        return logits


def hashed(ngram: Sequence[Tensor], rows: int) -> Tensor:
    """The row of each n-gram, int64 [B, T]: a polynomial of its tokens, mixed, that is the same on every machine.

    Args:
        ngram: the last tokens, those before them, and so on, [B, T] each.
    """
    key = torch.zeros_like(ngram[0])
    for token in ngram:
        key = (key * 1_000_003 + token + 1) & 0x7FFF_FFFF
    key = ((key >> 15) ^ key) * 0x2C1B_3C6D & 0x7FFF_FFFF
    return ((key >> 12) ^ key) % rows


Turns = tuple[Tensor, Tensor]  # cosines and sines of each place, [T, D / 2] or [B, 1, T, D / 2]


def rotations(places: Tensor, size: int) -> Turns:
    """By how much a place turns each pair of numbers (Su et al. 2021, arXiv 2104.09864): two of [..., T, D / 2]."""
    rates = BASE ** (-torch.arange(0, size, 2, dtype=torch.float32, device=places.device) / size)
    angles = places.float().unsqueeze(-1) * rates
    return angles.cos(), angles.sin()


def turned(x: Tensor, turns: Turns) -> Tensor:
    """x [B, H, T, D] with number i and number i + D / 2 turned as a pair."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = turns
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def logits_of(x: Tensor, head: Callable[[Tensor], Tensor], cap: float) -> Tensor:
    """Logits [B, T, V] of x [B, T, C] by a head, bent into −cap..cap."""
    if not cap:
        return head(x)
    return torch.tanh(head(x / cap)) * cap  # divided where it is small


class KeyValues:
    """What one layer keeps of B texts: keys and values [B, H_kv, context, D]."""

    def __init__(self, cache: Cache, keys: Tensor) -> None:
        self._cache = cache
        self.keys, self.values = keys, torch.zeros_like(keys)

    def put(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds [B, H_kv, T, D] at the places of this call; all up to there, and what each token may see."""
        cache = self._cache
        self.keys[cache.rows, :, cache.places] = k.transpose(1, 2).to(self.keys.dtype)
        self.values[cache.rows, :, cache.places] = v.transpose(1, 2).to(self.values.dtype)
        keys, values = (part[:, :, : cache.end].to(k.dtype) for part in (self.keys, self.values))
        return keys, values, cache.mask


class Cache:
    """What a GPT has read of B texts of different lengths.

    What is filled up in a short text is written behind its end: nobody sees it, and what comes next replaces it.

    Attributes:
        lengths: tokens read of each text, int64 [B]; setting one back forgets what came after.
        tokens: that were read, int64 [B, context].
    """

    def __init__(self, shape: Shape, batch: int, like: Tensor) -> None:
        self.context = shape.context
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.rows = torch.arange(batch, device=like.device).unsqueeze(1)  # [B, 1]
        self.tokens = torch.zeros(batch, shape.context, dtype=torch.int64, device=like.device)
        size = (batch, shape.kv_heads, shape.context, shape.width // shape.heads)
        self.layers = [KeyValues(self, like.new_zeros(size)) for _ in range(shape.depth)]

    def place(self, tokens: Tensor) -> Tensor:
        """Where the next tokens [B, T] of each text stand; those that are filled up may share the last place."""
        places = self.lengths.unsqueeze(1) + torch.arange(tokens.shape[1], device=tokens.device)
        self.places = places.clamp(max=self.context - 1)
        self.tokens[self.rows, self.places] = tokens
        self.end = int(self.places.max()) + 1  # S
        seen = torch.arange(self.end, device=places.device) <= self.places.unsqueeze(2)  # [B, T, S]
        self.mask = seen.unsqueeze(1)
        return self.places

    def before(self) -> list[Tensor]:
        """The tokens that stand 1, 2, ... places before those of this call, [B, T] each; 0 where there is none."""
        found = []
        for n in range(1, LONGEST):
            tokens = self.tokens[self.rows, (self.places - n).clamp(min=0)]
            found.append(tokens.masked_fill(self.places < n, 0))
        return found

    def keep(self, rows: Tensor) -> None:
        """Forgets all texts but those at `rows`, int64 [M]."""
        self.lengths, self.tokens, self.rows = self.lengths[rows], self.tokens[rows], self.rows[: len(rows)]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def join(self, other: Cache) -> None:
        """Takes the texts of another cache in behind its own."""
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.tokens = torch.cat([self.tokens, other.tokens])
        self.rows = torch.arange(len(self.lengths), device=self.lengths.device).unsqueeze(1)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, theirs.keys]), torch.cat([mine.values, theirs.values])


# --- recurrent networks ------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber 1997) or a GRU (Cho et al. 2014, arXiv 1406.1078) of several layers."""

    def __init__(self, family: str, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        layers = {"lstm": nn.LSTM, "gru": nn.GRU}[family]
        between = shape.dropout if shape.depth > 1 else 0.0
        self.rnn: Any = layers(shape.width, shape.width, shape.depth, batch_first=True, dropout=between)
        self.head = None if shape.tied else nn.Linear(shape.width, shape.vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.1)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.rnn(self.embedding(tokens))  # [B, T, C]
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        return logits_of(hidden, self.head or partial(F.linear, weight=self.embedding.weight), self.shape.cap)

    def start(self, batch: int) -> States:
        """The state before anything was read, for B texts."""
        return States(self.rnn, batch, self.embedding.weight)

    def extend(self, tokens: Tensor, lengths: Tensor, cache: States) -> Tensor:
        """As of GPT; no text of a batch may have a length of 0."""
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, cache.state = self.rnn(packed, cache.state)
        padded, _ = pad_packed_sequence(hidden, batch_first=True, total_length=tokens.shape[1])
        cache.lengths += lengths
        return self._logits(padded)


class States:
    """What a recurrent network remembers of B texts.

    Attributes:
        lengths: tokens read of each text, int64 [B]; they can't be set back.
    """

    def __init__(self, rnn: Any, batch: int, like: Tensor) -> None:
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        zeros = like.new_zeros(rnn.num_layers, batch, rnn.hidden_size)
        self.state: Any = (zeros, zeros.clone()) if isinstance(rnn, nn.LSTM) else zeros

    def keep(self, rows: Tensor) -> None:
        """Forgets all texts but those at `rows`, int64 [M]."""
        self.lengths = self.lengths[rows]
        whole = isinstance(self.state, tuple)
        self.state = tuple(part[:, rows] for part in self.state) if whole else self.state[:, rows]

    def join(self, other: States) -> None:
        """Takes the texts of another one in behind its own."""
        self.lengths = torch.cat([self.lengths, other.lengths])
        if isinstance(self.state, tuple):
            self.state = tuple(torch.cat(pair, 1) for pair in zip(self.state, other.state, strict=True))
        else:
            self.state = torch.cat([self.state, other.state], 1)
