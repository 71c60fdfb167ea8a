"""What an evaluation found: numbers over the whole set at once, and what the figures are drawn from."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from torch import Tensor

from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

BINS = 15  # of the calibration error, as in Guo et al. 2017
ROC_POINTS = 100  # kept per curve in details; the area is of the whole curve


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


def classification(classes: Sequence[str]) -> Callable[[Tensor, Tensor], Metrics]:
    """The metric suite of single-label classification into K named classes.

    Returns a function of logits [N, K] (any float dtype and device) and targets [N] in 0..K-1, N >= 1. Macro averages
    are over the classes that occur among the targets or the predictions, as scikit-learn's are; `roc_auc` is one
    class against the rest over the classes among the targets (for K = 2 that of the second class). `calibration_error`
    is the expected calibration error of Guo et al. 2017. `details` has "classes", "confusion" [true][predicted],
    "per_class", "roc" {class: [fpr, tpr, area]} and "reliability" (bins).

    Raises UserError for fewer than two classes, two of one name, an empty set, a target outside 0..K-1, and logits
    that are not numbers.
    """
    names = [str(name) for name in classes]
    if len(names) < 2:
        raise UserError(f"classification needs at least two classes, got {len(names)}", "Check the labels of the data.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two classes have the same name: {twice}", "Give every class a name of its own.")

    def measure(logits: Tensor, targets: Tensor) -> Metrics:
        _check(logits, targets, names)
        # One copy in float64: softmax in float32 would tie confident predictions at exactly 1.
        scores = logits.detach().cpu().double()  # [N, K]
        probabilities = scores.softmax(1)
        if not bool(probabilities.isfinite().all()):
            raise UserError("the logits to evaluate are not numbers (NaN or infinite)", _DIVERGED)
        # What scikit-learn warns of (undefined metrics, many classes beside few samples) is said in the notes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return _measure(
                probabilities.numpy(), scores.argmax(1).numpy(), targets.detach().cpu().long().numpy(), names
            )

    return measure


_DIVERGED = "The model diverged: train with a lower --lr or with --precision fp32."


def _check(logits: Tensor, targets: Tensor, classes: list[str]) -> None:
    if logits.ndim != 2 or logits.shape[1] != len(classes) or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits {list(logits.shape)}, targets {list(targets.shape)} for {len(classes)} classes")
    if not len(targets):
        raise UserError("there is nothing to evaluate: the set is empty", "Check the split of the data.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= len(classes):
        wrong = low if low < 0 else high
        raise UserError(f"label {wrong} is outside 0..{len(classes) - 1}", "Check the labels of the data.")


def _measure(probabilities: np.ndarray, predicted: np.ndarray, targets: np.ndarray, classes: list[str]) -> Metrics:
    """probabilities [N, K], predicted [N], targets [N]."""
    import numpy as np
    from sklearn import metrics as sk

    n, every = len(targets), np.arange(len(classes))
    correct = predicted == targets
    confidence = probabilities[np.arange(n), predicted]
    low, high = wilson(int(correct.sum()), n)
    values: dict[str, float | int] = {"accuracy": float(correct.mean()), "accuracy_low": low, "accuracy_high": high}
    values["n"] = n
    if len(classes) > 5:
        values["top5_accuracy"] = float(sk.top_k_accuracy_score(targets, probabilities, k=5, labels=every))

    rows = sk.precision_recall_fscore_support(targets, predicted, labels=every, zero_division=0)
    support = rows[3]
    seen = (support > 0) | np.isin(every, predicted)
    for name, row in zip(("precision", "recall", "f1"), rows[:3], strict=True):
        values[f"{name}_macro"] = float(row[seen].mean())
        values[f"{name}_weighted"] = float(np.average(row, weights=support))

    roc = _roc(probabilities, targets, classes)
    if roc:
        values["roc_auc"] = float(np.mean([area for _, _, area in roc.values()]))
    values["log_loss"] = float(sk.log_loss(targets, probabilities, labels=every))
    bins = _reliability(confidence, correct)
    values["calibration_error"] = sum(b["count"] / n * abs(b["accuracy"] - b["confidence"]) for b in bins if b["count"])

    details = {
        "classes": classes,
        "confusion": sk.confusion_matrix(targets, predicted, labels=every).tolist(),
        "per_class": _per_class(classes, *rows),
        "roc": roc,
        "reliability": bins,
    }
    return Metrics("accuracy", values, _notes(classes, support, np.isin(every, predicted)), details)


def _per_class(classes: list[str], *rows: np.ndarray) -> list[dict[str, Any]]:
    """One row a class; None where the class is absent, so that nothing was measured."""
    table = []
    for name, precision, recall, f1, support in zip(classes, *rows, strict=True):
        measured = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
        row = measured if support else dict.fromkeys(measured)
        table.append({"class": name, **row, "support": int(support)})
    return table


def _roc(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> dict[str, list[Any]]:
    """{class: [fpr, tpr, area]} of each class against the rest, where there is both the class and a rest."""
    import numpy as np
    from sklearn import metrics as sk

    curves = {}
    for k in [1] if len(classes) == 2 else range(len(classes)):
        positive = targets == k
        if positive.all() or not positive.any():
            continue
        fpr, tpr, _ = sk.roc_curve(positive, probabilities[:, k])
        way = np.concatenate([[0], np.cumsum(np.diff(fpr) + np.diff(tpr))])  # length along the curve, 0..2
        keep = np.unique(np.searchsorted(way, np.linspace(0, way[-1], ROC_POINTS)).clip(max=len(way) - 1))
        points = [np.round(axis[keep], 5).tolist() for axis in (fpr, tpr)]
        curves[classes[k]] = [*points, float(sk.auc(fpr, tpr))]
    return curves


def _reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """Equal-width bins (low, high] of the confidence in the predicted class; means are None in an empty bin."""
    import numpy as np

    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for i in range(BINS):
        inside = which == i
        count = int(inside.sum())
        means = [float(x[inside].mean()) if count else None for x in (confidence, correct)]
        edges = {"low": i / BINS, "high": (i + 1) / BINS}
        bins.append({**edges, "count": count, "confidence": means[0], "accuracy": means[1]})
    return bins


def _notes(classes: list[str], support: np.ndarray, predicted: np.ndarray) -> list[str]:
    present = [name for name, count in zip(classes, support, strict=True) if count]
    absent = [name for name, count in zip(classes, support, strict=True) if not count]
    missed = [name for name, count, hit in zip(classes, support, predicted, strict=True) if count and not hit]
    notes = []
    if len(present) == 1:
        notes.append(f"only class {present[0]} is in the test set: roc_auc is undefined and left out")
    elif absent:
        notes.append(
            f"{_list(absent, 'absent from the test set')}: left out of roc_auc, and of macro averages unless predicted"
        )
    if missed:
        notes.append(f"{_list(missed, 'never predicted')}: precision counts as 0")
    return notes


def _list(names: list[str], what: str) -> str:
    """'class a is WHAT', 'classes a, b are WHAT', cut off after five names."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"class {shown} is {what}" if len(names) == 1 else f"classes {shown} are {what}"
