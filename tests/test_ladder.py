"""The ladder: rungs that do the same thing give the same weights, and the evaluation is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.data.tables import Rows, Standardize, load_table
from common.errors import UserError
from common.metrics import paired_interval
from common.training.run import Run
from research.ladder import __main__ as ladder
from research.ladder import page as ladder_page
from research.ladder.__main__ import LadderConfig
from tests.helpers import python


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """Standardised training rows of the real table."""
    train = load_table("breast-cancer", 0).train
    return Standardize.of(train.features)(train.features), train.targets.float()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a tiny run."""
    return execute(ladder.example, Options(tiny=True, out=str(tmp_path_factory.mktemp("tiny")), quiet=True), {})


# --- the rungs ---------------------------------------------------------------------------------------------


def test_the_gradient_on_paper_is_the_one_of_autograd() -> None:
    x, y = torch.randn(20, 5, dtype=torch.double), (torch.rand(20) > 0.5).double()
    w, b = (torch.randn(n, dtype=torch.double, requires_grad=True) for n in (5, 1))
    loss = F.binary_cross_entropy_with_logits(x @ w + b, y)
    assert torch.allclose(loss, (F.softplus(x @ w + b) - y * (x @ w + b)).mean())
    dw, db = torch.autograd.grad(loss, (w, b))
    error = ((x @ w + b).sigmoid() - y).detach() / len(y)
    assert torch.allclose(dw, x.T @ error)
    assert torch.allclose(db, error.sum())


