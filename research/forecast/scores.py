"""A forecast measured over all windows of the test, beside what is simpler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.kinds.curve import LEVELS, Curve
from common.metrics import Metrics
from research.forecast import baselines
from research.forecast.models import MIDDLE
from research.forecast.series import SeriesData

REPEATS = 1000  # of the bootstrap
LEAST_BLOCKS = 3  # stretches of H windows; with fewer there is no interval
NAIVE, RIDGE, ETS = "a season ago", "ridge regression", "ETS"


@dataclass(frozen=True)
class Scores:
    """What a forecast and its rivals got wrong, in deviations of the training rows.

    Args:
        errors: absolute errors [N, C, H] by method, ours first.
        squared: mean squared error by method.
        forecast: quantiles [N, C, H, Q] of ours, in the units of the series.
        metrics: over all windows.
    """

    errors: dict[str, Tensor]
    squared: dict[str, float]
    forecast: Tensor
    metrics: Metrics


def measure(name: str, quantiles: Tensor, data: SeriesData) -> Scores:
    """Metrics of a model over all test windows, none left out.

    Args:
        name: of the model.
        quantiles: [N, C, H, Q], in the units of the series.
    """
    mean, std = data.mean[:, None], data.std[:, None]
    test = data.test.scaled(data.mean, data.std)
    targets = test.targets
    ours = (quantiles - mean.unsqueeze(-1)) / std.unsqueeze(-1)
    weights, penalty = baselines.ridge(data)
    points = {
        name: ours[..., MIDDLE],
        RIDGE if name != "ridge" else "ridge regression, no bands": baselines.apply_ridge(weights, test.in_memory()),
        NAIVE: baselines.seasonal_naive(test, data.series.season),
        "last value": baselines.last_value(test),
    }
    best = data.series.best
    smoothed = baselines.ets(data) if best is None else None
    if smoothed is not None:
        points[ETS] = (smoothed - mean) / std
    if best is not None:
        origins = range(data.series.borders[1], data.series.borders[1] + len(test))
        points["best possible"] = (torch.stack([best(at, test.horizon) for at in origins]).float() - mean) / std
    errors = {each: (point - targets).abs() for each, point in points.items()}
    squared = {each: error.square().double().mean().item() for each, error in errors.items()}
    metrics = _metrics(
        name, errors, squared, data, Curve(data.inputs.names, test.horizon).measure(ours, targets), penalty
    )
    return Scores(errors, squared, quantiles, metrics)


def _metrics(
    name: str, errors: dict[str, Tensor], squared: dict[str, float], data: SeriesData, curve: Metrics, penalty: float
) -> Metrics:
    ridge_name = list(errors)[1]
    mine, ridge, naive = (errors[each] for each in (name, ridge_name, NAIVE))
    skill, over_ridge = skill_of(mine, naive), skill_of(mine, ridge)
    ratio = scale(data)

    def mase(error: Tensor) -> float:
        return (error.double().mean((0, 2)) / ratio).mean().item()

    values: dict[str, float | int] = {
        **skill.named("skill"), "n": len(mine), **{key: curve.values[key] for key in ("mse", "mae")},
        "mae_data_units": (mine.double().mean((0, 2)) * data.std.double()).mean().item(),
        "mase": mase(mine), "crps": curve.values["crps"], "coverage_80": curve.values["coverage_80"],
        "ridge_mse": squared[ridge_name], "ridge_mae": ridge.double().mean().item(), "ridge_mase": mase(ridge),
        **over_ridge.named("skill_over_ridge"), "naive_mase": mase(naive),
    }  # fmt: skip
    for each, key in ((ETS, "ets_mase"), ("best possible", "best_mase")):
        if each in errors:
            values[key] = mase(errors[each])
    notes = [
        verdict(name, over_ridge),
        f"skill is the part of the mean absolute error of the season before ({data.series.season} rows) that is gone, "
        "and skill over ridge the same of ridge regression's; intervals are paired, of a bootstrap of blocks of "
        f"{data.test.horizon} windows, because neighbouring windows share most of their targets",
        "MSE, MAE and CRPS are in deviations of the training rows, MASE in the mean absolute difference of training "
        "rows a season apart; the forecast is the median",
        "ridge regression is one linear map for all columns, in closed form; its penalty, chosen on validation, is "
        f"{penalty:g}",
        "bands were made right on the validation split: they hold what they promise as far as the test is like it",
    ]
    if skill.low is None:
        notes.append(f"{len(mine)} windows of {data.test.horizon} rows are too few for an interval")
    if ETS not in errors and data.series.best is None:
        notes.append("ETS is beside it where statsmodels is installed: pip install 'pytorch-use-cases[series]'")
    return Metrics("skill", values, notes)


def scale(data: SeriesData) -> Tensor:
    """What MASE divides by (Hyndman and Koehler 2006, doi 10.1016/j.ijforecast.2006.03.001), float64 [C].

    The mean absolute difference of training rows a season apart, in deviations of the training rows.
    """
    rows = data.series.table.values[: data.series.borders[0]]
    season = data.series.season
    difference = (rows[season:] - rows[:-season]).abs().mean(0) / data.std.double()
    return difference.clamp(min=1e-9)


# --- skill -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skill:
    """1 − error / reference error, and its 95 % interval, None where there are too few windows for one."""

    value: float
    low: float | None
    high: float | None

    def named(self, name: str) -> dict[str, float | int]:
        values: dict[str, float | int] = {name: self.value}
        if self.low is not None and self.high is not None:
            values |= {f"{name}_low": self.low, f"{name}_high": self.high}
        return values


def skill_of(errors: Tensor, reference: Tensor) -> Skill:
    """The skill of one method over another on the same windows, absolute errors [N, C, H] each.

    The interval is of a circular block bootstrap (Politis and Romano 1992) with blocks of H windows.
    """
    both = torch.stack([errors, reference]).double().mean((2, 3))  # [2, N]
    count, block = both.shape[1], errors.shape[2]
    value = 1 - (both[0].mean() / both[1].mean().clamp(min=1e-12)).item()
    if count < LEAST_BLOCKS * block:
        return Skill(value, None, None)
    blocks = -(-count // block)
    starts = torch.randint(count, (REPEATS, blocks), generator=torch.Generator().manual_seed(0))
    total = torch.cat([torch.zeros(2, 1).double(), torch.cat([both, both[:, :block]], dim=1).cumsum(1)], dim=1)
    sums = (total[:, starts + block] - total[:, starts]).sum(-1)  # [2, REPEATS]
    drawn = 1 - sums[0] / sums[1].clamp(min=1e-12)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return Skill(value, low, high)


def verdict(name: str, over: Skill) -> str:
    """Whether the network is worth its trouble, in one sentence."""
    if name == "ridge":
        return "this is ridge regression itself, with bands that were learnt: no network is in it"
    if over.low is None or over.high is None:
        said = "beats" if over.value > 0 else "does not beat"
        return (
            f"the network {said} ridge regression: its mean absolute error is {_less(over.value)}, without an interval"
        )
    between = f"{_less(over.value)} (95 % interval {100 * over.low:.1f} to {100 * over.high:.1f} % lower)"
    if over.low > 0:
        return f"the network beats ridge regression: its mean absolute error is {between}"
    why = " beyond doubt" if over.high > 0 else ""
    return f"the network does not beat ridge regression{why}: its mean absolute error is {between}"


def _less(skill: float) -> str:
    return f"{100 * abs(skill):.1f} % {'lower' if skill >= 0 else 'higher'}"


def below(forecast: Tensor, targets: Tensor) -> list[float]:
    """The share of the targets under each quantile, which should be the quantile's level."""
    return [(targets <= forecast[..., i]).double().mean().item() for i in range(len(LEVELS))]
