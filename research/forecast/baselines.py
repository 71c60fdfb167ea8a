"""What every forecast is held against: the last value, a season ago, ridge regression, exponential smoothing.

Each gives point forecasts float32 [N, C, H] for all windows of a split, in the units of the windows.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from research.forecast.series import SeriesData, Windows

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)  # of ridge regression; validation chooses
CHUNK = 1024  # windows that are multiplied at once
ETS_ROWS = 3000  # the newest training rows, to which exponential smoothing is fitted
ETS_SEASON = 24  # longest season that it gets: each phase is a number to be fitted


def last_value(windows: Windows) -> Tensor:
    """Nothing changes."""
    return windows.in_memory()[..., -1:].expand(-1, -1, windows.horizon)


def seasonal_naive(windows: Windows, season: int) -> Tensor:
    """As it was a season ago, which may have been several times within the horizon. Needs a lookback of a season."""
    phase = torch.arange(windows.horizon) % season - season  # -season .. -1
    return windows.in_memory()[..., phase]


def ridge(data: SeriesData) -> tuple[Tensor, float]:
    """One linear map from L rows to H for all columns, in closed form, after the last value is taken away.

    Args:
        data: its windows are scaled by the training rows here.

    Returns:
        weights float32 [H, L], and the penalty among PENALTIES that suits the validation split best.
    """
    train, valid = (part.scaled(data.mean, data.std) for part in (data.train, data.valid))
    inputs, targets = train.in_memory(), train.targets
    lookback, horizon = inputs.shape[-1], targets.shape[-1]
    gram, cross = torch.zeros(lookback, lookback).double(), torch.zeros(lookback, horizon).double()
    for x, y in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
        last = x[..., -1:]
        rows, wanted = (x - last).flatten(0, 1), (y - last).flatten(0, 1)  # [B × C, L], [B × C, H]
        gram += (rows.T @ rows).double()
        cross += (rows.T @ wanted).double()
    found = []
    for penalty in PENALTIES:
        weights = torch.linalg.solve(gram + penalty * torch.eye(lookback).double(), cross).T.float()
        error = torch.cat(
            [
                (apply_ridge(weights, x) - y).square().mean((1, 2))
                for x, y in zip(valid.in_memory().split(CHUNK), valid.targets.split(CHUNK), strict=True)
            ]
        ).mean()
        found.append((error.item(), penalty, weights))
    _, penalty, weights = min(found, key=lambda each: each[0])
    return weights.contiguous(), penalty


def apply_ridge(weights: Tensor, inputs: Tensor) -> Tensor:
    """[..., L] to [..., H]."""
    last = inputs[..., -1:]
    return last + (inputs - last) @ weights.T


def ets(data: SeriesData) -> Tensor | None:
    """Exponential smoothing with a damped trend and a season (Hyndman et al. 2008), for the windows of the test.

    Its parameters are fitted once, to the training and validation rows; then it goes through the test row by row, and
    forecasts from each origin what it knows there.

    Returns:
        [N, C, H] in the units of the series; None where statsmodels is not installed.
    """
    try:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ImportError:
        return None
    import numpy as np

    series, horizon = data.series, data.test.horizon
    begin = max(0, series.borders[1] - ETS_ROWS)
    season = series.season if 1 < series.season <= ETS_SEASON else 0
    shape = {"trend": "add", "damped_trend": True} | ({"seasonal": "add", "seasonal_periods": season} if season else {})
    columns = []
    for values in series.table.values[begin : series.borders[2]].T.numpy():
        known = values[: series.borders[1] - begin]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says so where its search for parameters ends early
            fitted = ETSModel(known, **shape).fit(disp=False)
            states = ETSModel(values, **shape).smooth(fitted.params).states
        phi = fitted.params[list(fitted.model.param_names).index("damping_trend")]
        origins = np.arange(len(known), len(values) - horizon + 1) - 1  # the last row that is known
        faded = np.cumsum(phi ** np.arange(1, horizon + 1))
        curve = states[origins, :1] + states[origins, 1:2] * faded  # [N, H]
        if season:
            curve += states[origins[:, None] + np.arange(horizon) % season + 1 - season, 2]
        columns.append(torch.from_numpy(curve))
    return torch.stack(columns, dim=1).float()
