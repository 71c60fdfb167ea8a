"""What the report shows of a table: rivals, columns that tell, what they say, and columns that tell too much."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.report import page as report
from common.report.plots import ACCENT, INK, MUTED, SECOND, canvas
from research.tabular.folds import Folds
from research.tabular.scores import Scores, dependence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 15  # columns in a figure of them
CURVES = 4  # columns whose dependence is drawn
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 3)))


def sections(name: str, scores: Scores, data: Folds, model: nn.Module, device: torch.device) -> list[report.Section]:
    """The report's own story, first of all what usually wins."""
    worse = "accuracy falls" if data.table.classes else "the RMSE grows"
    ranked = sorted(range(len(scores.importance)), key=lambda place: -scores.importance[place][0])
    chosen = ranked[:CURVES]
    curves = [curve(data, place, *dependence(model, data, place, device)) for place in chosen]
    found = [
        beside(name, scores, data),
        report.figure(
            "Which columns the model needs", bars(scores, data, ranked[:BARS]),
            f"By how much {worse} on the test rows when a column is shuffled: mean and deviation of five shuffles. Of "
            "two columns that say the same, neither may seem needed.",
        ),
        report.figure(
            "What a column changes", curves,
            "The mean answer for test rows when this column has each value and the others stay as they are (partial "
            "dependence). Where columns move together, such rows may not exist.",
        ),
        alone(scores, data),
    ]  # fmt: skip
    return [replace(section, first=True) for section in found]


def beside(name: str, scores: Scores, data: Folds) -> report.Section:
    """A row for each method."""
    values, all_of = scores.metrics.values, {name: scores.metrics, **scores.rivals}
    note = scores.metrics.notes[0]
    sentence = f"{len(data.test):,} test rows. {note[:1].upper()}{note[1:]}."
    if data.table.classes:
        columns = ("method", "accuracy", "F1, macro", "log loss")
        rows: list[tuple[Any, ...]] = [
            (title, *(each.values[key] for key in ("accuracy", "f1_macro", "log_loss")))
            for title, each in all_of.items()
        ]
        if "best_accuracy" in values:
            rows.append(("best possible", values["best_accuracy"], None, None))
    else:
        columns = ("method", "RMSE", "MAE", "R²")
        rows = [(title, *(each.values.get(key) for key in ("rmse", "mae", "r2"))) for title, each in all_of.items()]
        if "best_rmse" in values:
            rows.append(("best possible", values["best_rmse"], None, None))
    return report.table("Beside what usually wins", columns, rows, sentence)


def bars(scores: Scores, data: Folds, places: list[int]) -> Figure:
    """Permutation importance of the columns at `places`, the first on top."""
    names = [_short(data.table.names[place]) for place in places]
    means, spreads = zip(*(scores.importance[place] for place in places), strict=True)
    height = 0.9 + 0.26 * len(places)
    with canvas("Permutation importance of columns", 5.0, height) as (figure, (ax,)):
        ax.barh(range(len(places)), means, xerr=spreads, color=ACCENT, ecolor=MUTED, height=0.65)
        ax.set_yticks(range(len(places)), names)
        ax.invert_yaxis()
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.grid(visible=False, axis="y")
        ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel("loss of accuracy" if data.table.classes else f"growth of the RMSE, in {data.table.target_name}")
    return figure


def curve(data: Folds, place: int, values: Tensor, said: Tensor) -> Figure:
    """The dependence of the answer on one column: said [P, K] at its values [P]."""
    name, column = data.table.names[place], data.inputs.columns[place]
    classes = data.table.classes
    shown = [1] if len(classes) == 2 else list(range(said.shape[1]))[: len(STYLES)]
    with canvas(f"Mean answer by {name}", 3.6, 2.7) as (figure, (ax,)):
        for number, output in enumerate(shown):
            title = classes[output] if classes else data.table.target_name
            drawn = {"color": (ACCENT, INK, SECOND)[number % 3], "linestyle": STYLES[number], "label": _short(title)}
            if column.categories:
                drawn = {**drawn, "linestyle": "", "marker": "osD^v"[number]}
            ax.plot(values.tolist(), said[:, output].tolist(), **drawn)
        if column.categories:
            ax.set_xticks(values.tolist(), [_short(text, 10) for text in column.categories])
        else:
            ax.plot(column.points, [ax.get_ylim()[0]] * len(column.points), "|", color=MUTED, markersize=5)
            ax.locator_params(axis="x", nbins=4)
        ax.locator_params(axis="y", nbins=4)
        ax.set_title(_short(name))
        if len(shown) > 1:
            ax.legend(loc="best")
        ax.set_ylabel(f"probability of {_short(classes[1], 12)}" if len(classes) == 2 else "")
    return figure


def alone(scores: Scores, data: Folds) -> report.Section:
    """The columns that say most by themselves."""
    ranked = sorted(zip(data.table.names, scores.alone, strict=True), key=lambda each: -each[1])[:5]
    what = "balanced accuracy" if data.table.classes else "share of variance"
    note = (
        f"What a small tree on one column alone reaches on validation ({what}). A column near 1 gives the target away: "
        "ask whether it would be known before the answer is."
    )
    return report.table("Does a column give the target away?", ("column", what), ranked, note)


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
