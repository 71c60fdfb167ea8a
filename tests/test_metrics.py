"""The classification suite equals scikit-learn and scipy, and says what it could not measure."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as sk
from torch import Tensor

from common.errors import UserError
from common.kinds.labels import BINS, Labels
from common.metrics import Metrics, wilson


def sample(classes: int, seed: int, n: int = 400, skill: float = 1.5) -> tuple[Tensor, Tensor]:
    """logits [N, K] that know the targets [N] a little; the higher the class, the rarer it is."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, generator=generator) ** 2 * classes).long()
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), targets] += skill
    return logits, targets


def measure(logits: Tensor, targets: Tensor) -> Metrics:
    """The suite with every warning turned into an error, and its result through JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = Labels([f"c{i}" for i in range(logits.shape[1])]).measure(logits, targets)
    json.dumps([metrics.values, metrics.notes, metrics.details], allow_nan=False)
    return metrics


def probabilities(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(1).numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_values_equal_scikit_learn(classes: int, seed: int) -> None:
    logits, targets = sample(classes, seed)
    p, y, predicted = probabilities(logits), targets.numpy(), logits.argmax(1).numpy()
    expected = {
        "accuracy": sk.accuracy_score(y, predicted),
        "log_loss": sk.log_loss(y, p, labels=range(classes)),
        "roc_auc": sk.roc_auc_score(y, p[:, 1]) if classes == 2 else sk.roc_auc_score(y, p, multi_class="ovr"),
        "n": len(y),
    }
    for average in ("macro", "weighted"):
        expected[f"precision_{average}"] = sk.precision_score(y, predicted, average=average)
        expected[f"recall_{average}"] = sk.recall_score(y, predicted, average=average)
        expected[f"f1_{average}"] = sk.f1_score(y, predicted, average=average)
    if classes > 5:
        expected["top5_accuracy"] = sk.top_k_accuracy_score(y, p, k=5, labels=range(classes))
    interval = binomtest(int((y == predicted).sum()), len(y)).proportion_ci(0.95, "wilson")
    expected |= {"accuracy_low": interval.low, "accuracy_high": interval.high}

    metrics = measure(logits, targets)
    assert metrics.headline == "accuracy"
    assert metrics.notes == []
    assert set(metrics.values) == {*expected, "calibration_error"}
    for name, value in expected.items():
        assert metrics.values[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_details_equal_scikit_learn(seed: int) -> None:
    logits, targets = sample(4, seed)
    p, y, predicted = probabilities(logits), targets.numpy(), logits.argmax(1).numpy()
    details = measure(logits, targets).details
    assert details["confusion"] == sk.confusion_matrix(y, predicted).tolist()
    rows = [[row[k] for row in details["per_class"]] for k in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(rows, sk.precision_recall_fscore_support(y, predicted), atol=1e-6)
    for k in range(4):
        fpr, tpr, area = details["roc"][f"c{k}"]
        assert area == pytest.approx(sk.roc_auc_score(y == k, p[:, k]), abs=1e-6)
        assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
        assert sk.auc(fpr, tpr) == pytest.approx(area, abs=0.01)  # thinned for the figure


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_guo(seed: int) -> None:
    logits, targets = sample(5, seed)
    p = probabilities(logits)
    confidence, correct = p.max(1), p.argmax(1) == targets.numpy()
    expected = 0.0
    for i in range(BINS):
        inside = (confidence > i / BINS) & (confidence <= (i + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    metrics = measure(logits, targets)
    assert metrics.values["calibration_error"] == pytest.approx(expected, abs=1e-9)
    bins = metrics.details["reliability"]
    assert sum(b["count"] for b in bins) == len(targets)
    assert all(b["low"] < b["confidence"] <= b["high"] for b in bins if b["count"])


def test_calibration_error_of_known_cases() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    sure = torch.tensor([[50.0, 0.0]]).repeat(4, 1)
    assert measure(sure, targets).values["calibration_error"] == pytest.approx(0.25)  # 100 % sure, 75 % right
    calibrated = torch.tensor([[0.75, 0.25]]).log().repeat(4, 1)
    assert measure(calibrated, targets).values["calibration_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (17, 18), (991, 1000), (5, 10_000)])
def test_wilson_interval_equals_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_absent_class_is_said_and_left_out() -> None:
    logits, targets = sample(4, seed=0)
    logits[:, 2] -= 20  # neither among the targets nor predicted
    targets[targets == 2] = 1
    metrics = measure(logits, targets)
    p, y, predicted = probabilities(logits), targets.numpy(), logits.argmax(1).numpy()
    assert metrics.notes == [
        "class c2 is absent from the test set: left out of roc_auc, and of macro averages unless predicted"
    ]
    areas = [sk.roc_auc_score(y == k, p[:, k]) for k in (0, 1, 3)]
    assert metrics.values["roc_auc"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert metrics.values["f1_macro"] == pytest.approx(sk.f1_score(y, predicted, average="macro"), abs=1e-6)
    assert metrics.values["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=range(4)), abs=1e-6)
    assert metrics.details["per_class"][2] == {
        "class": "c2",
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }


def test_absent_class_that_is_predicted_counts_in_macro_averages_as_in_scikit_learn() -> None:
    logits, targets = sample(4, seed=0)
    targets[targets == 2] = 1
    predicted = logits.argmax(1).numpy()
    expected = sk.f1_score(targets.numpy(), predicted, average="macro", zero_division=0)
    assert 2 in predicted
    assert measure(logits, targets).values["f1_macro"] == pytest.approx(expected, abs=1e-6)


def test_class_never_predicted_is_said() -> None:
    logits, targets = sample(3, seed=0)
    logits[:, 1] = -20
    metrics = measure(logits, targets)
    assert metrics.notes == ["class c1 is never predicted: precision counts as 0"]
    expected = sk.precision_score(targets.numpy(), logits.argmax(1).numpy(), average="macro", zero_division=0)
    assert metrics.values["precision_macro"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_single_sample(classes: int) -> None:
    logits = torch.zeros(1, classes)
    logits[0, 1] = 3.0
    metrics = measure(logits, torch.tensor([1]))
    assert metrics.values["accuracy"] == 1
    assert metrics.values["n"] == 1
    assert metrics.values["log_loss"] == pytest.approx(-logits.double().log_softmax(1)[0, 1].item(), abs=1e-6)
    assert "roc_auc" not in metrics.values
    assert metrics.notes == ["only class c1 is in the test set: roc_auc is undefined and left out"]


def test_single_class_present() -> None:
    logits, _ = sample(3, seed=1)
    metrics = measure(logits, torch.zeros(len(logits), dtype=torch.long))
    assert "roc_auc" not in metrics.values
    assert metrics.values["accuracy"] == pytest.approx((logits.argmax(1) == 0).double().mean().item())
    assert any("only class c0" in note for note in metrics.notes)


def test_more_classes_than_a_small_set_has_samples() -> None:
    logits, targets = sample(200, seed=0, n=30)
    metrics = measure(logits, targets)
    assert metrics.values["n"] == 30
    assert " more are absent" in metrics.notes[0]
    assert len(metrics.notes[0]) < 200  # names a few, counts the others


def test_confident_logits_are_not_tied() -> None:
    """Beyond a difference of 17, softmax in float32 is exactly 1, and ROC AUC would see ties."""
    targets = torch.tensor([0, 0, 0, 1, 1, 1])
    logits = torch.stack([torch.zeros(6), torch.linspace(20, 30, 6)], dim=1)
    assert measure(logits, targets).values["roc_auc"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype(dtype: torch.dtype) -> None:
    logits, targets = sample(3, seed=0)
    low = logits.to(dtype)
    assert measure(low.requires_grad_(), targets).values == measure(low.detach().double(), targets).values


def test_masked_classes_may_be_minus_infinity() -> None:
    logits, targets = sample(3, seed=0)
    logits[targets != 2, 2] = -torch.inf
    assert measure(logits, targets).values["accuracy"] > 0.5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_diverged_logits_are_an_error(bad: float) -> None:
    logits, targets = sample(3, seed=0)
    logits[7, 1] = bad
    with pytest.raises(UserError, match="not numbers") as error:
        measure(logits, targets)
    assert "--lr" in error.value.hint


def test_bad_labels_are_an_error() -> None:
    logits, targets = sample(3, seed=0)
    for wrong in (3, -1):
        targets[5] = wrong
        with pytest.raises(UserError, match=rf"label {wrong} is outside 0\.\.2"):
            measure(logits, targets)
    with pytest.raises(UserError, match="empty"):
        measure(logits[:0], targets[:0])
    with pytest.raises(UserError, match="at least two classes"):
        Labels(["only"]).measure(logits, targets)
    with pytest.raises(UserError, match="same name: cat"):
        Labels(["cat", "dog", "cat"]).measure(logits, targets)
    with pytest.raises(ValueError, match="for 3 classes"):
        Labels(["a", "b", "c"]).measure(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
