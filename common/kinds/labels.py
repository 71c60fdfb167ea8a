"""One class of several: its row, its metrics, and what a report shows of a classifier."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.kinds.answer import Row, Scored
from common.metrics import Metrics, wilson
from common.report import page as report
from common.report import plots
from common.report.plots import ACCENT, GRID, INK, MUTED, PAPER, SECOND, canvas

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

BINS = 15  # of the calibration error, as in Guo et al. 2017
ROC_POINTS = 100  # kept per curve in details; the area is of the whole curve


@dataclass(frozen=True)
class Labels(Scored):
    """A class, and the probability of each, most probable first."""

    kind: ClassVar[str] = "labels"
    key: ClassVar[str] = "class"
    scores: ClassVar[str] = "probabilities"

    def rows(self, outputs: Tensor) -> list[Row]:
        """The row of each input.

        Args:
            outputs: logits [B, K], float.
        """
        values, order = outputs.double().softmax(dim=1).sort(dim=1, descending=True, stable=True)  # [B, K] each
        rows: list[Row] = []
        for ranks, probabilities in zip(order.tolist(), values.tolist(), strict=True):
            ranked = {self.names[i]: round(p, 6) for i, p in zip(ranks, probabilities, strict=True)}
            rows.append({self.key: self.names[ranks[0]], self.scores: ranked})
        return rows

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Plain cross-entropy in nats, and accuracy in [0, 1], of logits [N, K]."""
        correct = (outputs.argmax(1) == targets).float().mean().item()
        return {"val_loss": F.cross_entropy(outputs, targets).item(), "val_accuracy": correct}

    def measure(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """The metric suite of single-label classification.

        Macro averages are over the classes that occur among the targets or the predictions, as scikit-learn's are;
        `roc_auc` is one class against the rest over the classes among the targets (for K = 2 that of the second class).
        `calibration_error` is the expected calibration error of Guo et al. 2017. `details` has "classes", "confusion"
        [true][predicted], "per_class", "roc" {class: [fpr, tpr, area]} and "reliability" (bins).

        Args:
            outputs: logits [N, K], any float dtype and device, N >= 1.
            targets: [N] in 0..K-1.

        Raises:
            UserError: fewer than two classes, two of one name, an empty set, a target outside 0..K-1, or logits that
                are not numbers.
        """
        names = list(self.names)
        _check(outputs, targets, names)
        # One copy in float64: softmax in float32 would tie confident predictions at exactly 1.
        scores = outputs.detach().cpu().double()  # [N, K]
        probabilities = scores.softmax(1)
        if not bool(probabilities.isfinite().all()):
            raise UserError("the logits to evaluate are not numbers (NaN or infinite)", _DIVERGED)
        predicted = scores.argmax(1).numpy()
        # What scikit-learn warns of (undefined metrics, many classes beside few samples) is said in the notes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return _measure(probabilities.numpy(), predicted, targets.detach().cpu().long().numpy(), names)

    def sections(self, metrics: Metrics) -> list[report.Section]:
        """Confusion matrix, per-class table, ROC curves and reliability diagram."""
        details = metrics.details
        if "confusion" not in details:
            return []
        classes, matrix = details["classes"], details["confusion"]
        shade = "Rows are true classes, columns predicted ones; the shade is the share of the row."
        sections = [report.figure("Confusion matrix", confusion(matrix, classes), shade)]
        if len(classes) > 20 and metrics.values["accuracy"] < 1:
            sections.append(_confusions(matrix, classes))
        sections.append(_class_table(metrics))
        if details["roc"]:
            note = "True against false positives of each class against the rest, over all thresholds."
            sections.append(report.figure("ROC curves", roc(details["roc"]), note))
        error = report.value_text("calibration_error", metrics.values["calibration_error"])
        note = (
            "How often a confidence is right. "
            f"The gaps (pale: n < 10), weighted by n, make the calibration error, {error}."
        )
        return [*sections, report.figure("Reliability", reliability(details["reliability"]), note)]

    def pictures(self, metrics: Metrics) -> dict[str, Any]:
        if "confusion" not in metrics.details:
            return {}
        return {"confusion": plots.pixels(confusion(metrics.details["confusion"], metrics.details["classes"]))}


# --- metrics -----------------------------------------------------------------------------------------------

_DIVERGED = "The model diverged: train with a lower --lr or with --precision fp32."


def _check(logits: Tensor, targets: Tensor, classes: list[str]) -> None:
    if len(classes) < 2:
        raise UserError(
            f"classification needs at least two classes, got {len(classes)}", "Check the labels of the data."
        )
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"two classes have the same name: {twice}", "Give every class a name of its own.")
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

    roc = _roc_curves(probabilities, targets, classes)
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


