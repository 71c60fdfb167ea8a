"""A forecast: for each column a curve, with bands around it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.kinds.answer import Answer, Row
from common.metrics import Metrics

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the quantiles; the median is the forecast
PIECE = 256  # forecasts that are measured at once: all levels of all of them would take gigabytes


@dataclass(frozen=True)
class Curve(Answer):
    """The quantiles of each column at each coming time; in files as CSV.

    A row is `{"time": [H texts], "forecast": {column: {"0.1": [H numbers], ..., "0.9": [...]}}}`.

    Args:
        series: names of the columns that are forecast.
        horizon: H, steps.
    """

    kind: ClassVar[str] = "curve"
    key: ClassVar[str] = "forecast"
    in_files: ClassVar[bool] = True

    series: Sequence[str]
    horizon: int

    def rows(self, outputs: tuple[Tensor, Sequence[Sequence[str]]]) -> list[Row]:
        """The row of each forecast.

        Args:
            outputs: quantiles [B, C, H, len(LEVELS)], and for each of the batch the H times.
        """
        quantiles, times = outputs
        return [
            {
                "time": list(when),
                self.key: {name: self._bands(part) for name, part in zip(self.series, one, strict=True)},
            }
            for one, when in zip(quantiles.double(), times, strict=True)
        ]

    def _bands(self, quantiles: Tensor) -> dict[str, list[float]]:
        return {str(level): _short(column) for level, column in zip(LEVELS, quantiles.T, strict=True)}

    def is_row(self, row: Row) -> bool:
        return self.key in row

    def measure(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Errors of the median, and how good the bands are; in the units of what is given.

        The CRPS is twice the mean pinball loss of the quantiles (Gneiting and Raftery 2007, doi
        10.1198/016214506000001437).

        Args:
            outputs, targets: quantiles [N, C, H, len(LEVELS)], and what came [N, C, H].
        """
        sums = torch.zeros(4, dtype=torch.float64)
        levels = torch.tensor(LEVELS)
        for quantiles, wanted in zip(outputs.split(PIECE), targets.split(PIECE), strict=True):
            error = wanted.unsqueeze(-1) - quantiles
            middle = error[..., LEVELS.index(0.5)].double()
            pinball = torch.maximum(levels * error, (levels - 1) * error).double().mean(-1)
            inside = (error[..., 0] >= 0) & (error[..., -1] <= 0)
            parts = (middle.square(), middle.abs(), 2 * pinball, inside.double())
            sums += torch.stack([part.sum() for part in parts])
        names = ("mse", "mae", "crps", "coverage_80")
        return Metrics("mae", dict(zip(names, (sums / targets.numel()).tolist(), strict=True)))

    def schema(self) -> dict[str, Any]:
        numbers = {"type": "array", "items": {"type": "number"}}
        bands = {"type": "object", "additionalProperties": numbers}
        properties = {
            "time": {"type": "array", "items": {"type": "string"}},
            self.key: {"type": "object", "additionalProperties": bands},
        }
        return {"type": "object", "required": ["time", self.key], "properties": properties}

    @property
    def columns(self) -> list[str]:
        """The first time, then every quantile: step after step, of each column."""
        steps = range(1, self.horizon + 1)
        return [self.key, *(f"{name} +{step} {level}" for name in self.series for step in steps for level in LEVELS)]

    def cells(self, row: Row) -> list[Any]:
        forecast = row.get(self.key)
        if not isinstance(forecast, dict):  # an error, or a file
            return [forecast or "", *[""] * (len(self.series) * self.horizon * len(LEVELS))]
        bands = [[forecast[name][str(level)] for level in LEVELS] for name in self.series]
        return [row["time"][0], *(band[step] for column in bands for step in range(self.horizon) for band in column)]

    def files(self, row: Row) -> dict[str, tuple[str, bytes]]:
        return {self.key: (".csv", table(row).encode())} if isinstance(row.get(self.key), dict) else {}


def table(row: Row) -> str:
    """A forecast as CSV: a line for each time and column, with a cell for each quantile."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["time", "column", *LEVELS])
    for name, bands in row["forecast"].items():
        out.writerows([when, name, *values] for when, *values in zip(row["time"], *bands.values(), strict=True))
    return text.getvalue()


def _short(numbers: Tensor) -> list[float]:
    """Seven digits, which is all that float32 has."""
    return [float(f"{value:.7g}") for value in numbers.tolist()]
