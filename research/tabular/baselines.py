"""What every network for tables is held against: a linear model, and gradient-boosted trees.

Both are scikit-learn's, see the same training rows as the network, and choose their settings on the same validation
rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.tabular.folds import Folds

PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)  # of the linear models; validation chooses
# Of HistGradientBoosting, its default first; validation chooses among these and the number of trees.
BOOSTED: tuple[dict[str, Any], ...] = (
    {"learning_rate": 0.1, "min_samples_leaf": 20},
    {"learning_rate": 0.1, "min_samples_leaf": 5, "max_leaf_nodes": 15},
    {"learning_rate": 0.05, "min_samples_leaf": 5, "max_leaf_nodes": 7},
)
TREES = 200
LOWEST = 1e-6  # probability, before its logarithm is taken
MANY = 20_000  # training rows from which on several threads pay; on a busy machine they make a small table take minutes


def linear(folds: Folds) -> tuple[str, Tensor]:
    """Its name, and what it says of the test rows: logits [N, K] or a quantity [N].

    Numbers are standardised, gaps become the median and are noted in a column, categories have a column each.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    train, valid, test = _dense(folds)
    if not folds.table.classes:
        quantities = folds.train.targets.double().numpy()
        models = [Ridge(alpha=penalty).fit(train, quantities) for penalty in PENALTIES]
        chosen = min(models, key=lambda model: _squared(model.predict(valid), folds.valid.targets))
        return "ridge regression", torch.from_numpy(chosen.predict(test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so where it ends early, as it does without a penalty
        targets = folds.train.targets.numpy()
        fitted = [LogisticRegression(C=1 / penalty, max_iter=1000).fit(train, targets) for penalty in PENALTIES]
    best = min(fitted, key=lambda model: _log_loss(model.predict_proba(valid), folds.valid.targets))
    return "logistic regression", torch.from_numpy(np.log(best.predict_proba(test).clip(LOWEST)))


def boosting(folds: Folds) -> tuple[str, Tensor]:
    """HistGradientBoosting (after LightGBM; Ke et al. 2017), its settings and number of trees chosen on validation."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    classes = bool(folds.table.classes)
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    measure: Callable[[Any, Tensor], float] = _log_loss if classes else _squared
    train, valid, test = (part.features.double().numpy() for part in (folds.train, folds.valid, folds.test))
    categorical = [bool(categories) for categories in folds.table.categories]
    best: tuple[float, Any, int] = (float("inf"), None, 0)
    for settings in BOOSTED:
        model = kind(
            max_iter=TREES, early_stopping=False, random_state=0, categorical_features=categorical, **settings
        ).fit(train, folds.train.targets.numpy())
        for number, said in enumerate(_staged(model, valid)):
            error = measure(said, folds.valid.targets)
            if error < best[0]:
                best = (error, model, number)
    _, model, number = best
    said = next(said for place, said in enumerate(_staged(model, test)) if place == number)
    return "gradient-boosted trees", torch.from_numpy(np.log(said.clip(LOWEST)) if classes else said.copy())


def few_threads(folds: Folds) -> AbstractContextManager[Any]:
    """One thread for scikit-learn's models where there are few rows."""
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    return threadpool_limits(None if len(folds.train) >= MANY else 1)


def _staged(model: Any, rows: np.ndarray) -> Any:
    """What a boosting says after each tree."""
    return model.staged_predict_proba(rows) if hasattr(model, "staged_predict_proba") else model.staged_predict(rows)


def _log_loss(probabilities: np.ndarray, targets: Tensor) -> float:
    chosen = probabilities[np.arange(len(targets)), targets.numpy()]
    return float(-np.log(chosen.clip(LOWEST)).mean())


def _squared(said: np.ndarray, targets: Tensor) -> float:
    return float(np.square(said - targets.double().numpy()).mean())


def _dense(folds: Folds) -> list[np.ndarray]:
    """The rows of each split as a linear model takes them, standardised by the training rows."""
    parts = [rows.features.double().numpy() for rows in (folds.train, folds.valid, folds.test)]
    made: list[list[np.ndarray]] = [[], [], []]
    for place, categories in enumerate(folds.table.categories):
        columns = [part[:, place] for part in parts]
        if categories:
            for number in range(len(categories)):
                for split, column in zip(made, columns, strict=True):
                    split.append((column == number).astype(float))
            continue
        known = columns[0][~np.isnan(columns[0])]
        middle, spread = (np.median(known), known.std()) if len(known) else (0.0, 1.0)
        gaps = any(np.isnan(column).any() for column in columns)
        for split, column in zip(made, columns, strict=True):
            split.append((np.where(np.isnan(column), middle, column) - middle) / (spread or 1.0))
            if gaps:
                split.append(np.isnan(column).astype(float))
    return [np.stack(split, axis=1) for split in made]


def alone(folds: Folds) -> list[float]:
    """What a small tree on each column alone reaches on validation: balanced accuracy, or the share of variance.

    A column that reaches nearly 1 gives the target away.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if folds.table.classes else DecisionTreeRegressor
    reached = []
    targets, wanted = folds.train.targets.numpy(), folds.valid.targets.numpy()
    for place in range(len(folds.table.names)):
        column, unseen = (part.features[:, place : place + 1].numpy() for part in (folds.train, folds.valid))
        tree = kind(max_leaf_nodes=32, random_state=0).fit(column, targets)
        said = tree.predict(unseen)
        if folds.table.classes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # validation may lack a class
                reached.append(float(balanced_accuracy_score(wanted, said)))
        else:
            reached.append(1 - float(np.square(said - wanted).mean() / max(wanted.var(), 1e-12)))
    return reached
