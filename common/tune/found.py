"""What a search found, as its page, its JSON and its lines for the terminal show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.example import Example
from common.tune.space import Where, plain_ranges
from common.tune.study import TrialRow


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        fixed: the settings that were said, and so not searched.
        rows: every trial.
        best: the one with the best score.
        defaults: the one with the default settings; None where there was none.
        score: the objective of the model that came of it.
        metrics: of that model, on the test split.
        model: where it lies.
        note: how it was trained.
        importance: share of each setting in the spread of the scores; may be empty.
    """

    example: Example
    strategy: str
    fixed: Mapping[str, Any]
    ranges: Mapping[str, Where]
    rows: Sequence[TrialRow]
    best: TrialRow
    defaults: TrialRow | None
    score: float
    metrics: Mapping[str, float]
    model: str
    note: str
    importance: Mapping[str, float]

    def count(self, state: str) -> int:
        """How many trials ended so."""
        return sum(row.state == state for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        defaults = self.defaults and {
            "values": self.defaults.values,
            "score": self.defaults.score,
            "metrics": self.defaults.notes.get("metrics", {}),
        }
        return {
            "example": self.example.name,
            "objective": self.example.objective,
            "goal": self.example.goal,
            "strategy": self.strategy,
            "fixed": dict(self.fixed),
            "ranges": plain_ranges(self.ranges),
            "trials": {state: self.count(state) for state in ("complete", "pruned", "failed")},
            "rows": [
                {"trial": row.number, "state": row.state, "score": row.score, "values": row.values} for row in self.rows
            ],
            "defaults": defaults,
            "best": {"trial": self.best.number, "values": self.best.values, "score": self.best.score},
            "final": {"model": self.model, "score": self.score, "metrics": dict(self.metrics)},
            "importance": dict(self.importance),
        }

    def lines(self) -> list[str]:
        """The same for the terminal."""
        objective, headline = self.example.objective, self.example.headline
        settings = ", ".join(f"{name} {shown(value)}" for name, value in self.best.values.items())
        lines = [f"best       trial {self.best.number}: {settings}", f"validation {objective} {self.score:.6g}"]
        if headline in self.metrics:
            lines.append(f"test       {headline} {self.metrics[headline]:.6g}")
        if self.defaults is not None and self.defaults.score is not None:
            lines[1] += f", with the defaults {self.defaults.score:.6g}"
            if headline in self.metrics and headline in self.defaults.notes.get("metrics", {}):
                lines[2] += f", with the defaults {self.defaults.notes['metrics'][headline]:.6g}"
        return lines


def shown(value: Any) -> Any:
    """A setting or a score as a reader wants it."""
    return f"{value:.4g}" if isinstance(value, float) else value
