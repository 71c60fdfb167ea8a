"""Five ways to train the same small model, each with more of PyTorch and less code of one's own.

python -m research.ladder                           569 tumours, 30 measurements each; ships with scikit-learn
python -m research.ladder --epochs 100 --lr 0.3     100 full-batch steps on rungs 1 to 3
python -m research.ladder --tiny                    made-up rows, in seconds

The model is logistic regression: z = x · w + b, and the probability of class 1 is σ(z) = 1 / (1 + e⁻ᶻ).
Rungs 1 to 3 use all rows in every step, rungs 4 and 5 a mini-batch. research/ladder.md has the derivation.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from common import artifact
from common.artifact import Artifact
from common.config import Config, Range, option
from common.data.loaders import Loader
from common.data.splits import stratified
from common.data.tables import TABLES, Rows, Standardize, TableData, load_table
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.labels import Labels
from common.kinds.row import RowInput
from common.metrics import Metrics, paired_interval
from common.training.fit import FitConfig, fit
from common.training.run import Run
from research.ladder import page as ladder_page
from research.ladder.climb import Climb, Fold

# --- config ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LadderConfig(Config):
    """Everything that decides the result of one climb."""

    data: str = option("breast-cancer", "table", group="Data", choices=TABLES, common=True)
    epochs: int = option(50, "passes over the training data; on rungs 1 to 3 each is one step", at_least=1, common=True)
    batch_size: int = option(64, "rows per step of rungs 4 and 5, over all processes", at_least=1,
                             tune=(16, 32, 64, 128), common=True)  # fmt: skip
    lr: float = option(0.1, "learning rate, the same on every rung", above=0, at_most=100,
                       tune=Range(0.01, 3.0, log=True), common=True)  # fmt: skip
    precision: str = option("fp32", "number format of the arithmetic of rung 5", choices=("auto", "fp32", "bf16",
                            "fp16"), group="Device")  # fmt: skip
    folds: int = option(10, "parts of the cross-validation", at_least=2, at_most=50, group="Evaluation")
    miss_cost: float = option(10.0, "cost of a missed case of the first class, in false alarms", above=0,
                              at_most=1e6, group="Evaluation")  # fmt: skip

    @classmethod
    def tiny(cls) -> LadderConfig:
        return cls(data="synthetic", epochs=10, batch_size=16, folds=3)


# --- rungs -------------------------------------------------------------------------------------------------
# Each takes x, standardised features float32 [N, F], and y, 0.0 or 1.0 [N], and starts with all weights at zero.


def by_hand(x: Tensor, y: Tensor, config: LadderConfig) -> Climb:
    """Tensors only. The gradient comes from paper: one row's loss is log(1 + eᶻ) − y z, its slope σ(z) − y.

    By the chain rule each weight's slope is that error times the weight's input, averaged over the rows.
    """
    climb = Climb()
    w, b = torch.zeros(x.shape[1]), torch.zeros(())  # [F], []
    for _ in range(config.epochs):
        z = x @ w + b  # [N]
        loss = (F.softplus(z) - y * z).mean()  # log(1 + eᶻ) − y z
        error = (z.sigmoid() - y) / len(y)  # dL/dz, [N]
        w -= config.lr * (x.T @ error)  # dL/dw = xᵀ dL/dz, [F]
        b -= config.lr * error.sum()  # dL/db = Σ dL/dz
        climb.note(loss)
    return climb.end(w, b)


def with_autograd(x: Tensor, y: Tensor, config: LadderConfig) -> Climb:
    """Autograd removes the derivation: PyTorch remembers how the loss was computed and walks back through it.

    Another model or another loss now costs no new mathematics.
    """
    climb = Climb()
    w = torch.zeros(x.shape[1], requires_grad=True)  # [F]
    b = torch.zeros((), requires_grad=True)  # []
    for _ in range(config.epochs):
        z = x @ w + b  # [N]
        loss = (F.softplus(z) - y * z).mean()
        dw, db = torch.autograd.grad(loss, (w, b))
        with torch.no_grad():  # the step is not part of the model
            w -= config.lr * dw
            b -= config.lr * db
        climb.note(loss)
    return climb.end(w, b)


class LogisticRegression(nn.Module):
    """One weight a feature and a bias: [N, F] to logits [N]. Zeros are a fair start: the loss has one minimum."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)  # [N, 1]
        return logits.squeeze(1)


def with_module(x: Tensor, y: Tensor, config: LadderConfig) -> Climb:
    """Module, loss and optimiser remove the formulas and the list of weights: each is now a part with a name.

    Adam instead of SGD, or a network instead of a line, is one changed word.
    """
    climb = Climb()
    model = LogisticRegression(x.shape[1])
    loss_fn = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), config.lr)
    for _ in range(config.epochs):
        loss = loss_fn(model(x), y)
        loss.backward()  # adds to the .grad of every weight …
        optimizer.step()
        optimizer.zero_grad()  # … and this empties it again
        climb.note(loss)
    return climb.end(model.linear.weight[0], model.linear.bias[0])


