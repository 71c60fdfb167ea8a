"""The measures of generated images: against closed forms, SciPy and a reference that follows the paper word by word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.images.sources import load_images
from common.errors import UserError
from generative import quality

CPU = torch.device("cpu")


def draw(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- Fréchet distance --------------------------------------------------------------------------------------


def with_moments(samples: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The samples, moved and stretched until their mean and covariance are exactly these."""
    centred = samples - samples.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centred.T))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians_with_diagonal_covariances_is_the_closed_form() -> None:
    means = torch.tensor([[0.0, 1.0, -2.0], [3.0, 1.0, -1.0]], dtype=torch.float64)
    stds = torch.tensor([[1.0, 2.0, 0.5], [2.0, 2.0, 3.0]], dtype=torch.float64)
    left, right = (with_moments(draw(n, 3, n), m, (s**2).diag()) for n, m, s in zip((50, 80), means, stds, strict=True))
    expected = (means[0] - means[1]).square().sum() + (stds[0] - stds[1]).square().sum()
    assert quality.frechet_distance(left, right) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_distance_equals_that_of_scipys_matrix_root() -> None:
    from scipy.linalg import sqrtm

    left = draw(300, 20, 0) @ draw(20, 20, 1)
    right = draw(200, 20, 2) @ draw(20, 20, 3) + 0.5
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (left, right)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    shift = np.square(left.numpy().mean(0) - right.numpy().mean(0)).sum()
    expected = shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert quality.frechet_distance(left, right) == pytest.approx(expected, rel=1e-8)
    assert quality.frechet_distance(right, left) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count", [100, 10])  # with 10 samples in 30 dimensions the covariance is singular
def test_frechet_distance_of_a_set_to_itself_is_zero(count: int) -> None:
    features = 100 * draw(count, 30, 0)
    assert quality.frechet_distance(features, features) == pytest.approx(0, abs=1e-7)
    dead = torch.cat([features, torch.zeros(count, 5, dtype=torch.float64)], dim=1)  # features that never fire
    assert quality.frechet_distance(dead, dead) == pytest.approx(0, abs=1e-7)


def test_frechet_distance_takes_float32_and_one_feature_and_refuses_what_has_no_covariance() -> None:
    line = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    assert quality.frechet_distance(line, line + 3) == pytest.approx(9)
    for left, right in ((line[:1], line), (line, line[:0]), (line, torch.zeros(4, 2))):
        with pytest.raises(ValueError, match="two sets of at least two samples are needed"):
            quality.frechet_distance(left, right)


# --- precision and recall ----------------------------------------------------------------------------------


def word_by_word(centres: Tensor, points: Tensor, k: int) -> float:
    """Kynkäänniemi et al. 2019, equation 1, sample by sample."""
    c, p = centres.numpy(), points.numpy()
    radii = []
    for i, centre in enumerate(c):
        others = sorted(float(np.linalg.norm(centre - other)) for j, other in enumerate(c) if j != i)
        radii.append(others[k - 1])
    hits = [any(np.linalg.norm(point - x) <= r for x, r in zip(c, radii, strict=True)) for point in p]
    return sum(hits) / len(p)


@pytest.mark.parametrize(("sizes", "k"), [((40, 40), 3), ((30, 50), 1), ((50, 25), 5)])
def test_precision_and_recall_equal_the_definition(sizes: tuple[int, int], k: int) -> None:
    real, fake = draw(sizes[0], 4, 0), 0.7 * draw(sizes[1], 4, 1) + 0.4
    expected = word_by_word(real, fake, k), word_by_word(fake, real, k)
    assert quality.precision_recall(real, fake, k) == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected[0] < 1
    assert 0.1 < expected[1] < 1


