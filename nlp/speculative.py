"""Speculative decoding: a small network writes ahead, a large one checks several tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.kinds.sampling import Sampling
from common.machine import device
from nlp.decoding import Cached, Scored, Text, choose, draw, padded, probabilities
from nlp.vocabulary import END, Vocabulary


class Speculated(NamedTuple):
    """What was written with a draft.

    Attributes:
        proposed: tokens that the draft wrote; accepted: those of them that stand.
    """

    text: Text
    proposed: int
    accepted: int


@torch.inference_mode()
def speculate(
    network: Any, draft: Any, vocabulary: Vocabulary, prompt: str, sampling: Sampling, *, limit: int, ahead: int = 4
) -> Speculated:
    """Continues a text as `generate` does, with a small network that writes ahead and a large one that checks at once.

    What is written has the distribution of the large network; without temperature it is the same text (Leviathan et
    al. 2023, arXiv 2211.17192, algorithm 1).

    Args:
        draft: of the same vocabulary; both networks keep caches whose `lengths` can be set back, as GPT's.
        limit: tokens that both see at once. Where the text fills it, the large network goes on alone.
        ahead: tokens that the draft writes before they are checked.
    """
    text = Text([END, *vocabulary.encode([prompt])[0]], sampling)
    caches = [part.start(1) for part in (network, draft)]
    proposed = accepted = 0
    while not text.finish and len(text.ids) + ahead <= limit:
        guesses, theirs = _guess(draft, caches[1], text, ahead)
        ours = _extend(network, caches[0], [*text.ids, *guesses])[-(ahead + 1) :]
        proposed += ahead
        for number, logits in enumerate(ours):
            shares = probabilities(logits, sampling, text.ids).cpu()
            right = number < ahead and _accepts(shares, theirs[number], guesses[number], text)
            if not right and number < ahead:
                rest = (shares - theirs[number]).clamp(min=0)
                shares = rest / rest.sum() if rest.sum() > 0 else shares
            token = guesses[number] if right else draw(shares, text.generator)
            text.add(Scored(token, float(logits.float().softmax(0)[token])), vocabulary)
            accepted += right
            if text.finish or not right:
                break
        for cache in caches:  # the last token is read with the next ones
            cache.lengths.clamp_(max=len(text.ids) - 1)
    if not text.finish:
        reader = Cached(network, limit)
        while not text.finish:
            text.add(choose(reader.read([text.ids])[0], text), vocabulary)
    return Speculated(text, proposed, accepted)


def _guess(draft: Any, cache: Any, text: Text, ahead: int) -> tuple[list[int], list[Tensor]]:
    """Tokens that the draft would write next, and the distribution that each was drawn from."""
    ids, found = list(text.ids), []
    for _ in range(ahead):
        shares = probabilities(_extend(draft, cache, ids)[-1], text.sampling, ids).cpu()
        ids.append(draw(shares, text.generator))
        found.append(shares)
    return ids[len(text.ids) :], found


def _extend(network: Any, cache: Any, ids: Sequence[int]) -> Tensor:
    """Reads what a cache has not of a text; the logits after each token of it, [T, V]."""
    tokens, lengths = padded([ids[int(cache.lengths[0]) :]], device.of(network))
    logits: Tensor = network.extend(tokens, lengths, cache)
    return logits[0]


def _accepts(ours: Tensor, theirs: Tensor, token: int, text: Text) -> bool:
    """Whether a guess stands: with the ratio of its two probabilities, or always where ours is larger."""
    ratio = float(ours[token] / theirs[token])
    return ratio >= 1 or float(torch.rand((), generator=text.generator)) < ratio