class Table(Dataset[tuple[Tensor, Tensor]]):
    """Row i of the table and its label: all that a DataLoader asks for."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class Order(Sampler[int]):
    """The rows in a new order every epoch, as `shuffle=True` would give, but in the orders that rung 5 draws."""

    def __init__(self, x: Tensor, y: Tensor, config: LadderConfig) -> None:
        self.loader, self.epoch = loader(x, y, config, torch.device("cpu")), 0

    def __len__(self) -> int:
        return self.loader.size

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(self.loader.order(self.epoch - 1).tolist())


def with_loader(x: Tensor, y: Tensor, config: LadderConfig) -> Climb:
    """Dataset and DataLoader remove the need to hold, or to use, all rows at once: a step sees a mini-batch.

    That is one more loop; in return an epoch takes many steps, and the data may be larger than the memory.
    """
    climb = Climb()
    model = LogisticRegression(x.shape[1])
    loss_fn = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), config.lr)
    data, order = Table(x, y), Order(x, y, config)
    size = config.batch_size
    batches = DataLoader(data, size, sampler=order, drop_last=True)
    for _ in range(config.epochs):
        for inputs, targets in batches:  # [B, F], [B]
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            climb.note(loss)
    return climb.end(model.linear.weight[0], model.linear.bias[0])


def with_fit(x: Tensor, y: Tensor, config: LadderConfig, run: Run) -> Climb:
    """The loop itself goes: `fit` is that of every example here, and it is more than a loop.

    It resumes after a crash with the same bits, logs, stops on Ctrl-C, and runs on a GPU or in several processes.
    """
    model = LogisticRegression(x.shape[1])
    run.place(model, sample=x[:1])
    loss_fn = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), config.lr)
    batches = loader(x, y, config, run.device)
    fit(run, model, loss_fn, batches, FitConfig(epochs=config.epochs, schedule="constant"), optimizer=optimizer)
    climb = Climb.of(run)
    return climb.end(model.linear.weight[0], model.linear.bias[0])


def loader(x: Tensor, y: Tensor, config: LadderConfig, device: torch.device) -> Loader:
    """Mini-batches by this project's own loader."""
    return Loader(Rows(x, y), config.batch_size, train=True, device=device, seed=config.seed)


Rung = Callable[[Tensor, Tensor, LadderConfig], Climb]
RUNGS: dict[str, Rung] = {
    "by hand": by_hand,
    "autograd": with_autograd,
    "module and optimiser": with_module,
    "DataLoader": with_loader,
}

# --- train -------------------------------------------------------------------------------------------------


def train(config: LadderConfig, run: Run) -> Metrics:
    """Climbs all rungs, evaluates the model of the last one on the test split, and saves it."""
    data = load_table(config.data, config.seed)
    run.cite(data.provenance)
    config = run.settle(config, samples=len(data.train))
    standardize = Standardize.of(data.train.features)  # measured on the training rows alone
    x, y = standardize(data.train.features), data.train.targets.float()

    climbs: dict[str, Climb] = {}
    every: dict[str, Rung] = {**RUNGS, "fit": partial(with_fit, run=run)}
    for name, rung in every.items():
        repeats = 3 if name in RUNGS else 1  # alike but for the clock; a run trains only once
        climbs[name] = min((rung(x, y, config) for _ in range(repeats)), key=lambda climb: climb.seconds[-1])
        say(run, len(climbs), name, climbs[name], loss_of(climbs[name], x, y))

    model = deployed(standardize, climbs["fit"])
    folds = cross_validate(data.whole, config)
    metrics = measure(model, data, folds)
    full, mini = climbs["module and optimiser"], climbs["DataLoader"]
    valid, test = first_class(model, data.valid), first_class(model, data.test)
    malignant, miss_cost = data.classes[0], config.miss_cost
    run.progress.say(f"batches    {ladder_page.race(full, mini)}")
    run.progress.say(f"threshold  {ladder_page.trade(valid, test, malignant, miss_cost)}")
    run.progress.say(f"{config.folds:>2} folds   {ladder_page.verdict(metrics.values)}")
    rungs: list[Callable[..., Climb]] = [*RUNGS.values(), with_fit]
    losses = {name: loss_of(climb, x, y) for name, climb in climbs.items()}
    standard_valid = Rows(standardize(data.valid.features), data.valid.targets.float())
    run.log_now(val_loss=loss_of(climbs["fit"], standard_valid.features, standard_valid.targets))
    story = [
        ladder_page.table(rungs, climbs, losses),
        *ladder_page.code(rungs),
        ladder_page.batches(full, mini),
        *ladder_page.threshold(valid, test, malignant, miss_cost),
        *ladder_page.losses(Rows(x, y), standard_valid, config.epochs),
        *ladder_page.cross_validation(folds, metrics.values),
    ]
    run.sections += [replace(section, first=True) for section in story]
    inputs = RowInput(tuple(data.feature_names), tuple(data.train.features.mean(0).tolist()))
    artifact.save(run, model, inputs=inputs, answer=Labels(data.classes), metrics=metrics)
    return metrics


