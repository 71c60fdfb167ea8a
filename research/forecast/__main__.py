"""Forecasts a time series with bands: a small PatchTST, NLinear or an LSTM, each started from ridge regression.

python -m research.forecast                                      sixty years of El Niño by the month; no download
python -m research.forecast --data csv:sales.csv --time day --columns shop,online --horizon 28
python -m research.forecast --data ett:ETTh1.csv                 the benchmark of the field, on its standard split
python -m research.forecast --data co2 --model lstm              of statsmodels: pip install 'pytorch-use-cases[series]'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.data.loaders import Loader
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.curve import Curve
from common.kinds.history import History, HistoryInput
from common.machine.distributed import first
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, mean_figures, predict_all
from common.training.run import Run
from research.forecast import baselines, models, page, scores
from research.forecast.models import Deployed, pinball
from research.forecast.series import NAMED, SOURCES, Series, SeriesData, cut, load_series

# --- config ------------------------------------------------------------------------------------------------

# Picked on the validation splits of El Niño and of ETTh1, seeds 100 and 101. On ETTh1 the validation loss of single
# epochs jumps by more than training gains, and its minimum is luck; that of averaged weights falls evenly.
RECIPES: dict[str, dict[str, Any]] = {
    "ridge": {"batch_size": 64, "lr": 1e-3, "ema": 0.0},
    "nlinear": {"batch_size": 64, "lr": 3e-4, "ema": 0.99},
    "patchtst": {"batch_size": 32, "lr": 3e-3, "ema": 0.0},
    "lstm": {"batch_size": 32, "lr": 1e-2, "ema": 0.0},
}
EPOCHS = {"el-nino": 20, "co2": 7, "sunspots": 60, "synthetic": 40}  # of the series that have a name
LARGE = 2000  # training windows, from which the line alone is trained by default, and with few epochs
FEWEST_EPOCHS, FEWEST_STEPS = 3, 240


@dataclass(frozen=True)
class ForecastConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option("el-nino", "series", group="Data", choices=SOURCES, common=True)
    time: str | None = option(None, "column of the times, of a file", group="Data", unset="found")
    columns: str | None = option(
        None, "columns of a file that are forecast, separated by commas", group="Data", unset="all"
    )
    lookback: int = option(
        None, "rows of history that are looked at", group="Data", at_least=2, at_most=100_000, unset="by data set",
        common=True,
    )  # fmt: skip
    horizon: int = option(
        None, "rows that are forecast", group="Data", at_least=1, at_most=10_000, unset="by data set", common=True
    )
    season: int = option(None, "rows after which the pattern repeats; 1 for none", group="Data", at_least=1,
                         unset="by data set")  # fmt: skip

    model: str = option(None, "network", group="Model", choices=models.NAMES, unset="by data set", common=True)
    width: int = option(32, "of patchtst and lstm, a multiple of 4", group="Model", at_least=4, at_most=1024)
    layers: int = option(2, "of patchtst and lstm", group="Model", at_least=1, at_most=24)
    dropout: float = option(0.2, "share of features dropped, of patchtst and lstm", at_least=0, at_most=0.95,
                            tune=Range(0.0, 0.5))  # fmt: skip

    batch_size: int = changed(FitConfig, "batch_size", help="windows per step, over all processes", tune=(16, 32, 64))
    lr: float = changed(FitConfig, "lr", tune=Range(1e-4, 1e-2, log=True))
    ema: float = changed(FitConfig, "ema", default=None, unset="by data set")
    clip: float = changed(FitConfig, "clip", default=1.0)

    @classmethod
    def tiny(cls) -> ForecastConfig:
        return cls(data="synthetic", model="patchtst", width=8, layers=1, epochs=4)

    def resolve(self) -> ForecastConfig:
        """Fills what was left open for a series that has a name; of a file `fitted` does."""
        if self.data not in NAMED:
            return self
        season, lookback, horizon = NAMED[self.data]
        usual = {"season": season, "lookback": lookback, "horizon": horizon, "model": "patchtst"}
        named = self.filled({**usual, "epochs": EPOCHS[self.data]})
        return named.filled(RECIPES[named.model])

    def fitted(self, data: Series | SeriesData) -> ForecastConfig:
        """Fills what is still open by what the rows of a file are, cut into windows or not."""
        series = data.series if isinstance(data, SeriesData) else data
        filled = self.filled({"lookback": series.lookback, "horizon": series.horizon, "season": series.season})
        windows = series.borders[0] - filled.lookback - filled.horizon + 1
        filled = filled.filled({"model": "nlinear" if windows > LARGE else "patchtst"})
        filled = filled.filled(RECIPES[filled.model])
        steps = max(1, windows // filled.batch_size)
        epochs = max(FEWEST_EPOCHS, -(-FEWEST_STEPS // steps))
        return filled.filled({"epochs": epochs})

    def check(self) -> None:
        super().check()
        if self.width % 4:
            raise UserError(f"--width is {self.width}; it must be a multiple of 4.")
        if not (self.is_open("season") or self.is_open("lookback")) and self.season > self.lookback:
            raise UserError(f"--season {self.season} is longer than --lookback {self.lookback}.")


# --- data --------------------------------------------------------------------------------------------------


def load(config: ForecastConfig) -> tuple[ForecastConfig, SeriesData]:
    """The config with every setting decided, and the three splits, which follow each other in time."""
    folder = config.data_folder
    with first():
        series = load_series(config.data, data_dir=folder, time=config.time, columns=config.columns, seed=config.seed)
    config = config.fitted(series)
    config.check()
    return config, cut(replace(series, season=config.season), config.lookback, config.horizon)


def prepare(config: ForecastConfig) -> SeriesData:
    """The three splits."""
    return load(config)[1]


# --- train -------------------------------------------------------------------------------------------------


def train(config: ForecastConfig, run: Run) -> Metrics:
    """Trains, makes the bands right on validation, evaluates on the test beside what is simpler, and saves."""
    config, data = load(config)
    run.cite(data.provenance)
    config = run.settle(config, samples=len(data.train))
    learn, valid = (part.scaled(data.mean, data.std) for part in (data.train, data.valid))

    weights, penalty = baselines.ridge(data)
    model = models.build(config.model, weights, config.width, config.layers, config.dropout)
    model.widen(learn.in_memory(), learn.targets)
    count = sum(p.numel() for p in model.parameters())
    run.progress.say(
        f"model      {config.model}, {count:,} weights, started from ridge regression (penalty {penalty:g})"
    )
    placed = run.place(model, sample=learn.in_memory()[:1])

    checks = Loader(valid, 256, train=False, device=run.device)
    network = fit(
        run,
        placed,
        pinball,
        Loader(learn, config.batch_size, train=True, device=run.device, seed=config.seed),
        config,
        validate=lambda network: mean_figures(network, checks, figures, run.autocast()),
    )

    stretch = models.conformal(predict_all(network, checks), valid.targets)
    deployed = Deployed(network, *(part.to(run.device) for part in (data.mean, data.std, stretch)))
    found = test(config, deployed, data, run.device)
    run.sections += page.sections(config.model, found, data)
    answer = Curve(data.inputs.names, config.horizon)
    artifact.save(run, deployed, inputs=data.inputs, answer=answer, metrics=found.metrics)
    return found.metrics


def figures(quantiles: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of a batch: the sums of pinball loss and absolute error, in deviations of the training rows, and their counts."""
    count = torch.ones((), device=targets.device) * targets.numel()
    error = (quantiles[..., models.MIDDLE] - targets).abs().sum()
    return {"val_loss": (pinball(quantiles, targets) * count, count), "val_mae": (error, count)}


