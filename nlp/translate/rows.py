"""What goes in and comes out: a source that fits the model, and a translation with where the model looked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.kinds.answer import Row
from common.kinds.text import TextInput
from common.machine import device
from nlp.translate.batches import Languages
from nlp.translate.data import PairData
from nlp.translate.search import Hypothesis, padded, search
from nlp.vocabulary import END, Pieces, Vocabulary

MOST_NAMED = 12  # unknown characters that an error names


@dataclass(frozen=True)
class SourceInput(TextInput):
    """A text that is to be translated.

    Args:
        example: one that the model can read.
        alphabet: all characters that it can read, where it can't read every one.
        context: most tokens, of which the last is the end of the text.
    """

    usage: ClassVar[str] = '--value "a text"'

    example: str = ""
    alphabet: str = ""
    context: int = 0

    @classmethod
    def of(cls, data: PairData, languages: Languages, context: int) -> SourceInput:
        """That of a data set; the example is a validation source that may be three times as long."""
        short = [text for text in data.valid.sources if len(languages.read([thrice(text)])[0]) <= context]
        return cls(max(short[:20], key=len, default=""), languages.source.alphabet, context)

    def checked_by(self, languages: Languages) -> SourceInput:
        """The same, refusing what is longer than the context."""
        found = SourceInput(self.example, self.alphabet, self.context)
        object.__setattr__(found, "_tokens", lambda text: len(languages.read([text])[0]))
        return found

    def sample(self) -> bytes:
        return self.example.encode()

    def longer(self) -> bytes:
        return thrice(self.example).encode()

    def decode(self, source: Path | bytes, name: str = "") -> str:
        """The text of a file or of its bytes, without spaces around it; in small letters where there are no others.

        Raises:
            UserError: as of TextInput, it is too long, or a character is not in the alphabet.
        """
        name = name or "The text"
        text = super().decode(source, name).strip()
        if self.alphabet:
            text = "".join(letter if letter in self.alphabet else letter.lower() for letter in text)
            unknown = sorted(set(text).difference(self.alphabet))
            if unknown:
                named = " ".join(map(repr, unknown[:MOST_NAMED])) + (" …" if len(unknown) > MOST_NAMED else "")
                raise UserError(f"{name} has characters that this model does not know: {named}.", "Leave them out.")
        count: Callable[[str], int] | None = getattr(self, "_tokens", None)
        tokens = count(text) if count is not None else 0
        if tokens > self.context:
            what = f"{name} is {tokens} tokens long, more than the {self.context} that this model reads at once."
            raise UserError(what, "Translate it in parts, or train with a larger --context.")
        return text


def thrice(text: str) -> str:
    """A text three times, with spaces between where it has any."""
    return (" " * (" " in text)).join([text] * 3)


@torch.inference_mode()
def rows(
    model: nn.Module, languages: Languages, texts: Sequence[str], beams: int, penalty: float, cached: bool = True
) -> list[Row]:
    """The translation of each text, as `common.kinds.translation` has it; each as it would be alone.

    Args: as of `search`.
    """
    if not texts:
        return []
    model.eval()
    place = device.of(model)
    sources = languages.read(texts)
    found = search(model, sources, beams=beams, penalty=penalty, cached=cached)
    written = [[END, *hypotheses[0].ids] for hypotheses in found]
    logits, attention = model((padded(sources, place), padded(written, place)))  # all of it, once more
    shares = logits.float().softmax(2).cpu()
    return [
        _row(languages, source, hypotheses, share, looked)
        for source, hypotheses, share, looked in zip(sources, found, shares, attention.float().cpu(), strict=True)
    ]


def _row(
    languages: Languages, source: list[int], hypotheses: list[Hypothesis], shares: Tensor, attention: Tensor
) -> Row:
    """A row from the model's outputs.

    Args:
        shares: probabilities of the token after each of the target's, [T, V].
        attention: where it looked, [T, S].
    """
    best = hypotheses[0]
    scores = shares[torch.arange(len(best.ids)), torch.tensor(best.ids, dtype=torch.int64)].tolist()
    asked, said = groups(languages.source, source[:-1]), groups(languages.target, best.ids)
    looked = [
        [round(float(attention[t.start : t.stop, s.start : s.stop].sum(1).mean()), 4) for _, s in asked]
        for _, t in said
    ]
    others: dict[str, float] = {}
    for one in hypotheses[1:]:
        others.setdefault(languages.write(one.ids), _probability(one.logprob))
    text = languages.write(best.ids)
    others.pop(text, None)  # the same letters, in other pieces
    pieces: list[list[Any]] = [[part, round(math.prod(scores[t.start : t.stop]), 6)] for part, t in said]
    return {
        "text": text,
        "probability": _probability(best.logprob),
        "source_pieces": [part for part, _ in asked],
        "pieces": pieces,
        "attention": looked,
        "alternatives": [[other, share] for other, share in others.items()],
    }


def _probability(logprob: float) -> float:
    return float(f"{math.exp(logprob):.6g}")


def groups(words: Vocabulary, ids: Sequence[int]) -> list[tuple[str, range]]:
    """Tokens as they are shown, pieces of byte-pair encoding word by word, others one by one; and which they are."""
    found: list[tuple[bytes, range]] = []
    for place, number in enumerate(ids):
        piece = words.pieces[number]
        if found and isinstance(words, Pieces) and not piece.startswith(b" "):
            before, tokens = found[-1]
            found[-1] = before + piece, range(tokens.start, place + 1)
        else:
            found.append((piece, range(place, place + 1)))
    return [(piece.decode("utf-8", "replace"), tokens) for piece, tokens in found]
