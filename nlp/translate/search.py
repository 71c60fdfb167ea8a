"""Beam search: the likeliest texts that a network would write, several of each source, many sources at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.machine import device
from nlp.translate.networks import PAD
from nlp.vocabulary import END

MOST_ROWS = 1024  # hypotheses that are written at once
LONGER, MORE = 2, 10  # a translation ends after so many tokens for each of the source, and so many more


class Hypothesis(NamedTuple):
    """A text that has ended.

    Args:
        ids: its tokens, without END.
        logprob: of all of it, in nats; with END, unless it was too long and had to end.
        score: that by its length, by which hypotheses are compared.
    """

    ids: list[int]
    logprob: float
    score: float


def search(
    network: Any, sources: Sequence[Sequence[int]], *, beams: int, penalty: float, cached: bool = True
) -> list[list[Hypothesis]]:
    """Up to `beams` texts for each source, the best first; one beam is greedy decoding.

    A source is done when `beams` of its hypotheses have ended, each better than the best that goes on is by now: those
    that end too early would otherwise crowd out the right one. What else is in a batch makes no difference but for
    rounding.

    Args:
        sources: token ids, each ending with END.
        penalty: the exponent of the length penalty, ((5 + length) / 6) ** penalty (Wu et al. 2016, arXiv 1609.08144,
            equation 14); 0 for none, which prefers short texts.
        cached: whether the network has `start` and `step`; else it reads all of the text for each token.
    """
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    found: dict[int, list[Hypothesis]] = {}
    size = max(1, MOST_ROWS // beams)
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        found |= zip(numbers, _batch(network, [sources[n] for n in numbers], beams, penalty, cached), strict=True)
    return [found[number] for number in range(len(sources))]


@torch.inference_mode()
def _batch(
    network: Any, sources: Sequence[Sequence[int]], beams: int, penalty: float, cached: bool
) -> list[list[Hypothesis]]:
    place = device.of(network)
    tokens = padded(sources, place)
    state: Any = network.start(tokens, beams) if cached else Whole(tokens, beams)
    step: Callable[[Tensor, Any], Tensor] = network.step if cached else lambda new, whole: whole.step(network, new)
    limits = [LONGER * len(source) + MORE for source in sources]
    ended: list[list[Hypothesis]] = [[] for _ in sources]
    going = list(range(len(sources)))

    written = torch.full((len(sources), beams, 1), END, device=place)
    first = [0.0, *[-torch.inf] * (beams - 1)]  # all beams begin alike: one of them counts
    scores = torch.tensor(first, device=place).expand(len(sources), beams)
    while going:
        logs = step(written[:, :, -1].flatten(), state).float().log_softmax(1)
        # Twice as many as there are beams: each beam can end once, so that as many are left to go on.
        scores, choice = (scores.unsqueeze(2) + logs.view(*scores.shape, -1)).flatten(1).topk(2 * beams)
        beam, token = choice // logs.shape[1], choice % logs.shape[1]
        last = token == END
        for row, rank in (last & scores.isfinite())[:, :beams].nonzero().tolist():
            ids = written[row, int(beam[row, rank]), 1:].tolist()
            ended[going[row]].append(Hypothesis(ids, *_scored(float(scores[row, rank]), len(ids) + 1, penalty)))
        on = last.int().argsort(dim=1, stable=True)[:, :beams]  # the best that go on
        scores, beam, token = (part.gather(1, on) for part in (scores, beam, token))
        written = torch.cat([written.gather(1, beam.unsqueeze(2).expand_as(written)), token.unsqueeze(2)], 2)

        length = written.shape[2] - 1
        kept = []
        for row, (number, best) in enumerate(zip(going, scores[:, 0].tolist(), strict=True)):
            ended[number] = sorted(ended[number], key=lambda one: -one.score)[:beams]
            enough = len(ended[number]) == beams
            if enough and (beams == 1 or ended[number][-1].score >= _scored(best, length, penalty)[1]):
                continue
            if length < limits[number]:
                kept.append(row)
            elif not enough:  # it goes on and on
                rest = zip(written[row, :, 1:].tolist(), scores[row].tolist(), strict=True)
                cut = [Hypothesis(ids, *_scored(score, length, penalty)) for ids, score in rest if score > -torch.inf]
                ended[number] += cut[: beams - len(ended[number])]
        rows = beam + beams * torch.arange(len(going), device=place).unsqueeze(1)  # where each was before
        if len(kept) < len(going):
            keep = torch.tensor(kept, dtype=torch.int64, device=place)
            going = [going[row] for row in kept]
            written, scores, rows = written[keep], scores[keep], rows[keep]
            state.keep(rows.flatten(), keep)
        else:
            state.keep(rows.flatten(), None)
    return [sorted(found, key=lambda one: -one.score) for found in ended]


def _scored(logprob: float, length: int, penalty: float) -> tuple[float, float]:
    """A log-probability, and the score of so many tokens with it."""
    return logprob, logprob / ((5 + length) / 6) ** penalty


class Whole:
    """The state of a program that has no cache, such as an export: all that was written."""

    def __init__(self, sources: Tensor, beams: int) -> None:
        self._sources = sources.repeat_interleave(beams, 0)
        self._written = self._sources[:, :0]

    def step(self, network: Any, tokens: Tensor) -> Tensor:
        """As of the networks."""
        self._written = torch.cat([self._written, tokens.unsqueeze(1)], 1)
        logits: Tensor = network((self._sources, self._written))[0]
        return logits[:, -1]

    def keep(self, rows: Tensor, sources: Tensor | None) -> None:
        self._written = self._written[rows]
        self._sources = self._sources[rows]  # those of a source are alike


def padded(texts: Sequence[Sequence[int]], place: torch.device) -> Tensor:
    """Token ids filled up with PAD at their ends, [B, T]."""
    longest = max(len(text) for text in texts)
    return torch.tensor([[*text, *[PAD] * (longest - len(text))] for text in texts], dtype=torch.int64, device=place)