def test_rungs_1_to_3_give_the_same_weights_after_100_steps(rows: tuple[Tensor, Tensor]) -> None:
    config = LadderConfig(epochs=100)
    first, *others = (rung(*rows, config) for rung in (ladder.by_hand, ladder.with_autograd, ladder.with_module))
    assert len(first.losses) == len(first.seconds) == 100
    assert first.weights.abs().max() > 0.1  # they went somewhere
    for other in others:
        assert torch.allclose(other.weights, first.weights, rtol=0, atol=1e-6)
        assert torch.allclose(other.bias, first.bias, rtol=0, atol=1e-6)
        assert other.losses == pytest.approx(first.losses, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_rungs_4_and_5_give_the_same_weights(rows: tuple[Tensor, Tensor], tmp_path: Path, seed: int) -> None:
    config = LadderConfig(epochs=5, batch_size=32, seed=seed, device="cpu")
    loader = ladder.with_loader(*rows, config)
    fitted = ladder.with_fit(*rows, config, Run(tmp_path / "run", "research.ladder", config, quiet=True))
    assert len(loader.seconds) == len(fitted.seconds) == 5 * (len(rows[1]) // 32)
    assert torch.allclose(fitted.weights, loader.weights, rtol=0, atol=1e-6)
    assert torch.allclose(fitted.bias, loader.bias, rtol=0, atol=1e-6)
    another = ladder.with_loader(*rows, LadderConfig(epochs=5, batch_size=32, seed=seed + 1))
    assert not torch.allclose(another.weights, loader.weights, rtol=0, atol=1e-4)  # the order of the batches matters


def test_enough_steps_come_to_scikit_learns_minimum(rows: tuple[Tensor, Tensor]) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = rows[0][:, :2], rows[1]  # two columns that differ: no direction so flat that the way down takes forever
    climb = ladder.by_hand(x, y, LadderConfig(epochs=1000, lr=1.0))
    reference = LogisticRegression(C=1e8, tol=1e-8, max_iter=1000).fit(x.double().numpy(), y.numpy())
    assert torch.allclose(climb.weights.double(), torch.from_numpy(reference.coef_[0]), atol=1e-3)
    assert climb.bias.item() == pytest.approx(float(reference.intercept_[0]), abs=1e-3)


# --- the evaluation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_folds_reach_97_percent_and_are_not_worse_than_scikit_learn(seed: int) -> None:
    config = LadderConfig(seed=seed)
    data = load_table("breast-cancer", seed)
    folds = ladder.cross_validate(data.whole, config)
    assert len(folds) == 10
    assert sum(fold.ours for fold in folds) / 10 >= 0.97
    _, high = paired_interval([fold.ours - fold.reference for fold in folds])
    assert high >= 0


def test_the_paired_interval_is_the_corrected_one() -> None:
    differences = [0.01, -0.02, 0.03, 0.0, 0.015]
    low, high = paired_interval(differences)
    t = 2.7764451  # 97.5 % point of Student's t with 4 degrees of freedom
    variance = sum((d - 0.007) ** 2 for d in differences) / 4
    half = t * (variance * (1 / 5 + 1 / 4)) ** 0.5  # 1/4: rows tested over rows trained on
    assert (low, high) == pytest.approx((0.007 - half, 0.007 + half))


def test_the_cheapest_threshold_falls_as_misses_get_dearer() -> None:
    probability = torch.tensor([0.05, 0.22, 0.31, 0.42, 0.58, 0.93])
    scored = probability, torch.tensor([False, True, False, False, True, True])
    assert ladder_page.count(scored, 0.5) == (2, 0, 1)
    assert ladder_page.count(scored, 0.1) == (3, 2, 0)
    assert 0.42 < ladder_page.cheapest(scored, miss_cost=0.5) <= 0.58
    assert 0.05 < ladder_page.cheapest(scored, miss_cost=10) <= 0.22


def test_cross_entropy_over_two_outputs_is_bce_at_twice_the_rate(rows: tuple[Tensor, Tensor]) -> None:
    table = Rows(*rows)
    two = ladder_page.descend("cross-entropy", "SGD", 0.1, table, table, epochs=20)
    one = ladder_page.descend("BCE", "SGD", 0.2, table, table, epochs=20)
    assert torch.allclose(two[-1], one[-1], atol=1e-4)


# --- the example -------------------------------------------------------------------------------------------


def test_it_learns_nearly_all_that_can_be_learnt(tiny: dict[str, Any]) -> None:
    best = load_table("synthetic", 0).best_accuracy
    assert best is not None
    assert tiny["metrics"]["accuracy"] > best - 0.04
    assert tiny["metrics"].keys() >= {
        "accuracy", "roc_auc", "log_loss", "calibration_error", "n", "cv_accuracy", "cv_accuracy_std",
        "cv_reference_accuracy", "cv_difference", "cv_difference_low", "cv_difference_high",
    }  # fmt: skip


def test_the_report_shows_every_rung_and_every_question(tiny: dict[str, Any]) -> None:
    page = (Path(tiny["run"]) / "report.html").read_text()
    for text in (
        "Five rungs", "The gradient on paper", "Rung 1", "Rung 5", "0, bit for bit", "optimizer.zero_grad()",
        "Full batch against mini-batches", "Decision threshold", "Losses and optimisers", "cross-entropy, Adam",
        "Cross-validation against scikit-learn", "Reliability",
    ):  # fmt: skip
        assert text in page, text
    assert "mathdefault" not in page


def test_what_a_rung_removes_is_told_without_regard_to_indentation_and_comments() -> None:
    before = ["for x in data:", "    step(x)  # once", "    old()"]
    after = ["for epoch in range(2):", "    for x in data:", "        step(x)", "        new()"]
    assert ladder_page.changes(before, after) == [
        ("+", "for epoch in range(2):"),
        (" ", "    for x in data:"),
        (" ", "        step(x)"),
        ("−", "    old()"),
        ("+", "        new()"),
    ]


def test_a_raw_row_in_a_class_out(tiny: dict[str, Any]) -> None:
    saved = artifact.load(Path(tiny["run"]))
    predictor = ladder.load(saved)
    data = load_table("synthetic", 0)
    decoded = [predictor.input.decode(json.dumps(row).encode()) for row in data.test.features.tolist()]
    answers = predictor.predict(decoded)
    right = [a["class"] == data.classes[t] for a, t in zip(answers, data.test.targets.tolist(), strict=True)]
    assert sum(right) / len(right) == pytest.approx(tiny["metrics"]["accuracy"])
    assert all(sum(a["probabilities"].values()) == pytest.approx(1, abs=1e-5) for a in answers)
    assert all(max(a["probabilities"], key=a["probabilities"].get) == a["class"] for a in answers)
    with pytest.raises(UserError):
        predictor.input.decode(b"[1, 2, 3]")
    with pytest.raises(UserError):
        predictor.input.decode(json.dumps([float("nan")] * 8).encode())


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"batch_size": 5000}, "--batch-size 5000 is larger than the training data"),
        ({"data": "iris"}, "--data iris: unknown"),
        ({"folds": 1}, "--folds is 1; it must be at least 2"),
        ({"miss_cost": 0.0}, "--miss-cost is 0.0; it must be above 0"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing(said: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        execute(ladder.example, Options(tiny=True, out=str(tmp_path / "runs"), quiet=True), said)
    assert not list(tmp_path.iterdir())


def test_importing_it_loads_no_heavy_library() -> None:
    heavy = "[m for m in ('sklearn', 'scipy') if m in sys.modules]"
    code = f"import research.ladder.__main__, sys, json; print(json.dumps({heavy}))"
    process = python("-c", code)
    assert process.stdout.strip() == "[]", process.stderr
