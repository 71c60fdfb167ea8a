"""Figures of a search: how it went, which settings mattered, and what the good ones have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.config import Range
from common.report.plots import ACCENT, GRID, INK, MUTED, SECOND, canvas
from common.tune.space import Where
from common.tune.study import TrialRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def history(rows: Sequence[TrialRow], objective: str, goal: str) -> Figure:
    """The score of every trial, and the best so far; hollow points are pruned trials at their last validation."""
    from matplotlib.ticker import MaxNLocator

    complete = [row for row in rows if row.state == "complete"]
    pruned = [row for row in rows if row.state == "pruned" and row.score is not None]
    better = max if goal == "maximize" else min
    best = [better(float(r.score or 0) for r in complete[: i + 1]) for i in range(len(complete))]
    with canvas(f"{objective} of {len(rows)} trials") as (figure, (ax,)):
        ax.step([r.number for r in complete], best, where="post", color=ACCENT, label="best so far")
        ax.scatter([r.number for r in complete], [r.score for r in complete], s=18, color=SECOND, label="complete")
        if pruned:
            ax.scatter(
                [r.number for r in pruned],
                [r.score for r in pruned],
                s=18,
                facecolors="none",
                edgecolors=SECOND,
                label="pruned",
            )
        scores = sorted(float(r.score or 0) for r in complete)
        if len(scores) >= 4:  # one trial that went astray must not flatten the rest
            worse = scores[len(scores) // 4] if goal == "maximize" else scores[-1 - len(scores) // 4]
            margin = 0.15 * abs(best[-1] - worse) or 0.05 * abs(best[-1]) or 1.0
            low, high = sorted((worse, best[-1]))
            ax.set_ylim(low - margin, high + margin)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.locator_params(axis="y", nbins=5)
        ax.set(xlabel="trial", ylabel=objective.replace("_", " "))
        ax.legend(loc="lower right" if goal == "maximize" else "upper right")
    return figure


def importance(shares: Mapping[str, float]) -> Figure:
    """How much of the spread of the scores each setting explains."""
    names = list(shares)[::-1]
    with canvas("Importance of each setting", 5.0, 0.9 + 0.4 * len(names)) as (figure, (ax,)):
        bars = ax.barh([name.replace("_", " ") for name in names], [shares[n] for n in names], 0.6, color=ACCENT)
        ax.bar_label(bars, [f"{shares[n]:.0%}" for n in names], padding=4, color=INK)
        ax.set_xlim(0, 1.15 * max(shares.values()))
        ax.grid(visible=False)
        ax.set_xticks([])
    return figure


def parallel_coordinates(rows: Sequence[TrialRow], ranges: Mapping[str, Where], objective: str, goal: str) -> Figure:
    """Every complete trial as a line through its settings to its score; the best quarter stands out."""
    complete = [row for row in rows if row.state == "complete"]
    order = sorted(complete, key=lambda row: float(row.score or 0), reverse=goal == "maximize")
    good = {row.number for row in order[: max(1, len(order) // 4)]}
    scores = [float(row.score or 0) for row in complete]
    names = [*ranges, objective]
    places = range(len(names))
    with canvas(f"Settings of {len(complete)} trials beside their {objective}", 10.0, 4.0) as (figure, (ax,)):
        for row in order[::-1]:
            heights = [_height(row.values[name], ranges[name]) for name in ranges]
            heights.append(_share(float(row.score or 0), min(scores), max(scores)))
            chosen = row.number in good
            ax.plot(
                places,
                heights,
                color=ACCENT if chosen else SECOND,
                alpha=0.9 if chosen else 0.35,
                linewidth=1.6 if chosen else 0.8,
            )
        for place, name in enumerate(names):
            ax.axvline(place, color=GRID, linewidth=1, zorder=0)
            for height, text in _ticks(ranges.get(name), scores):
                ax.annotate(
                    text,
                    (place, height),
                    xytext=(4, 0),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=8,
                    va="center",
                )
        ax.set_xticks(places, [name.replace("_", " ") for name in names])
        ax.set_yticks([])
        ax.set(xlim=(-0.05, len(names) - 0.6), ylim=(-0.06, 1.06))
        ax.grid(visible=False)
    return figure


def _height(value: Any, where: Where) -> float:
    if isinstance(where, tuple):
        return _share(where.index(value), 0, len(where) - 1)
    return _share(*map(math.log, (value, where.low, where.high))) if where.log else _share(value, where.low, where.high)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _ticks(where: Where | None, scores: Sequence[float]) -> list[tuple[float, str]]:
    if where is None:
        return [(0.0, f"{min(scores):.4g}"), (1.0, f"{max(scores):.4g}")]
    if isinstance(where, Range):
        return [(0.0, f"{where.low:.3g}"), (1.0, f"{where.high:.3g}")]
    return [(_height(value, where), str(value)) for value in where]