def _roc_curves(probabilities: np.ndarray, targets: np.ndarray, classes: list[str]) -> dict[str, list[Any]]:
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


# --- report ------------------------------------------------------------------------------------------------


def _class_table(metrics: Metrics) -> report.Section:
    table_rows, roc = metrics.details["per_class"], metrics.details["roc"]
    areas = {name: curve[-1] for name, curve in roc.items()}
    if len(table_rows) == 2 and areas:  # one curve stands for both classes
        areas = dict.fromkeys((row["class"] for row in table_rows), metrics.values["roc_auc"])
    rows = [
        (row["class"], row["precision"], row["recall"], row["f1"], areas.get(row["class"]), row["support"])
        for row in table_rows
    ]
    note = "Precision, recall and F1 of each class; n is its number of samples."
    if len(rows) > 20:
        rows.sort(key=lambda row: 2.0 if row[3] is None else row[3])
        note += " The lowest F1 comes first."
    section = report.table("Classes", ("class", "precision", "recall", "F1", "ROC AUC", "n"), rows, note)
    return replace(section, wide=len(rows) > 12)


def _confusions(matrix: Sequence[Sequence[int]], classes: Sequence[str], count: int = 15) -> report.Section:
    pairs = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    rows = [(classes[i], classes[j], n, round(100 * n / sum(matrix[i]))) for n, i, j in pairs[:count]]
    return report.table("Most frequent confusions", ("true", "predicted", "n", "% of class"), rows)


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """The confusion matrix [true][predicted], each row shaded by its shares; counts and names where K <= 20.

    Below half a row the shade grows with the square root of the share, so that a confusion of 1 % is still seen.
    """
    from matplotlib.patches import PathPatch

    k = len(classes)
    label = f"Confusion matrix of {k} classes: true classes in rows, predicted classes in columns."
    inches, points = (5.0, max(9, 14 - k)) if k <= 12 or k > 20 else (7.5, 8)
    with canvas(label, inches, inches) as (figure, (ax,)):
        for level, cells in _shades(matrix).items():
            ax.add_patch(PathPatch(_squares(cells), facecolor=ACCENT, alpha=level, linewidth=0))
            if k <= 20:
                for i, j in cells:
                    colour = PAPER if level >= 0.8 else INK
                    ax.text(
                        j + 0.5, i + 0.5, f"{matrix[i][j]:,}", color=colour, fontsize=points, ha="center", va="center"
                    )
        ax.set(xlim=(0, k), ylim=(k, 0), aspect="equal", xlabel="predicted", ylabel="true")
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set(visible=True, color=GRID)
        names = [_short(name) for name in classes] if k <= 20 else []
        places = [i + 0.5 for i in range(len(names))]
        upright = max(map(len, names), default=0) > 3
        turned = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"} if upright else {}
        ax.set_xticks(places, names, **turned)
        ax.set_yticks(places, names)
    return figure


def _shades(matrix: Sequence[Sequence[int]]) -> dict[float, list[tuple[int, int]]]:
    """{opacity: cells (row, column)} of the cells that are not zero, in steps of 5 %.

    No opacity lies between 0.6 and 0.8: there neither ink nor paper would be read well on the accent (WCAG AA).
    """
    shades: dict[float, list[tuple[int, int]]] = {}
    for i, row in enumerate(matrix):
        total = sum(row)
        for j, count in enumerate(row):
            if count:
                share = count / total
                opacity = 0.6 * math.sqrt(2 * share) if share < 0.5 else 0.6 + 0.4 * share
                shades.setdefault(max(1, round(20 * opacity)) / 20, []).append((i, j))
    return dict(sorted(shades.items()))


