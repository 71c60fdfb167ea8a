"""Embedded, made-up and array sources, and the split that all sources share."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.data.images import official as image_official
from common.data.images.sources import SOURCES, load_images
from common.data.splits import stratified
from common.errors import UserError
from common.machine.device import available_memory
from tests.image_helpers import (
    assert_disjoint,
    counts,
    in_memory,
    numbered,
    pictures,
    refused,
)


def test_digits_are_enlarged_and_split_without_overlap() -> None:
    data = load_images("digits")
    assert [len(data.train), len(data.valid), len(data.test)] == [1258, 180, 359]
    assert data.train[0].shape == (1, 28, 28)
    assert data.classes == list("0123456789")
    assert min(counts(data)[1]) >= 17
    assert_disjoint(pictures(data))
    assert data.best_accuracy is None


def test_the_seed_decides_the_split() -> None:
    first, again, other = (load_images("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(in_memory(first.test), in_memory(again.test))
    assert pictures(first)[2] != pictures(other)[2]


def test_sources_leave_the_global_random_state_alone() -> None:
    np.random.seed(0)
    expected, state = np.random.rand(), torch.get_rng_state()
    np.random.seed(0)
    load_images("synthetic")
    load_images("digits", limit=50)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.rand() == expected


def test_mean_and_std_are_those_of_the_training_split() -> None:
    data = load_images("synthetic", channels=3)
    values = in_memory(data.train).double() / 255
    assert data.mean == pytest.approx(tuple(values.mean((0, 2, 3)).tolist()), abs=1e-6)
    assert data.std == pytest.approx(tuple(values.std((0, 2, 3), correction=0).tolist()), abs=1e-6)
    normalized = data.image.normalize(in_memory(data.train))
    assert normalized.mean().abs() < 1e-4
    assert (normalized.std() - 1).abs() < 1e-3


def test_synthetic_has_the_best_score_it_says_and_a_tiny_network_reaches_it() -> None:
    data = load_images("synthetic")
    assert data.best_accuracy == 0.95
    assert "0.950" in data.provenance
    x, y = data.image.normalize(in_memory(data.train)), data.train.targets
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for inside, outside in ((1, 16), (16, 32), (32, 64)):
            layers += [torch.nn.Conv2d(inside, outside, 3, 2, 1), torch.nn.BatchNorm2d(outside), torch.nn.ReLU()]
        net = torch.nn.Sequential(*layers, torch.nn.AdaptiveMaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, 10))
        optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
        for _ in range(6):
            for batch in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x[batch]), y[batch], label_smoothing=0.1).backward()
                optimizer.step()
    predicted = net.eval()(data.image.normalize(in_memory(data.test))).argmax(1)
    accuracy = (predicted == data.test.targets).float().mean().item()
    assert 0.95 - 0.05 <= accuracy <= 0.95 + 1e-6


def test_channels_and_size_are_as_asked_for() -> None:
    grey, colour = load_images("digits", size=32), load_images("digits", size=32, channels=3)
    assert colour.train[5].shape == (3, 32, 32)
    assert torch.equal(colour.train[5], grey.train[5].expand(3, 32, 32))
    assert len(colour.mean) == 3


def test_a_limit_keeps_that_many_training_images_of_all_classes() -> None:
    data = load_images("digits", limit=100)
    whole = load_images("digits")
    assert counts(data)[0] == pytest.approx([10] * 10, abs=1)
    assert len(data.train) == 100
    assert "limited to 100" in data.provenance
    assert pictures(data)[0] < pictures(whole)[0]
    assert counts(data)[1:] == counts(whole)[1:]
    refused("digits", "limit of 9 .* 10 classes", limit=9)


@pytest.mark.parametrize(
    ("name", "match", "options"),
    [
        ("mnsit", "Unknown data 'mnsit'.\nDid you mean mnist?", {}),
        ("imagenet21k", "Choose one of: digits, synthetic", {}),
        ("folder", "folder:PATH", {}),
        ("folder:", "Unknown data 'folder:'", {}),
        ("tests", "say folder:tests", {}),
        ("mine.npz", r"say npz:mine\.npz", {}),
        ("digits", "size of 4 pixels", {"size": 4}),
        ("digits", "can't have 2 channels", {"channels": 2}),
        ("digits", "limit of 0", {"limit": 0}),
    ],
)
def test_wrong_arguments_are_named(name: str, match: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=match):
        load_images(name, **options)


def test_every_source_has_a_line_of_help() -> None:
    assert all(SOURCES.values())
    assert set(image_official.OFFICIAL) < set(SOURCES)


# The split itself


def test_a_stratified_split_is_exact_in_total_and_even_in_each_class() -> None:
    targets = torch.arange(6000) % 7
    parts = stratified(targets, (0.7, 0.1, 0.2), 0)
    assert [len(part) for part in parts] == [4200, 600, 1200]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(6000))
    assert all(targets[part].bincount().max() - targets[part].bincount().min() <= 2 for part in parts)


def test_available_memory_is_plausible() -> None:
    assert 2**20 < available_memory() < 2**50


def test_rare_classes_reach_every_part_when_they_can() -> None:
    targets = torch.tensor([0] * 50 + [1] * 3 + [2] * 1)
    parts = stratified(targets, (0.7, 0.15, 0.15), 0)
    assert [(targets[part] == 1).sum().item() for part in parts] == [1, 1, 1]
    assert [(targets[part] == 2).sum().item() for part in parts] == [1, 0, 0]


# Arrays


def arrays(**changes: Any) -> dict[str, Any]:
    base = {
        "x_train": numbered(100, 8, 8),
        "y_train": np.arange(100) % 4,
        "x_test": numbered(120, 8, 8)[100:],
        "y_test": np.arange(20) % 4,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def save(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(**changes))
    return f"npz:{path}"


def test_arrays_get_a_validation_split_and_are_enlarged(tmp_path: Path) -> None:
    data = load_images(save(tmp_path, classes=np.array(["ant", "bee", "cow", "dog"])))
    assert counts(data)[1:] == [pytest.approx([2.5] * 4, abs=0.5), [5] * 4]
    assert (len(data.train), data.size, data.channels) == (90, 28, 1)
    assert data.classes == ["ant", "bee", "cow", "dog"]
    assert_disjoint(pictures(data))
    assert load_images(save(tmp_path)).classes == list("0123")


def test_arrays_with_a_validation_split_keep_it(tmp_path: Path) -> None:
    extra = {"x_valid": numbered(130, 8, 8)[120:], "y_valid": np.arange(10) % 4}
    data = load_images(save(tmp_path, **extra), size=8)
    assert (len(data.train), len(data.valid)) == (100, 10)
    assert torch.equal(in_memory(data.valid)[:, 0], torch.from_numpy(extra["x_valid"]))
    refused(save(tmp_path, x_valid=extra["x_valid"]), "has no array y_valid")


def test_all_layouts_and_kinds_of_numbers_mean_the_same(tmp_path: Path) -> None:
    x = numbered(120, 8, 8, 3)
    seen = []
    for convert in (
        lambda a: a,
        lambda a: a.transpose(0, 3, 1, 2),
        lambda a: a / 255,
        lambda a: (a / 255).astype(np.float32),
        lambda a: a.astype(np.int64),
    ):
        name = save(tmp_path, x_train=convert(x[:100]), x_test=convert(x[100:]), y_train=np.arange(100)[:, None] % 4)
        seen.append(in_memory(load_images(name, size=8).test))
    assert torch.equal(seen[0], torch.from_numpy(x[100:].transpose(0, 3, 1, 2).copy()))
    assert all(torch.equal(pixels, seen[0]) for pixels in seen)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y_test": None}, "has no array y_test, only x_test, x_train, y_train"),
        ({"x_train": numbered(100, 64)}, r"x_train in .* has the shape \[100, 64\].\nImages are \[N, H, W\]"),
        ({"x_test": numbered(20, 8, 8, 2)}, r"x_test in .* has the shape \[20, 8, 8, 2\]"),
        ({"x_test": numbered(0, 8, 8), "y_test": np.arange(0)}, r"x_test in .* has the shape \[0, 8, 8\]"),
        ({"y_train": np.arange(99) % 4}, r"y_train in .* has the shape \[99\], but x_train has 100 images"),
        ({"y_train": np.eye(4)[np.arange(100) % 4].astype(int)}, r"y_train in .* has the shape \[100, 4\]"),
        ({"y_test": np.arange(20)}, "y_test in .* has the label 19; y_train allows 0 to 3"),
        ({"y_train": np.arange(100) % 4 - 1}, "y_train in .* has the label -1"),
        ({"classes": np.array(["a", "b"])}, "y_train in .* has the label 3; classes allows 0 to 1"),
        ({"classes": np.array([["a", "b"]])}, r"classes in .* has the shape \[1, 2\]"),
        ({"y_train": (np.arange(100) % 4).astype(float)}, "y_train in .* holds float64, not integers"),
        ({"y_train": np.array(["cat", "dog"] * 50)}, "y_train in .* not integers"),
        ({"y_train": np.zeros(100, int), "y_test": np.zeros(20, int)}, "y_train in .* has only one class"),
        ({"x_train": numbered(100, 8, 8).astype(float)}, "x_train in .* has floats outside 0 to 1"),
        ({"x_train": np.full((100, 8, 8), np.nan)}, "x_train in .* holds 6,400 values that are NaN"),
        ({"x_train": numbered(100, 8, 8).astype(int) + 1}, "x_train in .* is not all integers in 0 to 255"),
        ({"x_train": np.full((100, 8, 8), "a")}, "x_train in .* is not all integers"),
        ({"classes": np.array(["a", None], dtype=object)}, "classes in .* holds pickled Python objects"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    refused(save(tmp_path, **changes), match)


def test_files_that_are_no_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    refused(f"npz:{path}", r"data\.npz does not exist")
    whole = Path(save(tmp_path).removeprefix("npz:")).read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:400] + b"xxxx" + whole[404:], pickle.dumps([1])):
        path.write_bytes(content)
        refused(f"npz:{path}", r"data\.npz is damaged or not a \.npz file")
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    refused(f"npz:{path}", r"damaged or not a \.npz file")
