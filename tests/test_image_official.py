"""Official sets: tiny files in the exact official format, downloads that work, fail or arrive damaged."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets

from common.data.images import folders as image_folders
from common.data.images import official as image_official
from common.data.images.sources import load_images
from common.errors import UserError
from tests.image_helpers import (
    NOWHERE,
    Server,
    assert_disjoint,
    counts,
    in_memory,
    numbered,
    picture,
    pictures,
    refused,
    tgz,
    tree,
)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def idx(values: np.ndarray[Any, Any]) -> bytes:
    dims = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return (0x800 + values.ndim).to_bytes(4, "big") + dims + values.tobytes()


def mnist_files() -> dict[str, bytes]:
    content = {}
    images = numbered(280, 28, 28)
    for part, pixels in (("train", images[:240]), ("t10k", images[240:])):
        content[f"{part}-images-idx3-ubyte"] = idx(pixels)
        content[f"{part}-labels-idx1-ubyte"] = idx((np.arange(len(pixels)) % 10).astype(np.uint8))
    return content


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Tiny files in the official format, taken for the official ones."""
    files = mnist_files()
    packed = {name + ".gz": gzip.compress(data) for name, data in files.items()}
    monkeypatch.setattr(image_official, "COUNTS", {"train": 240, "t10k": 40})
    monkeypatch.setattr(image_official, "IDX_MD5", {"MNIST": {n: hashlib.md5(d).hexdigest() for n, d in files.items()}})
    for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(kind, "resources", [(n, hashlib.md5(d).hexdigest()) for n, d in packed.items()])
        monkeypatch.setattr(kind, "mirrors", [NOWHERE])
    return files | packed


def write(folder: Path, files: dict[str, bytes], packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if name.endswith(".gz") == packed:
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "mnist/MNIST/raw", "raw", "."])
def test_mnist_is_found_where_it_lies(small_mnist: dict[str, bytes], tmp_path: Path, place: str, packed: bool) -> None:
    write(tmp_path / place, small_mnist, packed)
    before = tree(tmp_path)
    data = load_images("mnist", data_dir=tmp_path)
    assert counts(data) == [[22] * 10, [2] * 10, [4] * 10]
    assert torch.equal(in_memory(data.test)[:, 0], torch.from_numpy(numbered(280, 28, 28)[240:]))
    assert data.test.targets[:12].tolist() == [*range(10), 0, 1]
    assert_disjoint(pictures(data))
    assert "220 train / 20 valid / 40 test" in data.provenance
    assert tree(tmp_path) == before


