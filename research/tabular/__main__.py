"""Predicts a class or a quantity from rows of numbers, categories and gaps, beside boosted trees.

python -m research.tabular                                       tumours, 30 measurements each; ships with scikit-learn
python -m research.tabular --data csv:houses.csv --target price
python -m research.tabular --data csv:visits.csv --target ill --group patient      no patient in two splits
python -m research.tabular --data uci:wall-following --data-dir FOLDER             a robot, split by blocks of time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.data.loaders import Loader
from common.data.tables import Rows
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.labels import Labels
from common.kinds.number import Number
from common.kinds.record import RecordInput
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, predict_all
from common.training.run import Run
from research.tabular import folds, models, page, scores
from research.tabular.folds import Folds, divide
from research.tabular.models import Classifier, Regressor, together
from research.tabular.tables import SOURCES, TASKS, Asked, load_table

# --- config ------------------------------------------------------------------------------------------------

# Picked on the validation splits of all tables that have a name, seeds 100 to 102.
RECIPES: dict[str, dict[str, Any]] = {
    "mlp": {"width": 128, "layers": 2, "dropout": 0.3, "lr": 5e-3},
    "ft-transformer": {"width": 32, "layers": 2, "dropout": 0.1, "lr": 5e-3},
}
STEPS = 300  # about as many are trained at least
SMALL = 1000  # training rows, below which few bins and small batches do better
BATCHES = ((SMALL, 32), (10_000, 128))  # rows of a smaller training split, and the batch that suits it
LARGEST_BATCH = 512
FEWEST_EPOCHS = 30


@dataclass(frozen=True)
class TabularConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option("breast-cancer", "table", group="Data", choices=SOURCES, common=True)
    target: str | None = option(None, "column of a file that is predicted", group="Data", unset="none", common=True)
    group: str | None = option(
        None, "column of a file; rows of one group, such as a patient, are in one split", group="Data", unset="none"
    )
    time: str | None = option(None, "column of a file by which its rows are sorted", group="Data", unset="none")
    drop: str | None = option(
        None, "columns of a file that are left out, separated by commas", group="Data", unset="none"
    )
    categories: str | None = option(
        None, "columns of numbers in a file that are categories, such as codes", group="Data", unset="found"
    )
    task: str = option(None, "what is predicted", group="Data", choices=TASKS, unset="by the target")
    split: str = option(
        None, "how rows are divided", group="Data", choices=folds.NAMES, unset="by data set", common=True
    )

    model: str = option("mlp", "network", group="Model", choices=models.NAMES, common=True)
    bins: int = option(None, "of the piecewise-linear encoding of each number", group="Model", at_least=1,
                       at_most=256, unset="by number of rows")  # fmt: skip
    embedding: int = option(8, "features of each column, of mlp", group="Model", at_least=1, at_most=128)
    members: int = option(
        8, "networks of the ensemble, of mlp; they share most weights", group="Model", at_least=1, at_most=64
    )
    width: int = option(None, "features within the network", group="Model", at_least=4, at_most=4096,
                        unset="by model")  # fmt: skip
    layers: int = option(None, "of the network", group="Model", at_least=1, at_most=24, unset="by model")
    dropout: float = option(None, "share of features dropped", at_least=0, at_most=0.95, unset="by model",
                            tune=Range(0.0, 0.5))  # fmt: skip

    epochs: int = changed(FitConfig, "epochs", unset="by number of rows")
    batch_size: int = changed(FitConfig, "batch_size", help="rows per step, over all processes", tune=(32, 64, 128),
                              unset="by number of rows")  # fmt: skip
    lr: float = changed(FitConfig, "lr", unset="by model", tune=Range(5e-4, 2e-2, log=True))
    weight_decay: float = changed(FitConfig, "weight_decay", default=0.1)
    clip: float = changed(FitConfig, "clip", default=1.0)

    @classmethod
    def tiny(cls) -> TabularConfig:
        return cls(data="synthetic", width=32, members=4, epochs=4)

    def resolve(self) -> TabularConfig:
        """Fills what depends on the model and on what is said of the data; of their size `fitted` does."""
        blocked = self.time or self.data == "uci:wall-following"
        split = "grouped" if self.group else "blocked" if blocked else "random"
        return self.filled({**RECIPES[self.model], "split": split})

    def fitted(self, data: Folds) -> TabularConfig:
        """Fills what is still open by how many rows there are, and what the target turned out to be."""
        count = len(data.train)
        batch = next((size for most, size in BATCHES if count <= most), LARGEST_BATCH)
        filled = self.filled({"batch_size": batch, "task": "classification" if data.table.classes else "regression"})
        steps = max(1, count // filled.batch_size)
        return filled.filled({"bins": 8 if count < SMALL else 32, "epochs": max(FEWEST_EPOCHS, -(-STEPS // steps))})

    def check(self) -> None:
        super().check()
        if self.model == "ft-transformer" and not self.is_open("width") and self.width % 4:
            raise UserError(f"--width is {self.width}; of ft-transformer it must be a multiple of 4.")
        if self.group and not self.is_open("split") and self.split != "grouped":
            raise UserError(f"--group {self.group} asks for --split grouped, not {self.split}.")


# --- data --------------------------------------------------------------------------------------------------


def prepare(config: TabularConfig) -> Folds:
    """The three splits; validation is carved from train, test is looked at once."""
    asked = Asked(config.target, config.group, config.time, config.drop, config.categories)
    task = None if config.is_open("task") else config.task
    table = load_table(config.data, data_dir=config.data_folder, asked=asked, task=task, seed=config.seed)
    return divide(table, config.split, config.seed)


# --- train -------------------------------------------------------------------------------------------------


def train(config: TabularConfig, run: Run) -> Metrics:
    """Trains, evaluates on the test rows beside boosted trees and a linear model, and saves."""
    data = prepare(config)
    run.cite(data.provenance)
    config = run.settle(config.fitted(data), samples=len(data.train))
    mean, std = target_units(data)
    learn, valid = (Rows(part.features, scaled(part.targets, mean, std)) for part in (data.train, data.valid))

    network = build(config, data.inputs, max(1, len(data.table.classes)))
    network.embedding.encode.fit(learn.features[:, network.embedding.numbers])
    count = sum(p.numel() for p in network.parameters())
    run.progress.say(f"model      {config.model}, {count:,} weights")
    placed = run.place(network, sample=learn.features[:1])

    checks = Loader(valid, 1024, train=False, device=run.device)
    kept = fit(
        run,
        placed,
        models.loss_of,
        Loader(learn, config.batch_size, train=True, device=run.device, seed=config.seed),
        config,
        validate=checks,
        score=figures,
    )

    if data.table.classes:
        deployed: nn.Module = Classifier(kept)
    else:
        errors = together(predict_all(kept, checks))[:, 0] - valid.targets
        deployed = Regressor(kept, mean, std, std * models.half_width(errors)).to(run.device)
    found = scores.measure(config.model, deployed, data, run.device)
    for note in found.suspects + data.notes:
        run.progress.say(f"warning    {note}")
    for note in found.metrics.notes[:2]:
        run.progress.say(f"verdict    {note}")
    run.sections += page.sections(config.model, found, data, deployed, run.device)
    artifact.save(run, deployed, inputs=data.inputs, answer=scores.answer_of(data), metrics=found.metrics)
    return found.metrics


def target_units(data: Folds) -> tuple[float, float]:
    """Mean and deviation of the quantity over the training rows; 0 and 1 where it is a class."""
    if data.table.classes:
        return 0.0, 1.0
    quantities = data.train.targets.double()
    return quantities.mean().item(), max(quantities.std(correction=0).item(), 1e-12)


def scaled(targets: Tensor, mean: float, std: float) -> Tensor:
    return (targets - mean) / std if targets.is_floating_point() else targets


def figures(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Validation figures of what the members say together: in nats and shares, or in deviations of the target."""
    said = together(outputs)
    if not targets.is_floating_point():
        return Labels([str(number) for number in range(said.shape[1])]).validate(said, targets)
    squared = (said[:, 0] - targets).square().mean().item()
    return {"val_loss": squared, "val_rmse": squared**0.5}