# --- evaluate ----------------------------------------------------------------------------------------------


def test(config: ForecastConfig, model: nn.Module, data: SeriesData, device: torch.device) -> scores.Scores:
    """What a model forecasts for all windows of the test, measured beside what is simpler."""
    quantiles = predict_all(model, Loader(data.test, 256, train=False, device=device))
    return scores.measure(config.model, quantiles, data)


def evaluate(saved: Artifact, config: ForecastConfig) -> Metrics:
    """Measures a saved model again, and its rivals."""
    config, data = load(config)
    return test(config, load_model(saved), data, torch.device("cpu")).metrics


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> nn.Module:
    """The trained network, ready for raw windows [B, C, L]."""
    config = ForecastConfig().with_values(saved.config)
    columns = len(HistoryInput.from_json(saved.inputs).names)
    line = torch.zeros(config.horizon, config.lookback)
    network = models.build(config.model, line, config.width, config.layers, config.dropout)
    return saved.load_into(Deployed(network, torch.zeros(columns), torch.ones(columns)))


def load_predictor(saved: Artifact) -> Predictor:
    """A history in, the quantiles of what follows out."""
    model = load_model(saved)
    inputs: HistoryInput = HistoryInput.from_json(saved.inputs)
    answer = Curve(inputs.names, ForecastConfig().with_values(saved.config).horizon)

    @torch.inference_mode()
    def predict(histories: Sequence[History]) -> list[Row]:
        times = [inputs.times(each, answer.horizon) for each in histories]
        return answer.rows((model(inputs.network_input(histories)), times))

    return Predictor(inputs, answer, predict, model=model)


example = Example(
    name="research.forecast",
    task="Time-series forecasting with uncertainty",
    model="PatchTST started from ridge regression",
    seconds=6,
    headline="skill",
    config=ForecastConfig,
    train=train,
    load=load_predictor,
    evaluate=evaluate,
    prepare=prepare,
    tag=lambda config: f"{config.model or 'auto'}-{config.data.split(':')[0]}",
    objective="val_loss",
    goal="minimize",
    extras=("series",),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
