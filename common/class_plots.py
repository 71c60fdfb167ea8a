"""Figures of a classifier: which classes it takes for which, ROC curves, and whether its confidence is deserved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.plots import ACCENT, GRID, INK, MUTED, PAPER, SECOND, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
