"""Tables: what they hold, how they are split, and what is known about the made-up one."""

from __future__ import annotations

import pytest
import torch

from common.data.tables import TABLES, Standardize, load_table
from common.errors import UserError
from tests.helpers import same


def test_breast_cancer_is_scikit_learns_table() -> None:
    from sklearn.datasets import load_breast_cancer

    reference = load_breast_cancer()
    data = load_table("breast-cancer", seed=0)
    assert data.classes == ["malignant", "benign"]
    assert data.feature_names == list(reference.feature_names)
    rows = torch.cat([data.whole.features, data.whole.targets[:, None]], dim=1)
    expected = torch.from_numpy(reference.data).float()
    expected = torch.cat([expected, torch.from_numpy(reference.target)[:, None]], dim=1)
    # Every row once: the splits are disjoint and nothing is lost.
    assert sorted(rows.tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize("name", TABLES)
def test_splits_keep_the_classes_in_proportion_and_follow_the_seed(name: str) -> None:
    data, again, other = (load_table(name, seed) for seed in (3, 3, 4))
    share = data.whole.targets.float().mean().item()
    for split, part in ((data.train, 0.6), (data.valid, 0.2), (data.test, 0.2)):
        assert len(split) == pytest.approx(part * len(data.whole), abs=1)
        assert split.targets.float().mean().item() == pytest.approx(share, abs=0.01)
        assert (split.features.dtype, split.targets.dtype) == (torch.float32, torch.int64)
        assert split.features.shape == (len(split), len(data.feature_names))
        assert torch.equal(split[2], split.in_memory()[2])
    assert same(data.test.features, again.test.features)
    assert not same(data.test.features, other.test.features)
    counts = f"{len(data.train)} train / {len(data.valid)} valid / {len(data.test)} test"
    assert counts in data.provenance


def test_nothing_beats_the_true_rule_of_made_up_rows_by_more_than_chance() -> None:
    from sklearn.linear_model import LogisticRegression

    best, reached = [], []
    for seed in range(5):
        data = load_table("synthetic", seed)
        standardize = Standardize.of(data.train.features)
        model = LogisticRegression().fit(standardize(data.train.features).numpy(), data.train.targets.numpy())
        reached.append(model.score(standardize(data.test.features).numpy(), data.test.targets.numpy()))
        assert data.best_accuracy is not None
        best.append(data.best_accuracy)
    mean_best, mean_reached = sum(best) / 5, sum(reached) / 5
    assert 0.75 < mean_best < 0.95  # learnable, and no model is always right
    assert mean_best - 0.03 < mean_reached < mean_best + 0.02


def test_standardised_columns_have_mean_0_and_deviation_1_and_a_constant_one_stays_finite() -> None:
    features = torch.randn(200, 4) * torch.tensor([1e-3, 1.0, 1e3, 0.0]) + torch.tensor([0.1, -5.0, 1e3, 7.0])
    standardize = Standardize.of(features)
    z = standardize(features)
    assert torch.allclose(z.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(z[:, :3].std(0, correction=0), torch.ones(3), atol=1e-4)
    assert torch.equal(z[:, 3], torch.zeros(200))
    copy = Standardize(torch.zeros(4), torch.ones(4))
    copy.load_state_dict(standardize.state_dict())  # they are part of the weights
    assert torch.equal(copy(features), z)


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(UserError, match="There is no table 'brest-cancer'") as error:
        load_table("brest-cancer", 0)
    assert "breast-cancer" in str(error.value)
