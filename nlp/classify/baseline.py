"""What a network has to beat: TF-IDF and logistic regression, on the same split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.data.texts.splits import TextData
from common.machine import distributed
from common.metrics import Metrics, wilson
from common.report import page as report

STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # C of the regression, chosen on the validation split
MOST_TEXTS, MOST_TERMS, MOST_LETTERS = 30_000, 200_000, 5_000  # limits of its cost


@dataclass(frozen=True)
class Baseline:
    """TF-IDF over words and pairs of words, and logistic regression.

    Args:
        correct: whether each test text was classified rightly, bool [N].
        strength: C, as chosen on the validation split.
        trained_on: number of training texts used.
    """

    correct: Tensor
    strength: float
    trained_on: int

    @property
    def accuracy(self) -> float:
        return self.correct.double().mean().item()


def tfidf(data: TextData) -> Baseline:
    """Fits the baseline on train, chooses its C on valid, measures it on test; on the first process only.

    Of very large data it takes an even sample of MOST_TEXTS training texts, of long ones the first MOST_LETTERS.
    """
    return distributed.share(_fit(data) if distributed.rank() == 0 else None)


def _fit(data: TextData) -> Baseline:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    sample = torch.linspace(0, len(data.train) - 1, min(len(data.train), MOST_TEXTS)).long()
    train = data.train.subset(sample)
    # Its usual words have two letters or more; a sign or an emoji is a word where a text has nothing else.
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_TERMS, token_pattern=r"\w+|[^\w\s]"
    )
    cut = [[text[:MOST_LETTERS] for text in part.texts] for part in (train, data.valid, data.test)]
    if not any(text.strip() for text in cut[0]):  # nothing to count
        guess = train.targets.mode().values
        return Baseline(data.test.targets == guess, 0.0, len(train))
    x = [vectorizer.fit_transform(cut[0]), *map(vectorizer.transform, cut[1:])]
    best = (-1.0, 0.0, torch.zeros(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred rounds settle every answer
        model = LogisticRegression(max_iter=100, warm_start=True)  # each strength starts at the answer of the last
        for strength in STRENGTHS:
            model.set_params(C=strength).fit(x[0], train.targets.numpy())
            score = float(model.score(x[1], data.valid.targets.numpy()))
            if score > best[0]:
                best = (score, strength, torch.from_numpy(model.predict(x[2])))
    return Baseline(best[2] == data.test.targets, best[1], len(train))


def compared(metrics: Metrics, logits: Tensor, targets: Tensor, baseline: Baseline) -> Metrics:
    """The metrics with `tfidf_accuracy` and the paired difference to it, `gain_over_tfidf` with its 95 % interval."""
    gain, low, high = paired_difference(logits.argmax(1) == targets, baseline.correct)
    values = {
        **metrics.values,
        "tfidf_accuracy": baseline.accuracy,
        "gain_over_tfidf": gain,
        "gain_over_tfidf_low": low,
        "gain_over_tfidf_high": high,
    }
    return Metrics(metrics.headline, values, metrics.notes, metrics.details)


def paired_difference(ours: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """Difference of two accuracies on the same samples, bool [N] each, and its 95 % interval.

    Agresti and Min 2005 (Statistics in Medicine 24): half a sample is added to each cell of the 2 × 2 table, so that
    the interval has a width even where both always agree.
    """
    n = len(ours) + 2
    only_ours = int((ours & ~theirs).sum()) + 0.5
    only_theirs = int((theirs & ~ours).sum()) + 0.5
    centre = (only_ours - only_theirs) / n
    error = math.sqrt((only_ours + only_theirs) / n - centre**2) / math.sqrt(n)
    return (ours.double() - theirs.double()).mean().item(), centre - 1.96 * error, centre + 1.96 * error


def mcnemar(ours: Tensor, theirs: Tensor) -> float:
    """Exact two-sided probability of so uneven a disagreement by chance alone (McNemar 1947), in 0..1."""
    from scipy.stats import binomtest

    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def section(name: str, metrics: Metrics, ours: Tensor, baseline: Baseline) -> report.Section:
    """A table of both accuracies and of their difference."""
    theirs = baseline.correct
    rows = []
    for label, correct in ((name, ours), ("TF-IDF + logistic regression", theirs)):
        low, high = wilson(int(correct.sum()), len(correct))
        rows.append((label, *(f"{100 * x:.2f} %" for x in (correct.double().mean().item(), low, high))))
    gain, low, high = (metrics.values[f"gain_over_tfidf{end}"] for end in ("", "_low", "_high"))
    rows.append(("difference", *(f"{100 * x:+.2f}" for x in (gain, low, high))))
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    note = (
        f"Both on the same {len(ours):,} test texts; the regression with C = {baseline.strength:g}, chosen on the "
        f"validation split, from {baseline.trained_on:,} training texts. Only the network is right on {won:,} texts, "
        f"only the regression on {lost:,}: p = {mcnemar(ours, theirs):.2g} by McNemar's test."
    )
    return report.table("Beside a simple model", ("model", "accuracy", "95 % low", "95 % high"), rows, note)
