"""A smallest example for the tests of `common`: a dense network on random points, in well under a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import artifact
from common.config import Range, changed, option
from common.data.loaders import Loader
from common.example import Example
from common.kinds.labels import Labels
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, predict_all
from common.training.run import Run

CLASSES = ("a", "b", "c")
ANSWER = Labels(CLASSES)


@dataclass(frozen=True)
class ToyConfig(FitConfig):
    epochs: int = changed(FitConfig, "epochs", default=4)
    batch_size: int = changed(FitConfig, "batch_size", default=64, tune=None)
    lr: float = changed(FitConfig, "lr", default=1e-3, tune=Range(1e-4, 0.1, log=True))
    weight_decay: float = changed(FitConfig, "weight_decay", tune=None)
    streamed: bool = option(False, "read items through worker processes")
    dropout: float = option(0.1, "dropout", at_least=0, at_most=0.9, tune=(0.0, 0.1, 0.3))
    poison: bool = option(False, "put a NaN into the data")

    @classmethod
    def tiny(cls) -> ToyConfig:
        return cls(epochs=2)


class Points:
    """`n` points in the plane's 20-dimensional cousin, labelled by a random linear map."""

    def __init__(self, inputs: Tensor, targets: Tensor, streamed: bool) -> None:
        self.inputs, self.targets, self._streamed = inputs, targets, streamed

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Tensor:
        return self.inputs[index]

    def in_memory(self) -> Tensor | None:
        return None if self._streamed else self.inputs


def points(config: ToyConfig) -> tuple[Points, Points]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(600, 20, generator=generator)
    targets = (inputs @ torch.randn(20, 3, generator=generator)).argmax(1)
    if config.poison:
        inputs[3] = float("nan")
    return (
        Points(inputs[:480], targets[:480], config.streamed),
        Points(inputs[480:], targets[480:], config.streamed),
    )


def jitter(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return inputs + 0.1 * torch.randn_like(inputs), targets


def network(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, len(CLASSES))
    )


def train(config: ToyConfig, run: Run) -> Metrics:
    train_set, valid_set = points(config)
    model = run.place(network(config.dropout), torch.zeros(1, 20))
    batch: dict[str, Any] = {"device": run.device, "workers": 2 if config.streamed else None}
    valid = Loader(valid_set, 100, train=False, **batch)
    model = fit(
        run,
        model,
        nn.CrossEntropyLoss(),
        Loader(train_set, config.batch_size, train=True, seed=config.seed, augment=jitter, **batch),
        config,
        validate=valid,
        score=ANSWER.validate,
        monitor="val_accuracy",
    )
    metrics = ANSWER.measure(predict_all(model, valid), valid.targets)
    artifact.save(run, model, inputs=None, answer=ANSWER, metrics=metrics)
    return metrics


def _none(*_: Any) -> Any:
    raise AssertionError("the toy example has no predictor")


example = Example(
    name="tests.toy",
    task="Toy",
    model="MLP",
    seconds=1,
    headline="accuracy",
    config=ToyConfig,
    train=train,
    load=_none,
    evaluate=_none,
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