def build(config: TabularConfig, inputs: RecordInput, outputs: int) -> models.Network:
    categories = [len(column.categories) for column in inputs.columns]
    return models.build(
        config.model, categories, outputs, bins=config.bins, embedding=config.embedding, members=config.members,
        width=config.width, layers=config.layers, dropout=config.dropout,
    )  # fmt: skip


# --- evaluate ----------------------------------------------------------------------------------------------


def evaluate(saved: Artifact, config: TabularConfig) -> Metrics:
    """Measures a saved model again; its rivals are trained anew."""
    return scores.measure(config.model, load_model(saved), prepare(config), torch.device("cpu")).metrics


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> nn.Module:
    """The trained network, ready for raw rows [B, F]."""
    config = TabularConfig().with_values(saved.config)
    quantity = config.task == "regression"
    network = build(config, RecordInput.from_json(saved.inputs), 1 if quantity else len(saved.classes))
    return saved.load_into(Regressor(network) if quantity else Classifier(network))


def load(saved: Artifact) -> Predictor:
    """A row in, its class or its quantity out."""
    model, inputs = load_model(saved), RecordInput.from_json(saved.inputs)
    quantity = TabularConfig().with_values(saved.config).task == "regression"
    answer = Number(saved.classes) if quantity else Labels(saved.classes)

    @torch.inference_mode()
    def predict(rows: Sequence[Tensor]) -> list[Row]:
        return answer.rows(model(inputs.network_input(rows)))

    return Predictor(inputs, answer, predict, model=model)


example = Example(
    name="research.tabular",
    task="Tables: classification and regression",
    model="MLP ensemble over encoded columns",
    seconds=7,
    headline="accuracy",
    config=TabularConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    prepare=prepare,
    tag=lambda config: f"{config.model}-{config.data.split(':')[-1] if config.data[:4] != 'csv:' else 'csv'}",
    objective="val_loss",
    goal="minimize",
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