def test_fashion_mnist_has_names(small_mnist: dict[str, bytes], tmp_path: Path) -> None:
    write(tmp_path / "FashionMNIST/raw", small_mnist)
    data = load_images("fashion-mnist", data_dir=tmp_path, size=32, channels=3)
    assert data.classes == torchvision.datasets.FashionMNIST.classes
    assert data.train[0].shape == (3, 32, 32)
    assert "checked by their lengths" in data.provenance
    write(tmp_path / "packed", small_mnist, packed=True)
    assert "official test" in load_images("fashion-mnist", data_dir=tmp_path / "packed").provenance
    again = tmp_path / "packed" / "t10k-labels-idx1-ubyte.gz"
    again.write_bytes(gzip.compress(gzip.decompress(again.read_bytes()), 1))  # packed by somebody else
    assert "checked by their lengths" in load_images("fashion-mnist", data_dir=tmp_path / "packed").provenance


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", [lambda d: d[:-100], lambda d: d[:30] + b"x" + d[31:], lambda d: b""])
def test_damaged_mnist_files_are_never_taken_for_whole(
    small_mnist: dict[str, bytes], tmp_path: Path, packed: bool, damage: Callable[[bytes], bytes]
) -> None:
    write(tmp_path, small_mnist, packed)
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * packed)
    path.write_bytes(damage(path.read_bytes()))
    refused("mnist", rf"{path.name} is damaged or incomplete.*\nWith another --data-dir", data_dir=tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_consistent_files_that_are_not_the_official_ones_are_taken_and_said(
    small_mnist: dict[str, bytes], tmp_path: Path, name: str, packed: bool
) -> None:
    """A subset that somebody made, such as the first hundred images."""
    labels = (np.arange(100) % 10).astype(np.uint8)
    subset = {"train-images-idx3-ubyte": idx(numbered(100, 28, 28)), "train-labels-idx1-ubyte": idx(labels)}
    files = {n: d for n, d in small_mnist.items() if not n.endswith(".gz")} | subset
    write(tmp_path, {n + ".gz" * packed: gzip.compress(d) if packed else d for n, d in files.items()}, packed)
    data = load_images(name, data_dir=tmp_path)
    assert len(data.train) + len(data.valid) == 100
    assert "not the official files: they hold other numbers of images" in data.provenance
    assert "official test" not in data.provenance


def test_labels_that_do_not_fit_their_images_are_named(small_mnist: dict[str, bytes], tmp_path: Path) -> None:
    write(tmp_path, small_mnist)
    for labels, text in ((np.zeros(99), "has 99 labels up to 0 for 240 images"), (np.full(240, 11), "up to 11")):
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
        refused("fashion-mnist", text, data_dir=tmp_path)


def test_incomplete_fashion_mnist_is_found_without_a_checksum(small_mnist: dict[str, bytes], tmp_path: Path) -> None:
    write(tmp_path, small_mnist)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    refused("fashion-mnist", "t10k-labels-idx1-ubyte is damaged or incomplete", data_dir=tmp_path)


def test_mnist_is_downloaded_once_and_whole(
    small_mnist: dict[str, bytes], tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(server.folder, small_mnist, packed=True)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [NOWHERE, server.address])  # the second mirror has it
    data = load_images("mnist", data_dir=tmp_path / "data")
    assert len(data.train) == 220
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["MNIST"]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [NOWHERE])
    assert torch.equal(in_memory(load_images("mnist", data_dir=tmp_path / "data").test), in_memory(data.test))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "cub200"])
def test_offline_says_what_was_looked_for_where_and_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [NOWHERE])
    for cifar in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(cifar, "url", NOWHERE + cifar.filename)
    monkeypatch.setattr(image_folders, "CUB_URL", NOWHERE + "CUB_200_2011.tgz")
    folder = tmp_path / "new" / "data"
    with pytest.raises(UserError) as caught:
        load_images(name, data_dir=folder)
    files = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "cub200": "CUB_200_2011"}
    assert files.get(name, "train-images-idx3-ubyte") in caught.value.what
    assert str(folder) in caught.value.what
    assert "refused" in caught.value.what
    assert NOWHERE in caught.value.hint
    assert "--data-dir" in caught.value.hint
    assert "\n" not in caught.value.what + caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_a_wrong_checksum_leaves_nothing(
    small_mnist: dict[str, bytes], tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(server.folder, {name: data[:-1] for name, data in small_mnist.items()}, packed=True)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server.address])
    (tmp_path / "other").touch()
    refused("mnist", "download failed: .*corrupted", data_dir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """Files of both sets by name of their folder, in the official format and taken for the official ones."""
    found = {}
    for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        ten = kind is torchvision.datasets.CIFAR10
        key = "labels" if ten else "fine_labels"
        files = {}
        for i, name in enumerate([entry[0] for entry in kind.train_list + kind.test_list]):
            pixels = numbered(300, 3 * 32 * 32)[40 * i : 40 * i + 40]
            files[name] = pickle.dumps({"data": pixels, key: [n % 4 for n in range(40)]}, protocol=2)
        files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: ["cat", "dog", "ship", "frog"]}, protocol=2)
        md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
        archive = tgz(kind.base_folder, files)
        monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name, _ in kind.train_list])
        monkeypatch.setattr(kind, "test_list", [[name, md5[name]] for name, _ in kind.test_list])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive).hexdigest())
        monkeypatch.setattr(kind, "url", NOWHERE + kind.filename)
        found[kind.base_folder] = files
        found[kind.filename] = {kind.filename: archive}
    return found


