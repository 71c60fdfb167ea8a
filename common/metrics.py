"""What an evaluation found: numbers over the whole set at once, and what the figures are drawn from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Metrics:
    """What an evaluation found.

    Args:
        headline: the key in `values` that stands for the whole, "accuracy" for instance.
        values: flat and JSON-able. NaN never appears: an undefined metric is left out and a note says why.
        notes: what a reader must know about the values, one sentence each.
        details: what figures are drawn from; lists, dictionaries, numbers and strings only.
    """

    headline: str
    values: dict[str, float | int]
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion, both ends in 0..1 (Wilson 1927, without continuity correction)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def paired_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a mean difference over the k folds of a cross-validation: the corrected resampled t-test.

    Folds share most of their training rows, so that their results are not independent and the usual variance / k
    is too small; it becomes variance × (1/k + 1/(k − 1)) (Nadeau and Bengio 2003, doi 10.1023/A:1024068626366).
    """
    from scipy.special import stdtrit

    k = len(differences)
    spread = math.sqrt(statistics.variance(differences) * (1 / k + 1 / (k - 1)))
    half = float(stdtrit(k - 1, 0.5 + confidence / 2)) * spread
    mean = statistics.fmean(differences)
    return mean - half, mean + half