def test_precision_and_recall_at_their_ends() -> None:
    real = draw(600, 8, 0)
    assert quality.precision_recall(real, real) == (1, 1)
    assert quality.precision_recall(real, real + 1000) == (0, 0)
    assert quality.precision_recall(real + 1e4, real.flip(0) + 1e4) == (1, 1)
    narrow = real[:1] + 1e-3 * draw(600, 8, 1)  # all around one real sample: precise, and nothing else is reached
    precision, recall = quality.precision_recall(real, narrow)
    assert precision == 1
    assert recall < 0.01
    copies = real[:1].expand(600, -1)  # a generator that always gives the same real image
    assert quality.precision_recall(real, copies) == (1, pytest.approx(1 / 600))
    with pytest.raises(ValueError, match="more than 3 samples are needed"):
        quality.precision_recall(real[:3], real)


# --- modes -------------------------------------------------------------------------------------------------


def test_modes_count_what_is_often_and_confident_enough() -> None:
    classes = torch.tensor([0] * 80 + [1] * 16 + [2] * 4)  # of 5 classes: an even share is 20, a fifth of it 4
    sure = torch.full((100,), 0.9)
    assert quality.modes_covered(classes, sure, 5) == 3
    assert quality.modes_covered(classes[:-1], sure[:-1], 5) == 2  # 3 are less than 99 / 25
    unsure = sure.clone()
    unsure[80:96] = 0.4
    assert quality.modes_covered(classes, unsure, 5) == 2
    assert quality.modes_covered(torch.tensor([4]), torch.tensor([0.9]), 1000) == 1


def test_class_shift_is_the_total_variation() -> None:
    left, right = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1, 1, 1, 2, 2])
    assert quality.class_shift(left, right, 3) == pytest.approx((3 / 8 + 1 / 8 + 2 / 8) / 2)
    assert quality.class_shift(left, left, 3) == 0
    assert quality.class_shift(torch.tensor([0]), torch.tensor([2]), 3) == 1


# --- classifier --------------------------------------------------------------------------------------------


def test_the_classifier_is_good_the_same_for_every_seed_and_comes_back_from_its_bytes() -> None:
    data = load_images("synthetic", size=32, limit=240)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    classifier = quality.train_classifier(data, CPU)
    assert torch.equal(torch.get_rng_state(), before), "the training's own random numbers are not touched"
    seen = quality.look(classifier, data.test)
    assert (seen.classes == data.test.targets).double().mean() >= 0.8  # 0.95 is possible
    torch.manual_seed(2)
    again = quality.train_classifier(data, CPU)
    content = quality.to_bytes(classifier)
    assert quality.to_bytes(again) == content
    restored = quality.look(quality.from_bytes(content, data, CPU), data.test)
    assert torch.equal(restored.features, seen.features)
    pixels = data.test.in_memory()
    assert pixels is not None
    assert torch.equal(quality.look(classifier, pixels).features, seen.features)

    # What was measured is what the distances are for: noise is far, training images are near.
    noise = torch.randint(0, 256, pixels.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    near, far = (quality.look(classifier, images).features for images in (data.train, noise))
    assert 3 * quality.frechet_distance(near, seen.features) < quality.frechet_distance(far, seen.features)
    with pytest.raises(UserError, match=r"quality\.safetensors is damaged, or belongs to other data"):
        quality.from_bytes(content[:100], data, CPU)


def test_inception_without_weights_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error

    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"can't read https://download\.pytorch\.org/models/inception_v3") as error:
        quality.inception("imagenet", CPU)
    assert "--inception FILE" in error.value.hint


def test_inception_features_from_a_file(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "inception.pth")
    model = quality.inception(str(tmp_path / "inception.pth"), CPU)
    pixels = torch.randint(0, 256, (3, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    features = quality.inception_features(model, pixels, CPU)
    assert features.shape == (3, 2048)
    colours = quality.inception_features(model, pixels.expand(-1, 3, -1, -1), CPU)
    assert torch.allclose(features, colours)  # grey is three equal channels

    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("other.pth", "text.pth"):
        with pytest.raises(UserError, match=f"{name}: these are not torchvision's weights of Inception-v3"):
            quality.inception(str(tmp_path / name), CPU)