def _squares(cells: Sequence[tuple[int, int]]) -> Any:
    """One path of unit squares: 40,000 cells of 200 classes as patches of their own would be megabytes of SVG."""
    from matplotlib.path import Path

    corners = [(j + x, i + y) for i, j in cells for x, y in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    return Path(corners, [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(cells))


def _short(name: str, length: int = 16) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def roc(curves: Mapping[str, Sequence[Any]]) -> Figure:
    """ROC curves {class: (false positive rates, true positive rates, area)}; the three worst classes stand out."""
    ranked = sorted(curves.items(), key=lambda item: item[1][2])
    worst, rest = ranked[:3], ranked[3:]
    with canvas(f"ROC curves of {len(curves)} classes, each against the rest.", 5.0, 5.0) as (figure, (ax,)):
        ax.plot([0, 1], [0, 1], color=SECOND, linewidth=0.8, linestyle=(0, (2, 3)))
        lines = []
        for (name, (fpr, tpr, area)), style in zip(worst, ("-", (0, (4, 1.5)), (0, (1, 1.2))), strict=False):
            label = f"{_short(name, 24)}: {area:.3f}"
            lines += ax.plot(fpr, tpr, color=ACCENT, linestyle=style, label=label, zorder=3)
        for fpr, tpr, _ in (curve for _, curve in rest):
            label = f"{len(rest)} more: {rest[0][1][2]:.3f}–{rest[-1][1][2]:.3f}"
            line = ax.plot(fpr, tpr, color=SECOND, linewidth=0.8, alpha=1 if len(rest) <= 20 else 0.4, label=label)
        lines += line if rest else []
        ticks = [0, 0.25, 0.5, 0.75, 1]
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=ticks, yticks=ticks)
        ax.set(xlabel="false positive rate", ylabel="true positive rate")
        title = "area under the curve" + (", worst first" if rest else "")
        ax.legend(handles=lines, loc="lower right", title=title, alignment="left")
        ax.get_legend().get_title().set(fontsize=9, color=MUTED)
    return figure


def reliability(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Reliability diagram (Guo et al. 2017): accuracy by confidence, the gap to it, and how many samples where.

    A gap under the diagonal is overconfidence, one above it is underconfidence. Gaps of fewer than 10 samples are pale.

    Args:
        bins: rows with low, high, count, and the means confidence and accuracy (None in an empty bin).
    """
    from matplotlib.patches import Patch

    full = [b for b in bins if b["count"]]
    n = sum(b["count"] for b in full)
    width = bins[0]["high"] - bins[0]["low"]
    left = [b["low"] for b in full]
    with canvas("Reliability diagram: accuracy by confidence.", 5.0, 5.0, rows=(3, 1)) as (figure, (top, bottom)):
        heights = [b["accuracy"] for b in full]
        gaps = [b["confidence"] - b["accuracy"] for b in full]
        bar = {"width": width, "align": "edge", "edgecolor": PAPER, "linewidth": 0.8}
        top.bar(left, heights, color=ACCENT, alpha=0.35, **bar)
        drawn = top.bar(left, gaps, bottom=heights, color=ACCENT, **bar)
        for patch, b in zip(drawn, full, strict=True):
            patch.set_alpha(1 if b["count"] >= 10 else 0.5)
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", yticks=[0, 0.25, 0.5, 0.75, 1])
        handles = [
            Patch(color=ACCENT, alpha=0.35, label="accuracy"),
            Patch(color=ACCENT, label="gap to the mean confidence"),
        ]
        top.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2
        )  # above, clear of the bars
        bottom.bar(left, [b["count"] / n for b in full], color=SECOND, **bar)
        bottom.set(xlabel="confidence", ylabel="share", ylim=(0, 1), yticks=[0.5, 1])
        bottom.set_xticks([0, 0.25, 0.5, 0.75, 1])
    return figure
