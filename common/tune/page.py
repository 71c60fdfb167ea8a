"""The page of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.config import Range
from common.metrics import Metrics
from common.report import page as report
from common.tune import figures
from common.tune.found import Found, shown
from common.tune.space import Where
from common.tune.study import TrialRow


def write(path: Path, found: Found) -> None:
    """Writes the page."""
    report.write(path, html(found))


def html(found: Found) -> str:
    """The page: best score, history, importance, parallel coordinates, every trial."""
    example, rows = found.example, found.rows
    values: dict[str, float | int] = {example.objective: found.score}
    if found.defaults is not None and found.defaults.score is not None:
        values["with_defaults"] = found.defaults.score
    values |= {f"{state}_trials": found.count(state) for state in ("complete", "pruned", "failed")}
    notes = [f"{example.objective} is measured on validation data; the search saw nothing else", found.note]
    early = "Hollow points are trials that were stopped early, at their last validation."
    sections = [
        _comparison(found),
        report.figure("History", figures.history(rows, example.objective, example.goal), early),
    ]
    if found.importance:
        note = "Share of the spread of the scores, by PED-ANOVA. A handful of trials gives a rough idea, no more."
        sections.append(report.figure("Importance", figures.importance(found.importance), note))
    lines = figures.parallel_coordinates(rows, found.ranges, example.objective, example.goal)
    sections.append(
        report.figure("Parallel coordinates", lines, "Each line is a complete trial; the best quarter stands out.")
    )
    sections.append(_trials(found))
    facts: dict[str, Any] = dict(found.fixed)
    facts |= {f"range of {name}": _words(where) for name, where in found.ranges.items()}
    facts |= {"strategy": found.strategy, "model": found.model}
    subtitle = f"{example.name}: {len(rows)} trials, {found.strategy}"
    return report.page(f"Tuning: {example.task}", subtitle, Metrics(example.objective, values, notes), sections, facts)


def _trials(found: Found) -> report.Section:
    """Every trial, the best first; those without a final score at the end."""
    sign = -1 if found.example.goal == "maximize" else 1

    def order(row: TrialRow) -> tuple[bool, float, int]:
        complete = row.state == "complete" and row.score is not None
        return not complete, sign * (row.score or 0.0) if complete else 0.0, row.number

    cells = [
        [
            row.number,
            row.score,
            *(shown(row.values.get(name)) for name in found.ranges),
            row.notes.get("reason", row.state),
            len(row.scores),
            row.notes.get("seconds"),
        ]
        for row in sorted(found.rows, key=order)
    ]
    columns = ["trial", found.example.objective, *found.ranges, "state", "validations", "seconds"]
    return report.table("Every trial", columns, cells, "Trial 0 has the default settings." if found.defaults else "")


def _comparison(found: Found) -> report.Section:
    """The defaults beside what was found: settings, validation and test."""
    objective, headline = found.example.objective, found.example.headline
    best = [*found.best.values.items(), (f"{objective} (validation)", found.score)]
    if headline in found.metrics:
        best.append((f"{headline} (test)", found.metrics[headline]))
    default: dict[str, object] = {}
    if found.defaults is not None:
        test = found.defaults.notes.get("metrics", {})
        default = {**found.defaults.values, f"{objective} (validation)": found.defaults.score}
        default[f"{headline} (test)"] = test.get(headline)
    rows = [[name, *([str(shown(default.get(name)))] if default else []), str(shown(value))] for name, value in best]
    columns = ["", *(["defaults"] if default else []), f"trial {found.best.number}"]
    return report.table("Defaults and best" if default else "Best", columns, rows, found.note.capitalize() + ".")


def _words(where: Where) -> str:
    if isinstance(where, Range):
        return f"{where.low:g} to {where.high:g}{', logarithmic' if where.log else ''}"
    return ", ".join(map(str, where))
