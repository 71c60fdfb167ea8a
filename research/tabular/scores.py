"""A model measured on the test rows, beside what usually wins."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.kinds.labels import Labels
from common.kinds.number import Number
from common.metrics import Metrics
from research.tabular import baselines
from research.tabular.folds import Folds

REPEATS = 2000  # of the bootstrap
SHUFFLES = 5  # of each column
GIVEN_AWAY = 0.97  # what a column alone reaches, from which on it is suspected


@dataclass(frozen=True)
class Scores:
    """What a model and its rivals reached.

    Args:
        metrics: over all test rows.
        rivals: the name of each and its own metrics.
        importance: of each column: by how much the headline gets worse when it is shuffled, mean and deviation.
        alone: of each column what a small tree on it alone reaches on validation.
        suspects: what is said of columns that give the target away.
    """

    metrics: Metrics
    rivals: dict[str, Metrics]
    importance: list[tuple[float, float]]
    alone: list[float]
    suspects: list[str]


def answer_of(folds: Folds) -> Labels | Number:
    """The kind of the answer."""
    table = folds.table
    return Labels(table.classes) if table.classes else Number((table.target_name,))


def measure(name: str, model: nn.Module, folds: Folds, device: torch.device) -> Scores:
    """All that is measured of a model.

    Args:
        name: of its kind, for the texts.
        model: takes raw rows [B, F].
    """
    answer, test = answer_of(folds), folds.test
    said = outputs_of(model, test.features, device)
    mine = answer.measure(said, test.targets)
    with baselines.few_threads(folds):
        fitted = {"boosting": baselines.boosting(folds), "linear": baselines.linear(folds)}
        reached = baselines.alone(folds)
    rivals, differences = {}, {}
    for key, (title, theirs) in fitted.items():
        if theirs.ndim == 1:
            theirs = theirs.unsqueeze(1).expand(-1, 3)
        rivals[title] = answer.measure(theirs, test.targets)
        differences[key] = (title, difference(said, theirs, folds))
    suspects = [_suspect(folds.table.names[place], score) for place, score in enumerate(reached) if score >= GIVEN_AWAY]
    values = _values(mine, said, rivals, differences, folds)
    notes = [
        *(verdict(name, *differences[key], bool(folds.table.classes)) for key in ("boosting", "linear")),
        *suspects,
        *folds.notes,
        "rivals are scikit-learn's, see the same training rows and choose their settings on the same validation rows",
        f"over_boosting and over_linear are {_better(folds)}; their 95 % intervals are of a paired bootstrap of "
        f"{_UNITS[folds.split]}",
        *mine.notes,
    ]
    metrics = replace(mine, values=values, notes=notes)
    return Scores(metrics, rivals, importance(model, folds, device), reached, suspects)


_UNITS = {"random": "the test rows", "grouped": "the test groups", "blocked": "short stretches of the test rows"}


def _better(folds: Folds) -> str:
    return "accuracy less that of the rival" if folds.table.classes else "the rival's RMSE less ours"


def _values(
    mine: Metrics,
    said: Tensor,
    rivals: dict[str, Metrics],
    differences: dict[str, tuple[str, Difference]],
    folds: Folds,
) -> dict[str, float | int]:
    values = dict(mine.values)
    if folds.table.classes and folds.split != "random":  # Wilson's interval is of rows that stand for themselves
        correct = (said.argmax(1) == folds.test.targets).double()
        values["accuracy_low"], values["accuracy_high"] = _ends(drawn_means(correct.unsqueeze(0), folds.units)[0])
    shared = ("accuracy", "log_loss") if folds.table.classes else ("rmse",)
    for key, (title, found) in differences.items():
        values |= {f"{key}_{name}": rivals[title].values[name] for name in shared}
        values |= {f"over_{key}": found.value, f"over_{key}_low": found.low, f"over_{key}_high": found.high}
    best = folds.table.best
    if best is not None:
        known = best[folds.parts[2]]
        if folds.table.classes:
            values["best_accuracy"] = ((known > 0.5).long() == folds.test.targets).double().mean().item()
        else:
            values["best_rmse"] = (known - folds.test.targets).square().mean().sqrt().item()
    return values


@torch.inference_mode()
def outputs_of(model: nn.Module, rows: Tensor, device: torch.device) -> Tensor:
    """What a model says of raw rows [N, F], on the CPU."""
    model.eval()
    return torch.cat([model(part.to(device)).float().cpu() for part in rows.split(1024)])


# --- ours and theirs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """By how much ours is better, and the 95 % interval."""

    value: float
    low: float
    high: float


def difference(mine: Tensor, theirs: Tensor, folds: Folds) -> Difference:
    """Accuracy of one less that of another on the same test rows, or RMSE of the other less that of the one.

    Whole units of `Folds.units` are drawn with replacement, because rows of one unit are alike.

    Args:
        mine, theirs: outputs [N, K] of the answer's kind.
    """
    targets = folds.test.targets
    if folds.table.classes:
        errors = torch.stack([(said.argmax(1) != targets).double() for said in (mine, theirs)])
    else:
        errors = torch.stack([(said[:, 0].double() - targets.double()).square() for said in (mine, theirs)])
    means, (ours, rival) = drawn_means(errors, folds.units), errors.mean(1)
    if not folds.table.classes:
        means, ours, rival = means.sqrt(), ours.sqrt(), rival.sqrt()
    return Difference((rival - ours).item(), *_ends(means[1] - means[0]))


def drawn_means(values: Tensor, units: Tensor) -> Tensor:
    """Means of values [V, N] over rows drawn anew, whole units [N] with replacement: [V, REPEATS]."""
    numbers = units.unique(return_inverse=True)[1]
    count = int(numbers.max()) + 1
    sums = torch.zeros(len(values), count, dtype=torch.float64).index_add_(1, numbers, values)
    sizes = torch.zeros(count, dtype=torch.float64).index_add_(0, numbers, torch.ones(len(units)).double())
    drawn = torch.randint(count, (REPEATS, count), generator=torch.Generator().manual_seed(0))
    return sums[:, drawn].sum(-1) / sizes[drawn].sum(-1)


def _ends(drawn: Tensor) -> tuple[float, float]:
    """The 95 % interval of what was drawn."""
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def verdict(name: str, title: str, found: Difference, classes: bool) -> str:
    """Whether the network is worth its trouble beside a rival, in one sentence."""
    scale, unit = (100, " points of accuracy") if classes else (1, " of RMSE")
    between = f"{scale * found.value:+.3g}{unit} (95 % interval {scale * found.low:+.3g} to {scale * found.high:+.3g})"
    if found.low > 0:
        return f"the {name} beats {title}: {between}"
    if found.high < 0:
        return f"the {name} is behind {title}: {between}; use that"
    return f"the {name} and {title} can't be told apart on these rows: {between}"


def _suspect(name: str, score: float) -> str:
    return (
        f"column {name!r} alone reaches {score:.3f} of 1 on validation: does it give the target away? "
        f"If it would not be known in time, leave it out"
    )


# --- columns -----------------------------------------------------------------------------------------------


def importance(model: nn.Module, folds: Folds, device: torch.device) -> list[tuple[float, float]]:
    """By how much accuracy falls, or RMSE grows, when a column of the test rows is shuffled (Breiman 2001).

    Returns:
        mean and standard deviation over SHUFFLES, of each column.
    """
    rows, targets = folds.test.features, folds.test.targets
    generator = torch.Generator().manual_seed(0)

    def error(features: Tensor) -> float:
        said = outputs_of(model, features, device)
        if folds.table.classes:
            return (said.argmax(1) != targets).double().mean().item()
        return (said[:, 0].double() - targets.double()).square().mean().sqrt().item()

    before = error(rows)
    found = []
    for place in range(rows.shape[1]):
        worse = []
        for _ in range(SHUFFLES):
            shuffled = rows.clone()
            shuffled[:, place] = rows[torch.randperm(len(rows), generator=generator), place]
            worse.append(error(shuffled) - before)
        values = torch.tensor(worse, dtype=torch.float64)
        found.append((values.mean().item(), values.std(correction=0).item()))
    return found


def dependence(
    model: nn.Module, folds: Folds, place: int, device: torch.device, most: int = 200
) -> tuple[Tensor, Tensor]:
    """What the model says on average when a column has each of some values (Friedman 2001), others as they are.

    Returns:
        the values [P], numbers or those of categories; and the mean probabilities [P, K] or quantities [P, 1].
    """
    column = folds.inputs.columns[place]
    values = torch.arange(len(column.categories)).float() if column.categories else torch.tensor(column.points).unique()
    rows = folds.test.features[:most]
    said = []
    for value in values.tolist():
        changed = rows.clone()
        changed[:, place] = value
        outputs = outputs_of(model, changed, device).double()
        said.append((outputs.softmax(1) if folds.table.classes else outputs[:, :1]).mean(0))
    return values, torch.stack(said)
