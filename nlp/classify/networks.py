"""Text classifiers from scratch: a bag of embeddings, a TextCNN, a BiLSTM and a Transformer, with or without n-grams.

Shapes: B texts of T tokens (0 is padding), C channels, K classes. Every encoder takes tokens [B, T] and embeddings
[B, T, C] and returns features [B, F].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlp.tokens import PAD, UNKNOWN

FAMILIES = ("bag", "cnn", "lstm", "transformer")
SIZES = ("tiny", "small", "base")
WIDTHS = {"tiny": 32, "small": 128, "base": 256}  # channels of the embeddings
LAYERS = {"tiny": 1, "small": 2, "base": 4}
LONGEST = 512  # tokens that a Transformer has positions for
LEAST, MOST = 2, 2**20  # texts that have an n-gram that is known; n-grams that are known


class Classifier(nn.Module):
    """Embeddings, an encoder, a linear layer; the logits of an `NGrams` are added where there is one.

    Args:
        family: one of FAMILIES.
        vocabulary: token ids, with PAD and UNKNOWN.
        ngrams: None for none.
        dropout: of embeddings and features.
        word_dropout: share of the tokens that are replaced by UNKNOWN during training.
    """

    def __init__(
        self,
        family: str,
        size: str,
        vocabulary: int,
        classes: int,
        *,
        ngrams: NGrams | None = None,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = WIDTHS[size]
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0
        encoder: type[MeanPool | TextCNN | AttentiveLSTM | Transformer] = {
            "bag": MeanPool,
            "cnn": TextCNN,
            "lstm": AttentiveLSTM,
            "transformer": Transformer,
        }[family]  # type: ignore[assignment]
        self.encoder = encoder(width, LAYERS[size], dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.features, classes)
        self.ngrams = ngrams

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, K] of tokens int64 [B, T]."""
        if self.training and self.word_dropout:
            lost = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            tokens = tokens.masked_fill(lost & (tokens != PAD), UNKNOWN)
        embedded = self.dropout(self.embedding(tokens))  # [B, T, C]
        logits = self.head(self.dropout(self.encoder(embedded, tokens != PAD)))  # [B, F] to [B, K]
        return logits if self.ngrams is None else logits + self.ngrams(tokens)


class MeanPool(nn.Module):
    """The mean of the embeddings, which forgets their order."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.features = width

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        counts = real.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
        return (embedded * real.unsqueeze(2)).sum(1) / counts.sqrt()  # [B, C]


class TextCNN(nn.Module):
    """Kim 2014, arXiv 1408.5882: convolutions over 3, 4 and 5 words, and the maximum of each over the text."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.features = 3 * width
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=kernel // 2) for kernel in (3, 4, 5))

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        x = (embedded * real.unsqueeze(2)).transpose(1, 2)  # [B, C, T]
        hidden = ~real.unsqueeze(1)  # [B, 1, T]
        maxima = []
        for convolution in self.convolutions:
            y = F.relu(convolution(x)[:, :, : x.shape[2]])  # [B, C, T]; an even kernel gives one more
            maxima.append(y.masked_fill(hidden, 0).amax(2))  # [B, C]
        return torch.cat(maxima, 1)