def say(run: Run, number: int, name: str, climb: Climb, loss: float) -> None:
    steps = len(climb.seconds)
    micros = 1e6 * climb.seconds[-1] / steps
    run.progress.say(f"rung {number}     {name:<20}  {steps:>4} steps of {micros:>5.0f} µs, loss {loss:.4f}")


def loss_of(climb: Climb, x: Tensor, y: Tensor) -> float:
    """The mean loss over rows at the end of a climb, in nats: one yardstick for all rungs."""
    return F.binary_cross_entropy_with_logits(x @ climb.weights + climb.bias, y).item()


def deployed(standardize: Standardize, climb: Climb) -> nn.Module:
    """The model that is saved: it takes raw rows, so that nobody has to standardise them first."""
    model = LogisticRegression(len(climb.weights))
    model.linear.weight.data[0], model.linear.bias.data[0] = climb.weights, climb.bias
    return nn.Sequential(standardize, model)


# --- evaluate ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def logits_of(model: nn.Module, features: Tensor) -> Tensor:
    """Logits [N, 2] of the two classes: softmax over (0, z) is (1 − σ(z), σ(z))."""
    z = model(features)
    return torch.stack([torch.zeros_like(z), z], dim=1)


def first_class(model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
    """The probability of the first class, [N], and where it is true, bool [N]."""
    return logits_of(model, rows.features).softmax(1)[:, 0], rows.targets == 0


def cross_validate(rows: Rows, config: LadderConfig) -> list[Fold]:
    """Trains on all parts but one and measures on that one, each part in turn: rung 4, and LogisticRegression().

    Both see the same folds and the same standardised rows. Rung 4 stands for rung 5: their weights are the same.
    """
    from sklearn.linear_model import LogisticRegression as Reference

    parts = stratified(rows.targets, [1 / config.folds] * config.folds, config.seed)
    folds = []
    for part in parts:
        held_out = torch.zeros(len(rows), dtype=torch.bool).index_fill(0, part, True)
        train, test = rows.subset(~held_out), rows.subset(held_out)
        standardize = Standardize.of(train.features)
        x, unseen = standardize(train.features), standardize(test.features)
        climb = with_loader(x, train.targets.float(), config)
        guess = (unseen @ climb.weights + climb.bias > 0).long()
        reference = Reference().fit(x.double().numpy(), train.targets.numpy())
        peer = torch.from_numpy(reference.predict(unseen.double().numpy()))
        folds.append(Fold(*((g == test.targets).double().mean().item() for g in (guess, peer))))
    return folds


def measure(model: nn.Module, data: TableData, folds: Sequence[Fold]) -> Metrics:
    """The metrics of a binary classifier on the test split, and those of the cross-validation."""
    metrics = Labels(data.classes).measure(logits_of(model, data.test.features), data.test.targets)
    ours, differences = [f.ours for f in folds], [f.ours - f.reference for f in folds]
    low, high = paired_interval(differences)
    values: dict[str, float | int] = {
        "cv_accuracy": statistics.fmean(ours),
        "cv_accuracy_std": statistics.stdev(ours),
        "cv_reference_accuracy": statistics.fmean(f.reference for f in folds),
        "cv_difference": statistics.fmean(differences),
        "cv_difference_low": low,
        "cv_difference_high": high,
    }
    notes = [f"cv values are of {len(folds)}-fold cross-validation over all rows; the reference is scikit-learn's "
             "LogisticRegression, and the difference is ours minus its own"]  # fmt: skip
    if data.best_accuracy is not None:
        notes.append(f"the rule that made these rows is right about {data.best_accuracy:.1%} of the test split")
    return replace(metrics, values={**metrics.values, **values}, notes=[*metrics.notes, *notes])


def evaluate(saved: Artifact, config: LadderConfig) -> Metrics:
    """Measures a saved model again; the cross-validation is trained anew, which takes a second or two."""
    data = load_table(config.data, config.seed)
    return measure(load_model(saved), data, cross_validate(data.whole, config))


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> nn.Module:
    """The trained model, ready for raw rows [N, F]."""
    columns = len(RowInput.from_json(saved.inputs).names)
    standardize = Standardize(torch.zeros(columns), torch.ones(columns))
    return saved.load_into(nn.Sequential(standardize, LogisticRegression(columns)))


def load(saved: Artifact) -> Predictor:
    """A row of raw measurements in, its class and the probability of every class out."""
    model, answer = load_model(saved), Labels(saved.classes)

    def predict(rows: Sequence[Tensor]) -> list[Row]:
        return answer.rows(logits_of(model, torch.stack(list(rows))))

    return Predictor(RowInput.from_json(saved.inputs), answer, predict)


example = Example(
    name="research.ladder",
    task="From bare tensors to a training loop",
    model="Logistic regression",
    seconds=8,
    headline="accuracy",
    config=LadderConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    prepare=lambda config: load_table(config.data, config.seed),
    objective="val_loss",
    goal="minimize",
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
