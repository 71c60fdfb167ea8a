"""Augmentation: what each option does to pixels and labels, and that the random state decides everything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.augment import Augment

B, S = 64, 12


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (B, 3, S, S), generator=generator, dtype=torch.uint8)
    return x, torch.randint(0, 5, (B,), generator=generator)


def augment(x: Tensor, y: Tensor, seed: int = 0, **options: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return Augment(**options)(x, y)


def test_nothing_chosen_returns_the_very_input(batch: tuple[Tensor, Tensor]) -> None:
    x, y = Augment()(*batch)
    assert x is batch[0]
    assert y is batch[1]


def test_flip_mirrors_some_images_and_leaves_the_others(batch: tuple[Tensor, Tensor]) -> None:
    x, y = augment(*batch, flip=True)
    mirrored = (x == batch[0].flip(3)).flatten(1).all(1)
    same = (x == batch[0]).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 20 < mirrored.sum() < 44
    assert y is batch[1]


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_crop_moves_each_image_by_whole_pixels(batch: tuple[Tensor, Tensor], padding: str) -> None:
    x, _ = augment(*batch, crop=2, padding=padding)
    mode = "constant" if padding == "zeros" else "reflect"
    padded = F.pad(batch[0].float(), (2, 2, 2, 2), mode=mode).to(torch.uint8)
    found = []
    for i in range(B):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(x[i], padded[i, :, top : top + S, left : left + S])
        ]
        assert len(matches) == 1
        found += matches
    assert {top for top, _ in found} == {left for _, left in found} == set(range(5))


def ramp() -> Tensor:
    """64 images that brighten by 10 a pixel to the right, and not downwards."""
    return (10 * torch.arange(S)).expand(B, 1, S, S).to(torch.uint8).contiguous()


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness per pixel rightwards and downwards, in the middle of each image, where no padding reaches."""
    middle = x[:, 0, 3:9, 3:9].float()
    return (middle[:, :, -1] - middle[:, :, 0]).mean(1) / 5, (middle[:, -1] - middle[:, 0]).mean(1) / 5


def test_rotation_turns_each_image_by_an_angle_of_its_own_within_the_range() -> None:
    x, _ = augment(ramp(), torch.zeros(B), rotate=20)
    right, down = slopes(x)
    degrees = torch.atan2(down, right).rad2deg()
    torch.testing.assert_close(torch.hypot(right, down), torch.full((B,), 10.0), atol=0.3, rtol=0)
    assert degrees.abs().max() < 21
    assert degrees.min() < -10
    assert degrees.max() > 10


def test_zoom_looks_at_a_part_of_the_area_and_never_outside() -> None:
    x, _ = augment(ramp(), torch.zeros(B), zoom=0.5)
    right, down = slopes(x)
    assert (right > 10 * math.sqrt(0.5) - 0.2).all()
    assert (right < 10.2).all()
    assert right.min() < 8
    assert (down == 0).all()
    bright, _ = augment(torch.full((B, 1, S, S), 200, dtype=torch.uint8), torch.zeros(B), zoom=0.5)
    assert (bright[:, :, 1:-1, 1:-1] == 200).all()


def test_reflection_leaves_no_black_corners() -> None:
    grey = torch.full((B, 1, S, S), 200, dtype=torch.uint8)
    reflected, _ = augment(grey, torch.zeros(B), rotate=45, padding="reflect")
    black, _ = augment(grey, torch.zeros(B), rotate=45, padding="zeros")
    assert (reflected == 200).all()
    assert (black[:, :, 0, 0] == 0).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_treats_groups_of_a_batch_differently(batch: tuple[Tensor, Tensor], channels: int) -> None:
    same = batch[0][:1, :channels].expand(B, channels, S, S).contiguous()
    x, y = augment(same, batch[1], randaugment=15)
    assert x.dtype == torch.uint8
    assert x.shape == same.shape
    assert len(x.flatten(1).unique(dim=0)) > 4
    assert torch.equal(y, batch[1])


def test_mixup_mixes_pictures_and_labels_by_the_same_share(batch: tuple[Tensor, Tensor]) -> None:
    x, y = augment(*batch, mixup=1.0, classes=5)
    neighbour = batch[0].roll(1, 0).float()
    own = F.one_hot(batch[1], 5).float()
    share = ((x - neighbour) / (batch[0].float() - neighbour)).nanmedian()
    assert 0.01 < share < 0.99
    torch.testing.assert_close(x, share * batch[0] + (1 - share) * neighbour, atol=1e-2, rtol=0)
    torch.testing.assert_close(y, share * own + (1 - share) * own.roll(1, 0), atol=1e-4, rtol=0)


def test_cutmix_pastes_a_box_and_labels_it_by_its_area(batch: tuple[Tensor, Tensor]) -> None:
    x, y = augment(*batch, seed=1, cutmix=1.0, classes=5)
    pasted = (x != batch[0]).any(1).any(0)  # [S, S]
    assert 0 < pasted.sum() < S * S
    assert torch.equal(x[:, :, pasted], batch[0].roll(1, 0)[:, :, pasted])
    own, share = F.one_hot(batch[1], 5).float(), 1 - pasted.float().mean()
    torch.testing.assert_close(y, share * own + (1 - share) * own.roll(1, 0))


def test_mixup_and_cutmix_together_take_turns(batch: tuple[Tensor, Tensor]) -> None:
    mixed = [augment(*batch, seed=seed, mixup=1.0, cutmix=1.0, classes=5)[0] for seed in range(12)]
    whole = [bool((x == x.round()).all()) for x in mixed]  # pasted pixels stay whole numbers
    assert any(whole)
    assert not all(whole)


def test_the_random_state_decides_everything(batch: tuple[Tensor, Tensor]) -> None:
    options: dict[str, Any] = {"flip": True, "crop": 2, "rotate": 10.0, "zoom": 0.2, "randaugment": 9}
    options |= {"mixup": 0.4, "cutmix": 1.0, "classes": 5}
    before = batch[0].clone()
    first, again, other = (augment(*batch, seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(batch[0], before)  # what is kept in memory is not changed


@pytest.mark.parametrize(
    "options",
    [{"crop": -1}, {"zoom": 1.0}, {"randaugment": 31}, {"mixup": 0.2}, {"cutmix": 1.0, "classes": 1}, {"padding": "x"}],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop|classes|padding"):
        Augment(**options)
