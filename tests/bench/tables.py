"""Figures of research.tabular: the network beside boosted trees and a linear model, on the same rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from common.config import flag
from research.tabular.__main__ import TabularConfig, prepare
from research.tabular.baselines import few_threads
from tests.bench.tools import SEEDS, bench, missing, run
from tests.results import Row, mean_of

RIVALS = {"boosting": "gradient-boosted trees", "linear": "linear model"}


def by_default(settings: dict[str, str], seed: int) -> float:
    """Accuracy in percent, or RMSE, of HistGradientBoosting as scikit-learn has it, on the same rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    data = prepare(TabularConfig().with_values({**settings, "seed": seed}).resolve())
    kind = HistGradientBoostingClassifier if data.table.classes else HistGradientBoostingRegressor
    categorical = [bool(categories) for categories in data.table.categories]
    with few_threads(data):
        model = kind(random_state=0, categorical_features=categorical)
        said = model.fit(data.train.features.double(), data.train.targets).predict(data.test.features.double())
    true = data.test.targets.numpy()
    return float(100 * (said == true).mean() if data.table.classes else ((said - true) ** 2).mean() ** 0.5)


def beside(what: str, settings: dict[str, str], command: str, seeds: list[int] = SEEDS) -> Iterator[Row]:
    """Ours, and its rivals."""
    words = [word for name, value in settings.items() for word in (flag(name), value)]
    results = [run("research.tabular", *words, "--seed", str(seed)) for seed in seeds]
    metrics: list[dict[str, Any]] = [result["metrics"] for result in results]
    name, unit, times, decimals = ("accuracy", "%", 100, 2) if "accuracy" in metrics[0] else ("rmse", "", 1, 2)
    title = {"accuracy": "accuracy", "rmse": "RMSE"}[name]
    shown = f"+.{decimals}f"
    intervals = {
        rival: "; ".join(
            f"{times * each[f'over_{rival}']:{shown}} ({times * each[f'over_{rival}_low']:{shown}} to "
            f"{times * each[f'over_{rival}_high']:{shown}})"
            for each in metrics
        )
        for rival in RIVALS
    }
    figures = {
        title: mean_of([times * each[name] for each in metrics], unit, decimals),
        "training": mean_of([result["seconds"]["train"] for result in results], "s", 1),
        "whole run": mean_of([result["seconds"]["total"] for result in results], "s", 0),
    }
    note = (
        f"{metrics[0]['n']:,} test rows; ahead of the trees, seed by seed, with 95 % interval: "
        f"{intervals['boosting']}; of the linear model: {intervals['linear']}"
    )
    yield Row(what, figures, n=len(seeds), seeds=seeds, command=command, note=note)
    for rival, called in RIVALS.items():
        theirs = {title: mean_of([times * each[f"{rival}_{name}"] for each in metrics], unit, decimals)}
        yield Row(f"{what}, {called}", theirs, "peer", n=len(seeds), seeds=seeds)
    plain = {title: mean_of([by_default(settings, seed) for seed in seeds], unit, decimals)}
    yield Row(f"{what}, HistGradientBoosting's defaults", plain, "peer", n=len(seeds), seeds=seeds)


@bench(
    "tables", "Tables", "Small tables", "", "Each seed draws another split. Positive differences: the network is ahead."
)
def tables(options: argparse.Namespace) -> Iterator[Row]:
    for data in ("wine", "diabetes", "breast-cancer"):
        yield from beside(data, {"data": data}, f"python -m research.tabular --data {data}")


@bench(
    "wall-following", "Tables", "A robot along the wall", "--data FOLDER",
    "The blocks are the same for every seed: seeds differ in first weights and order of rows. The random split is what "
    "others report, and no measure of another drive.",
)  # fmt: skip
def wall_following(options: argparse.Namespace) -> Iterator[Row]:
    if not options.data:
        yield missing("wall-following", "no --data")
        return
    data = {"data": "uci:wall-following", "data_dir": f"{options.data}/robot-wall-following"}
    command = "python -m research.tabular --data uci:wall-following --data-dir FOLDER"
    yield from beside("20 blocks of time", data, command)
    transformer = beside(
        "20 blocks of time, FT-Transformer", data | {"model": "ft-transformer"}, f"{command} --model ft-transformer"
    )
    yield next(transformer)  # its rivals are those above
    yield from beside("split at random", data | {"split": "random"}, f"{command} --split random")
