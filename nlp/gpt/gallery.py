"""What a report shows of a language model: what it writes, its loss beside counted n-grams, and what surprises it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from torch import nn

from common.data.texts.corpora import Corpus
from common.kinds.sampling import Sampling
from common.machine import distributed
from common.machine.device import of
from common.metrics import Metrics
from common.report import page as report
from common.report import plots
from common.training.run import Run
from nlp import decoding
from nlp.gpt.model import GPT
from nlp.gpt.ngram import bits
from nlp.vocabulary import END, Vocabulary

OPENING = 24  # characters of the prompt
SAMPLE = Sampling(max_tokens=160, temperature=0.8, seed=0)
SHOWN = 1200  # characters of the text that is coloured
ATTENDED, LAYERS, HEADS = 48, 4, 8  # tokens, layers and heads of which the attention is shown


def opening(corpus: Corpus) -> str:
    """A prompt for this kind of text: how the validation text begins."""
    return corpus.valid[0].lstrip()[:OPENING]


class Diary:
    """What the network wrote and how well it did at each validation; kept with the run's state.

    Args:
        prompt: that is continued each time, with the same options and seed.
        limit: tokens that the network sees at once; 0 for any number.
    """

    def __init__(self, run: Run, vocabulary: Vocabulary, prompt: str, limit: int) -> None:
        self._run, self._vocabulary, self.prompt, self._limit = run, vocabulary, prompt, limit

    @property
    def entries(self) -> list[dict[str, Any]]:
        """One for each validation: step, seconds of training, loss, text."""
        found: list[dict[str, Any]] = self._run.state.setdefault("diary", [])
        return found

    def note(self, network: nn.Module, loss: float) -> None:
        """Takes a sample, on the first process."""
        if distributed.rank() > 0:
            return
        network.eval()
        (text,) = decoding.generate(network, self._vocabulary, [self.prompt], [SAMPLE], limit=self._limit)
        entry = {"step": self._run.step + 1, "seconds": self._run.train_seconds, "loss": loss}
        self.entries.append({**entry, "text": text.row(self._vocabulary)["text"]})


def sections(
    model: nn.Module,
    vocabulary: Vocabulary,
    text: str,
    limit: int,
    metrics: Metrics,
    diary: Diary,
    per_byte: float,
    flops: float,
) -> list[report.Section]:
    """The parts of the report.

    Args:
        text: that is shown as the network reads it.
        limit: as of Diary.
        per_byte: tokens per byte of the validation text.
        flops: of a step.
    """
    return [
        _samples(diary),
        _curve(diary, metrics, per_byte, flops),
        _lengths(metrics),
        _coloured(model, vocabulary, text, limit),
        *_attention(model, vocabulary, text, limit),
    ]


def _samples(diary: Diary) -> report.Section:
    items = []
    for entry in diary.entries:
        head = f"step {entry['step']:,}, {entry['seconds']:.0f} s, loss {entry['loss']:.3f}"
        said = f"<strong>{escape(diary.prompt)}</strong>{escape(entry['text'])}"
        items.append(f'<p>{head}</p><pre style="white-space: pre-wrap">{said}</pre>')
    note = (
        f"After each validation the network went on from the same beginning, {SAMPLE.max_tokens} tokens at temperature "
        f"{SAMPLE.temperature:g} with one seed."
    )
    return report.Section("What it writes", "\n".join(items), note)


def _curve(diary: Diary, metrics: Metrics, per_byte: float, flops: float) -> report.Section:
    """Bits per byte against seconds, and the lines of what needs no training."""
    seconds = [entry["seconds"] for entry in diary.entries]
    values = [bits(entry["loss"]) * per_byte for entry in diary.entries]
    rate = diary.entries[-1]["step"] * flops / max(seconds[-1], 1e-9) if seconds else 0.0
    with plots.canvas("Bits per byte of the validation text against seconds of training") as (figure, (ax,)):
        ax.plot(seconds, values, color=plots.ACCENT, marker="o", markersize=3)
        for name in ("ngram", "lzma"):
            line = metrics.values[f"{name}_bits_per_byte"]
            ax.axhline(line, color=plots.SECOND, linewidth=1, linestyle="--" if name == "ngram" else ":")
            ax.annotate(
                {"ngram": "n-grams"}.get(name, name),
                (1, line),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=plots.MUTED,
            )
        ax.set_xlabel("seconds of training")
        ax.set_ylabel("bits per byte")
    note = f"A second of this training was about {rate / 1e9:,.1f} GFLOP (6 for each weight and token)."
    return report.figure("Beside what only counts", figure, note)


def _lengths(metrics: Metrics) -> report.Section:
    """A table of the n-grams by length."""
    rows: list[Sequence[Any]] = [[n, value] for n, value in enumerate(metrics.details["ngrams"], start=1)]
    note = "Bits per byte of the validation text by n-grams of up to so many bytes."
    return report.table("N-grams by length", ("longest", "bits per byte"), rows, note)


def _coloured(model: nn.Module, vocabulary: Vocabulary, text: str, limit: int) -> report.Section:
    """A text as the network reads it: the less it expected a token, the stronger its ground."""
    model.eval()
    (pieces,) = decoding.read(model, vocabulary, [text], limit)
    parts = []
    for piece, share in pieces:
        strength = min(1.0, -math.log2(max(share, 1e-9)) / 10)
        ground = f'style="background: rgba(214, 120, 20, {0.7 * strength:.2f})" title="{100 * share:.2g} %"'
        parts.append(f"<span {ground}>{escape(piece)}</span>")
    body = f'<pre style="white-space: pre-wrap">{"".join(parts)}</pre>'
    note = (
        "The beginning of the validation text; the less a token was expected, the stronger its ground, up to 10 bits."
    )
    return report.Section("What surprises it", body, note)


def _attention(model: nn.Module, vocabulary: Vocabulary, text: str, limit: int) -> list[report.Section]:
    """Where the heads of the first and the last layers look, of a network that has such."""
    if not isinstance(model, GPT):
        return []
    (ids,) = vocabulary.encode([text])
    seen = [END, *ids][: min(ATTENDED, limit)]
    with torch.inference_mode():
        layers = [layer[0, :HEADS].float().cpu() for layer in model.attention(torch.tensor([seen], device=of(model)))]
    shown = layers if len(layers) <= LAYERS else [*layers[: LAYERS - 1], layers[-1]]
    numbers = [number for number, layer in enumerate(layers, 1) if any(layer is one for one in shown)]
    heads = len(shown[0])
    size = 7.2 / heads
    with plots.canvas("Attention of each head", 7.2, size * len(shown) + 0.4, rows=(1,) * len(shown)) as (figure, axes):
        for axis, layer, number in zip(axes, shown, numbers, strict=True):
            gap = torch.full((len(seen), 1), torch.nan)
            past = layer.sqrt().masked_fill(torch.ones(layer.shape[1:], dtype=torch.bool).triu(1), torch.nan)
            wide = torch.cat([part for head in past for part in (head, gap)][:-1], 1)
            axis.imshow(wide.numpy(), vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[], ylabel=f"layer {number}")
            axis.grid(visible=False)
    read = vocabulary.decode(seen[1:]).decode("utf-8", "replace")
    note = (
        "A square for each head: a row is a token, from top to bottom, and shows where it looks, from left "
        f"to right, up to itself. It is the square root of the weight, so that small ones are seen. The text: {read}"
    )
    return [report.figure("Where it looks", figure, note)]