@pytest.mark.parametrize(
    ("name", "base", "size"), [("cifar10", "cifar-10-batches-py", 200), ("cifar100", "cifar-100-python", 40)]
)
def test_cifar_is_found_by_its_folder_or_the_one_above(
    small_cifar: dict[str, dict[str, bytes]], tmp_path: Path, name: str, base: str, size: int
) -> None:
    write(tmp_path / base, small_cifar[base])
    for data_dir in (tmp_path, tmp_path / base):
        data = load_images(name, data_dir=data_dir)
        assert (len(data.train), len(data.valid), len(data.test)) == (size * 9 // 10, size // 10, 40)
        assert data.classes == ["cat", "dog", "ship", "frog"]
        first = numbered(300, 3, 32, 32)[size]
        assert torch.equal(data.test[0], torch.from_numpy(first))


def test_cifar_from_an_archive_that_was_fetched_by_hand(
    small_cifar: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    name = "cifar-10-python.tar.gz"
    (tmp_path / name).write_bytes(small_cifar[name][name])
    assert len(load_images("cifar10", data_dir=tmp_path).train) == 180
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar-10-batches-py", name]


def test_damaged_cifar_is_refused_and_never_unpickled(small_cifar: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    write(tmp_path / "cifar-10-batches-py", small_cifar["cifar-10-batches-py"])
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Trap()))
    refused("cifar10", "cifar-10-batches-py is damaged or incomplete", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


# CUB-200-2011


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Three of the species, 20 photos each, half of them training images."""
    root = tmp_path / "CUB_200_2011"
    lists: dict[str, list[str]] = {"classes": [], "images": [], "image_class_labels": [], "train_test_split": []}
    number = 0
    for label, name in ((13, "013.Bobolink"), (47, "047.American_Goldfinch"), (120, "120.Fox_Sparrow")):
        (root / "images" / name).mkdir(parents=True)
        lists["classes"].append(f"{label} {name}")
        for i in range(20):
            number += 1
            picture(number).save(root / "images" / name / f"{i}.png")
            lists["images"].append(f"{number} {name}/{i}.png")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {i % 2}")
    for key, lines in lists.items():
        (root / f"{key}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_birds_keep_the_official_split_and_lose_the_numbers(birds: Path) -> None:
    data = load_images("cub200", data_dir=birds.parent, size=16)
    assert data.classes == ["Bobolink", "American_Goldfinch", "Fox_Sparrow"]
    assert counts(data)[2] == [10, 10, 10]
    assert [len(data.train), len(data.valid)] == [25, 5]  # 15 % of 30
    assert torch.equal(data.test[10], data.image.decode(birds / "images/047.American_Goldfinch/0.png"))
    assert [path.stem for path in data.test.source][:3] == ["0", "2", "4"]
    assert counts(load_images("cub200", data_dir=birds, size=16)) == counts(data)


def test_birds_may_lack_whole_species_but_no_single_photo(birds: Path) -> None:
    folder = birds / "images/047.American_Goldfinch"
    folder.rename(birds.parent / "elsewhere")
    data = load_images("cub200", data_dir=birds, size=16)
    assert data.classes == ["Bobolink", "Fox_Sparrow"]
    assert data.train.targets.unique().tolist() == [0, 1]
    (birds / "images/013.Bobolink/3.png").unlink()
    refused("cub200", r"incomplete: 1 images are missing, such as .*Bobolink/3\.png", data_dir=birds)


@pytest.mark.parametrize("name", ["classes", "image_class_labels", "train_test_split"])
def test_lists_of_birds_that_are_missing_or_cut_off_are_named(birds: Path, name: str) -> None:
    path = birds / f"{name}.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    refused("cub200", "lists in .* disagree", data_dir=birds)
    path.unlink()
    refused("cub200", rf"{name}\.txt is missing", data_dir=birds)


def test_birds_are_downloaded_whole(
    birds: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: data for name, data in tree(birds).items() if (birds / name).is_file()}
    archive = tgz("CUB_200_2011", files)
    (server.folder / "CUB_200_2011.tgz").write_bytes(archive)
    monkeypatch.setattr(image_folders, "CUB_URL", server.address + "CUB_200_2011.tgz")
    refused("cub200", "download failed: .*corrupted", data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(image_folders, "CUB_MD5", hashlib.md5(archive).hexdigest())
    assert len(load_images("cub200", data_dir=tmp_path / "data", size=16).test) == 30
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["CUB_200_2011"]