class AttentiveLSTM(nn.Module):
    """A bidirectional LSTM and the mean of its states, weighted by attention (Yang et al. 2016, section 2.2)."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.features = 2 * width
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        lengths = real.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True, total_length=real.shape[1])
        scores = self.score(states).squeeze(2)  # [B, T]
        scores = scores.masked_fill(~real, torch.finfo(scores.dtype).min)  # not -inf: a text may be all padding
        return (scores.softmax(1).unsqueeze(1) @ states).squeeze(1)  # [B, 2C]


class Transformer(nn.Module):
    """An encoder with its norms before each part (Xiong et al. 2020, arXiv 2002.04745); the mean of its outputs."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.features = width
        self.positions = nn.Parameter(torch.randn(LONGEST, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        x = embedded + F.embedding(torch.arange(embedded.shape[1], device=embedded.device), self.positions)  # [B, T, C]
        # A text of padding alone looks at its first place: no place at all would be NaN.
        seen = real | (torch.arange(real.shape[1], device=real.device) == 0)
        for block in self.blocks:
            x = block(x, seen[:, None, None, :])  # the mask is broadcast over heads and queries
        weights = seen.to(x.dtype) / seen.sum(1, keepdim=True)  # [B, T]
        return (weights.unsqueeze(1) @ self.norm(x)).squeeze(1)  # [B, C]


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each added to what came in."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # [B, T, 3C] to three of [B, H, T, C / H]
        q, k, v = self.query_key_value(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))  # [B, T, C]
        return x + self.dropout(self.feed_forward(self.norm2(x)))


# --- n-grams -----------------------------------------------------------------------------------------------


class NGrams(nn.Module):
    """A linear layer over the runs of 1 to `order` tokens that are in a text, started as naive Bayes.

    Wang and Manning 2012 (Baselines and Bigrams, section 2.3): each n-gram counts once, by the log-count ratio of the
    class against the others, times a learnt weight.

    Args:
        known: number of n-grams that are known; those of a training split come by `learn`.
        order: longest run, 1 to 3.
        dropout: share of the n-grams of a text that are left out during training.
    """

    known: Tensor
    ratios: Tensor

    def __init__(self, known: int, classes: int, vocabulary: int, order: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.order, self.vocabulary, self.dropout = order, vocabulary, dropout
        self.register_buffer("known", torch.zeros(known, dtype=torch.int64))  # sorted keys
        self.register_buffer("ratios", torch.zeros(known, classes))
        self.weight = nn.Parameter(torch.ones(known, classes))
        self.scale = nn.Parameter(torch.tensor(0.3))  # sums of ratios are too sure of themselves
        self.bias = nn.Parameter(torch.zeros(classes))

    def keys(self, tokens: Tensor) -> Tensor:
        """A number for every n-gram of tokens [B, T]: int64 [B, order × T], 0 where there is none."""
        columns, run = [], torch.zeros_like(tokens)
        whole = torch.ones_like(tokens, dtype=torch.bool)
        for n in range(self.order):
            following = F.pad(tokens, (0, n))[:, n:]
            whole = whole & (following > UNKNOWN)
            run = run * self.vocabulary + following
            columns.append(run * whole)
        return torch.cat(columns, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        if len(self.known) == 0:
            return self.bias.expand(len(tokens), -1)
        keys = self.keys(tokens).sort(1).values  # [B, M]
        places = torch.searchsorted(self.known, keys).clamp(max=len(self.known) - 1)
        counted = (self.known[places] == keys) & (keys > 0)
        counted[:, 1:] &= keys[:, 1:] != keys[:, :-1]  # each once
        length = counted.sum(1, keepdim=True).clamp(min=1).sqrt()  # [B, 1]
        if self.training and self.dropout:
            counted = counted & (torch.rand(keys.shape, device=keys.device) >= self.dropout)
            length = length * (1 - self.dropout)
        parts = F.embedding(places, self.weight * self.ratios)  # [B, M, K]
        return (parts * counted.unsqueeze(2)).sum(1) / length * self.scale + self.bias

    def learn(self, known: Tensor, ratios: Tensor) -> None:
        """Takes what `count_ngrams` found in the training split."""
        self.known.copy_(known)
        self.ratios.copy_(ratios)


def count_ngrams(
    tokens: Sequence[Sequence[int]], targets: Tensor, classes: int, vocabulary: int, order: int
) -> tuple[Tensor, Tensor]:
    """The n-grams in at least LEAST texts of a training split: sorted keys [M], and their log-count ratios [M, K].

    One that is in a single text would tell its label by heart. Of more than MOST the most frequent are kept.

    Args:
        tokens: ids of each text.
        targets: class of each, int64 [N].
    """
    lengths = torch.tensor([len(text) for text in tokens])
    flat = torch.tensor(list(chain.from_iterable(tokens)), dtype=torch.int64)
    owner = torch.arange(len(tokens)).repeat_interleave(lengths)
    keys = NGrams(0, classes, vocabulary, order).keys(flat.unsqueeze(0)).view(order, -1)  # [order, all tokens]
    pairs = []
    for n in range(order):  # a run over the end of a text is none
        inside = (F.pad(owner[n:], (0, min(n, len(owner))), value=-1) == owner) & (keys[n] > 0)
        pairs.append(torch.stack([keys[n][inside], owner[inside]], 1).unique(dim=0))  # once for each text
    key, text = torch.cat(pairs).unbind(1)
    known, place, count = key.unique(return_inverse=True, return_counts=True)
    cells = place * classes + targets[text]
    counts = cells.bincount(minlength=len(known) * classes).view(-1, classes).float()  # [M, K]
    keep = (count >= LEAST).nonzero().flatten()
    if len(keep) > MOST:
        keep = keep[count[keep].argsort(descending=True, stable=True)[:MOST].sort().values]
    known, counts = known[keep], counts[keep]
    inside, outside = counts + 1, counts.sum(1, keepdim=True) - counts + 1  # Laplace's smoothing
    return known, (inside / inside.sum(0)).log() - (outside / outside.sum(0)).log()
