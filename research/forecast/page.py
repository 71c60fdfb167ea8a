"""What the report shows of a forecast: its rivals, its error by horizon, its bands, its best and its worst windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from common.kinds.curve import LEVELS
from common.report import page as report
from common.report.plots import ACCENT, INK, MUTED, SECOND, canvas
from research.forecast.models import MIDDLE
from research.forecast.scores import Scores, below, scale, skill_of
from research.forecast.series import SeriesData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3  # windows of each sort
STYLES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (2, 3)), (0, (7, 3)))


def sections(name: str, scores: Scores, data: SeriesData) -> list[report.Section]:
    """The report's own story, first of all what is simpler."""
    found = [
        beside(scores, data),
        report.figure("Error by horizon", by_horizon(scores), "In deviations of the training rows."),
        report.figure(
            "Are the bands right?", reliability(scores, data),
            "The share of the test's values under each quantile, on the diagonal where the bands are right; and how "
            "many lie within the 80 % band at each step.",
        ),
        *windows(scores, data),
    ]  # fmt: skip
    return [replace(section, first=True) for section in found]


def beside(scores: Scores, data: SeriesData) -> report.Section:
    """A row for each method."""
    methods = list(scores.errors)
    naive, ratio, std = scores.errors["a season ago"], scale(data), data.std.double()
    rows = []
    for method in methods:
        error = scores.errors[method]
        each = error.double().mean((0, 2))  # [C]
        means = [values.mean().item() for values in (each, each * std, each / ratio)]
        rows.append((method, scores.squared[method], *means, f"{100 * skill_of(error, naive).value:.1f} %"))
    columns = ("method", "MSE", "MAE", "MAE in data units", "MASE", "skill over a season ago")
    note = f"All {len(naive):,} test windows. {_sentence(scores.metrics.notes[0])}"
    return report.table("Beside what is simpler", columns, rows, note)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def by_horizon(scores: Scores) -> Figure:
    with canvas("Mean absolute error by steps ahead, of each method") as (figure, (ax,)):
        for number, (method, error) in enumerate(scores.errors.items()):
            values = error.double().mean((0, 1))
            ax.plot(
                range(1, len(values) + 1), values.tolist(), label=method, linestyle=STYLES[number % len(STYLES)],
                color=ACCENT if number == 0 else INK if number == 1 else MUTED,
            )  # fmt: skip
        ax.set(xlabel="steps ahead", ylabel="mean absolute error", ylim=(0, None))
        ax.legend(loc="best")
    return figure


def reliability(scores: Scores, data: SeriesData) -> list[Figure]:
    targets = data.test.targets
    with canvas("Share of values under each quantile, against its level", 3.6, 3.2) as (first, (ax,)):
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        ax.plot(LEVELS, below(scores.forecast, targets), color=ACCENT, marker="o", markersize=4)
        ax.set(xlabel="level", ylabel="share under it", xlim=(0, 1), ylim=(0, 1))
    inside = (targets >= scores.forecast[..., 0]) & (targets <= scores.forecast[..., -1])
    by_step = inside.double().mean((0, 1))
    with canvas("Coverage of the 80 % band by steps ahead", 3.6, 3.2) as (second, (ax,)):
        ax.axhline(0.8, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        ax.plot(range(1, len(by_step) + 1), by_step.tolist(), color=ACCENT)
        ax.set(xlabel="steps ahead", ylabel="within the 80 % band", ylim=(0, 1))
    return [first, second]


def windows(scores: Scores, data: SeriesData) -> list[report.Section]:
    """The windows that the model got most and least right, none overlapping another of its sort."""
    error = next(iter(scores.errors.values())).double().mean(2)  # [N, C]
    found = []
    for title, sign in (("Worst windows", -1), ("Best windows", 1)):
        chosen = apart(sign * error, data.test.horizon)
        note = "Bands hold 80, 60, 40 and 20 %; the dark line is what came, the grey one what was known."
        if sign == 1:
            note = "The same, where it erred least."
        found.append(report.figure(title, [fan(scores, data, *each) for each in chosen], note))
    return found


def apart(error: Tensor, horizon: int) -> list[tuple[int, int]]:
    """The (window, column) of the smallest errors [N, C], at most SHOWN and with no target in common."""
    chosen: list[tuple[int, int]] = []
    for place in error.flatten().argsort().tolist():
        window, column = divmod(place, error.shape[1])
        if all(abs(window - other) >= horizon for other, _ in chosen):
            chosen.append((window, column))
        if len(chosen) == SHOWN:
            break
    return chosen


def fan(scores: Scores, data: SeriesData, window: int, column: int) -> Figure:
    """One forecast with its bands, after the end of its history."""
    history = data.test.in_memory()[window, column]
    known = min(len(history), 2 * data.test.horizon)
    came, bands = data.test.targets[window, column], scores.forecast[window, column]  # [H], [H, Q]
    steps = range(1, data.test.horizon + 1)
    names = data.inputs.names
    begin = data.inputs.times(data.test[window], 1)[0]
    with canvas(f"Forecast of {names[column]} from {begin}", 3.6, 2.7) as (figure, (ax,)):
        ax.plot(range(1 - known, 1), history[-known:].tolist(), color=MUTED, linewidth=1)
        for number in range(MIDDLE):
            low, high = bands[:, number].tolist(), bands[:, -1 - number].tolist()
            ax.fill_between(steps, low, high, color=ACCENT, alpha=0.18, linewidth=0)
        ax.plot(steps, bands[:, MIDDLE].tolist(), color=ACCENT)
        ax.plot(steps, came.tolist(), color=INK, linewidth=1.2)
        ax.axvline(0.5, color=SECOND, linewidth=0.8)
        ax.set_title(f"{names[column]}, from {begin}")
        ax.set_xlabel("steps from the origin")
        ax.locator_params(axis="y", nbins=4)
    return figure
