"""How near translations are to what is right: error rates of symbols, BLEU and chrF of texts, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from common.errors import UserError
from common.metrics import wilson

SAMPLES = 1000  # of the bootstrap
BOOTSTRAP_SEED = 12_345  # sacreBLEU's own
References = Sequence[tuple[str, ...]]


def check(symbols: bool) -> None:
    """Raises UserError where what measures texts is not installed."""
    if not symbols and find_spec("sacrebleu") is None:
        raise UserError(
            "Translations are measured by sacreBLEU, which is not installed.", "pip install -e '.[translate]'"
        )


def headline(symbols: bool) -> str:
    return "wer" if symbols else "bleu"


def measure(texts: Sequence[str], references: References, symbols: bool) -> tuple[dict[str, float], list[str]]:
    """The figures of translations, and what must be known of them.

    Symbols: `wer`, the share of texts that are not wholly right, with Wilson's interval, and `per`, the edits per
    symbol; of several references the nearest counts. Texts: `bleu` with a bootstrap interval (Koehn 2004) and `chrf`,
    by sacreBLEU (Post 2018, arXiv 1804.08771), cased, of texts as they are.
    """
    return _symbols(texts, references) if symbols else _texts(texts, references)


def _symbols(texts: Sequence[str], references: References) -> tuple[dict[str, float], list[str]]:
    values = points(texts, references, True)
    low, high = wilson(round(values["wer"] * len(texts)), len(texts))
    notes = ["wer is the share of texts with any mistake, per that of symbols to insert, delete or replace"]
    if any(len(right) > 1 for right in references):
        notes[0] += "; of several right texts the nearest counts"
    return {"wer": values["wer"], "wer_low": low, "wer_high": high, "per": values["per"]}, notes


def errors(text: str, references: Sequence[str]) -> tuple[int, int]:
    """The fewest edits from a text to one of its references, and the symbols of that one."""
    return min((distance(text.split(), right.split()), len(right.split())) for right in references)


def distance(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Insertions, deletions and replacements from one sequence to another (Levenshtein 1966)."""
    above = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


def _texts(texts: Sequence[str], references: References) -> tuple[dict[str, float], list[str]]:
    bleu, chrf = _scorers()
    right = [[reference[0] for reference in references]]
    values = {"bleu": bleu.corpus_score(list(texts), right).score}
    low, high = interval(bleu, texts, references)
    values |= {"bleu_low": low, "bleu_high": high, "chrf": chrf.corpus_score(list(texts), right).score}
    bleu.corpus_score(list(texts), right)  # a signature is that of the last score
    notes = [
        f"BLEU is sacreBLEU's, {bleu.get_signature()}; chrF {chrf.get_signature()}",
        f"the interval of BLEU is of {SAMPLES:,} samples of the test's sentences, drawn anew from them",
    ]
    return values, notes


def points(texts: Sequence[str], references: References, symbols: bool) -> dict[str, float]:
    """The figures alone, without intervals."""
    if symbols:
        found = [errors(text, right) for text, right in zip(texts, references, strict=True)]
        wrong = sum(text not in right for text, right in zip(texts, references, strict=True))
        return {"wer": wrong / len(texts), "per": sum(edits for edits, _ in found) / max(1, sum(n for _, n in found))}
    right = [[reference[0] for reference in references]]
    bleu, chrf = _scorers()
    return {"bleu": bleu.corpus_score(list(texts), right).score, "chrf": chrf.corpus_score(list(texts), right).score}


def _scorers() -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(), CHRF()


def interval(bleu: Any, texts: Sequence[str], references: References) -> tuple[float, float]:
    """The 95 % interval of BLEU when sentences are drawn anew (Koehn 2004), from the counts of each sentence."""
    import numpy as np

    counts = []  # lengths of text and reference, then matches and n-grams of each order
    for text, right in zip(texts, references, strict=True):
        one = bleu.corpus_score([text], [[right[0]]])
        counts.append([one.sys_len, one.ref_len, *one.counts, *one.totals])
    stats = np.array(counts, dtype=np.int64)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    scores = []
    for _ in range(SAMPLES):
        total = stats[rng.integers(len(stats), size=len(stats))].sum(0).tolist()
        order = (len(total) - 2) // 2
        made = bleu.compute_bleu(total[2 : 2 + order], total[2 + order :], total[0], total[1], smooth_method="exp")
        scores.append(made.score)
    low, high = np.percentile(scores, [2.5, 97.5]).tolist()
    return low, high
