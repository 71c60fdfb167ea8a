"""Figures of research.forecast: the network beside ridge regression, exponential smoothing and a season ago."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tests.bench.tools import SEEDS, bench, missing, run
from tests.results import Figure, Row, mean_of

# Of the papers' tables, lookback 336 and horizon 96, all columns.
PUBLISHED = {
    "ETTh1, PatchTST/64": (0.370, 0.400, "Nie et al. 2023, lookback 512"),
    "ETTh1, DLinear": (0.375, 0.399, "Zeng et al. 2023"),
}
FIXED = "The split is by time and the same for every seed: seeds differ in first weights and order of windows."


def forecast(what: str, *arguments: str, command: str) -> Iterator[Row]:
    """Ours, and what is simpler on the same windows."""
    results = [run("research.forecast", *arguments, "--seed", str(seed)) for seed in SEEDS]
    metrics: list[dict[str, Any]] = [result["metrics"] for result in results]

    def of(name: str, decimals: int = 4, unit: str = "", times: float = 1) -> Figure:
        return mean_of([times * each[name] for each in metrics], unit, decimals)

    figures = {
        "MSE": of("mse"),
        "MAE": of("mae"),
        "MASE": of("mase", 3),
        "CRPS": of("crps"),
        "80 % coverage": of("coverage_80", 1, "%", 100),
        "skill over ridge": of("skill_over_ridge", 1, "%", 100),
        "training": mean_of([result["seconds"]["train"] for result in results], "s", 0),
        "whole run": mean_of([result["seconds"]["total"] for result in results], "s", 0),
    }
    intervals = ", ".join(
        f"{100 * each['skill_over_ridge_low']:.1f} to {100 * each['skill_over_ridge_high']:.1f}" for each in metrics
    )
    note = f"all {metrics[0]['n']:,} test windows; 95 % intervals of the skill over ridge, seed by seed: {intervals} %"
    yield Row(what, figures, n=len(SEEDS), seeds=SEEDS, command=command, note=note)
    ridge = {"MSE": of("ridge_mse"), "MAE": of("ridge_mae"), "MASE": of("ridge_mase", 3)}
    first = {name: Figure(figure.each[0], figure.unit, figure.decimals) for name, figure in ridge.items()}
    yield Row(f"{what}, ridge regression", first, "peer", n=1, note="closed form; no randomness")
    for key, name in (("ets_mase", "ETS of statsmodels"), ("naive_mase", "a season ago")):
        if key in metrics[0]:
            yield Row(f"{what}, {name}", {"MASE": Figure(round(metrics[0][key], 5), "", 3)}, "peer", n=1)


@bench("series", "Series", "Forecasts", "--data FOLDER", FIXED)
def series(options: argparse.Namespace) -> Iterator[Row]:
    yield from forecast("El Niño, 36 → 12 months", command="python -m research.forecast")
    if not options.data:
        yield missing("ETTh1, 336 → 96 hours", "no --data")
        return
    yield from forecast(
        "ETTh1, 336 → 96 hours",
        "--data",
        f"ett:{options.data}/ETT-small/ETTh1.csv",
        command="python -m research.forecast --data ett:ETTh1.csv",
    )
    for what, (mse, mae, source) in PUBLISHED.items():
        figures = {"MSE": Figure(mse, "", 3), "MAE": Figure(mae, "", 3)}
        yield Row(what, figures, "published", source=source)
