"""Class folders of the user's own: every layout, and everything that can be wrong with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.data.images import splits as image_data
from common.data.images.sources import load_images
from common.data.images.splits import ImageData
from tests.image_helpers import (
    assert_disjoint,
    counts,
    in_memory,
    picture,
    refused,
    tree,
)


def fill(folder: Path, classes: dict[str, int], start: int = 0) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            suffix = (".png", ".JPG", ".bmp", ".webp", ".gif", ".tiff")[i % 6]
            picture(start, (10 + i % 5, 14)).save(folder / name / f"{i}{suffix}")
            start += 1


def load_folder(path: Path, **options: Any) -> ImageData:
    return load_images(f"folder:{path}", **{"size": 16, **options})


def names(split: image_data.Images) -> set[Path]:
    assert not isinstance(split.source, Tensor)
    return set(split.source)


def test_class_folders_are_split_70_15_15(tmp_path: Path) -> None:
    fill(tmp_path, {"dog": 20, "cat": 40})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat/.thumbnail.png").write_bytes(b"not an image")
    (tmp_path / "cat/notes.txt").write_text("not an image")
    before = tree(tmp_path)
    data = load_folder(tmp_path)
    assert data.classes == ["cat", "dog"]
    assert counts(data) == [[28, 14], [6, 3], [6, 3]]
    assert data.train[0].shape == (3, 16, 16)
    assert not names(data.train) & names(data.valid)
    assert len(names(data.train) | names(data.valid) | names(data.test)) == 60
    assert names(load_folder(tmp_path, seed=0).test) == names(data.test) != names(load_folder(tmp_path, seed=1).test)
    assert load_folder(tmp_path, channels=1).train[0].shape == (1, 16, 16)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (["train", "val", "test"], [40, 10, 10]),
        (["train", "validation", "test"], [40, 10, 10]),
        (["Train", "test"], [34, 6, 10]),
        (["train", "valid"], [34, 6, 10]),
        (["train"], [28, 6, 6]),
    ],
)
def test_split_folders_are_used_as_given(tmp_path: Path, parts: list[str], sizes: list[int]) -> None:
    for i, part in enumerate(parts):
        fill(tmp_path / part, {"a": 20, "b": 20} if i == 0 else {"a": 5, "b": 5}, start=100 * i)
    data = load_folder(tmp_path)
    assert [len(data.train), len(data.valid), len(data.test)] == sizes
    assert {path.parts[-3] for path in names(data.test)} == {parts[-1]}
    assert not names(data.train) & names(data.valid)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 10, "bus": 10})
    assert load_folder(tmp_path).classes == ["bus", "train"]


def test_a_test_folder_may_lack_a_class_but_not_have_a_new_one(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 10, "dog": 10})
    fill(tmp_path / "test", {"dog": 3}, start=50)
    data = load_folder(tmp_path)
    assert data.test.targets.tolist() == [1, 1, 1]
    fill(tmp_path / "test", {"dogs": 1}, start=60)
    refused(f"folder:{tmp_path}", "test has the class dogs, which train has not.\nDid you mean dog?")


def test_identical_files_stay_on_one_side_of_a_drawn_split(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 12, "b": 12})
    for name in ("a", "b"):  # six copies in one class, and one in the other
        original = (tmp_path / name / "0.png").read_bytes()
        for i in range(6):
            (tmp_path / name / f"copy{i}.png").write_bytes(original)
    (tmp_path / "b" / "other.png").write_bytes((tmp_path / "a/0.png").read_bytes())
    for seed in range(4):
        data = load_folder(tmp_path, seed=seed)
        assert_disjoint([{p.read_bytes() for p in names(split)} for split in (data.train, data.valid, data.test)])


def test_the_path_of_a_folder_may_be_relative_to_the_data_folder(tmp_path: Path) -> None:
    fill(tmp_path / "pets", {"a": 10, "b": 10})
    assert load_images("folder:pets", data_dir=tmp_path).size == 64
    assert load_images("folder:", data_dir=tmp_path / "pets").classes == ["a", "b"]


def test_images_that_do_not_fit_in_memory_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"a": 10, "b": 10})
    whole = load_folder(tmp_path)
    monkeypatch.setattr(image_data, "MEMORY_LIMIT", 1000)
    lazy = load_folder(tmp_path)
    assert lazy.train.in_memory() is None
    assert torch.equal(torch.stack([lazy.train[i] for i in range(len(lazy.train))]), in_memory(whole.train))
    assert (lazy.mean, lazy.std) == (whole.mean, whole.std)
    (tmp_path / "b" / "text.png").write_text("not an image")
    refused(f"folder:{tmp_path}", r"b/text\.png is not an image")


def nothing(path: Path) -> None:
    """An empty folder."""


def missing(path: Path) -> None:
    path.rmdir()


def loose(path: Path) -> None:
    picture(0).save(path / "a.png")


def one_class(path: Path) -> None:
    fill(path, {"cat": 5})


def empty_class(path: Path) -> None:
    fill(path, {"cat": 5, "dog": 5, "eel": 0})


def too_few(path: Path) -> None:
    fill(path, {"cat": 1, "dog": 1})


def truncated(path: Path) -> None:
    fill(path, {"cat": 10, "dog": 10})
    data = io.BytesIO()
    picture(0, (200, 200)).save(data, "JPEG")
    (path / "dog/cut.jpg").write_bytes(data.getvalue()[:-2000])


def unlabelled_test(path: Path) -> None:
    fill(path / "train", {"cat": 10, "dog": 10})
    (path / "test").mkdir()
    picture(0).save(path / "test/a.png")


def two_validations(path: Path) -> None:
    for part in ("train", "val", "valid"):
        fill(path / part, {"cat": 3, "dog": 3})


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (missing, "photos does not exist or is not a folder"),
        (nothing, "photos has no images in class folders.\nExpected is PATH/CLASS/IMAGE"),
        (loose, "photos has no images in class folders"),
        (one_class, "photos has only one class, cat"),
        (empty_class, "class folder .*/eel has no images"),
        (too_few, "photos has 2 training images, too few"),
        (truncated, r"dog/cut\.jpg is damaged"),
        (unlabelled_test, "photos/test has no class folders"),
        (two_validations, "photos has both val and valid"),
    ],
)
def test_a_wrong_folder_is_named_and_left_as_it_is(tmp_path: Path, build: Callable[[Path], None], match: str) -> None:
    path = tmp_path / "photos"
    path.mkdir()
    build(path)
    before = tree(tmp_path)
    refused(f"folder:{path}", match)
    assert tree(tmp_path) == before
