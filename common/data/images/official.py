"""The official benchmark sets of torchvision: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, each file verified."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.images.arrays import shape_of
from common.data.images.download import fetch_archive, move_files, staging
from common.data.images.splits import ImageData, Images, assemble
from common.data.splits import stratified
from common.errors import UserError
from common.kinds.image import Drawing

# torchvision class, source, share of the training set that is kept for validation (5,000 images each)
OFFICIAL: dict[str, tuple[str, str, float]] = {
    "mnist": ("MNIST", "MNIST (LeCun, Cortes and Burges 1998; usually given as CC BY-SA 3.0)", 1 / 12),
    "fashion-mnist": ("FashionMNIST", "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017; MIT)", 1 / 12),
    "cifar10": ("CIFAR10", "CIFAR-10 (Krizhevsky 2009; no licence stated)", 1 / 10),
    "cifar100": ("CIFAR100", "CIFAR-100 (Krizhevsky 2009; no licence stated), fine labels", 1 / 10),
}
DRAWINGS = {"mnist": Drawing(grid=28, fill=20 / 28)}  # digits of 20 pixels in 28 (LeCun et al. 1998)
COUNTS = {"train": 60_000, "t10k": 10_000}  # of both MNIST sets
IDX_FILES = [f"{part}-{kind}-ubyte" for part in COUNTS for kind in ("images-idx3", "labels-idx1")]
# Of the unpacked files; torchvision knows only those of the .gz. Those of Fashion-MNIST are known to nobody.
IDX_MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
}
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
_OTHERS = "these are not the official files: they hold other numbers of images"
_AGAIN = "With another --data-dir it is downloaded anew, there."


def official(
    name: str, data_dir: Path, size: int | None, channels: int | None, seed: int, limit: int | None
) -> ImageData:
    """One of OFFICIAL, downloaded into `data_dir` unless found there; validation carved from the official train.

    Raises:
        UserError: it is not there and can't be downloaded, or a file is damaged or incomplete.
    """
    kind, source, share = OFFICIAL[name]
    read = _read_mnist if "MNIST" in kind else _read_cifar
    (x, y), (x_test, y_test), classes, note = read(kind, name, data_dir)
    image = shape_of(size or max(28, x.shape[2]), channels or x.shape[1])
    kept, held = stratified(y, (1 - share, share), seed)
    train = Images(x, y, image)
    return assemble(
        [train.subset(kept), train.subset(held), Images(x_test, y_test, image)],
        classes,
        f"{source}; {note}" if note else source,
        f"{'test as found' if note else 'official test'}; valid carved from train, stratified, seed {seed}",
        limit=limit,
        seed=seed,
        drawing=DRAWINGS.get(name),
    )


_Split = tuple[Tensor, Tensor]  # uint8 [N, C, H, W], int64 [N]


def _torchvision(kind: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, kind)


def _read_mnist(kind: str, name: str, data_dir: Path) -> tuple[_Split, _Split, list[str], str]:
    places = [data_dir / kind / "raw", data_dir / name / kind / "raw", data_dir / "raw", data_dir]
    folder = next((place for place in places if all(_present(place / file) for file in IDX_FILES)), None)
    if folder is None:
        dataset = _torchvision(kind)
        files = f"{IDX_FILES[0]} and three more, plain or .gz, also in {kind}/raw"
        urls = f"{dataset.mirrors[0]}{{{','.join(file for file, _ in dataset.resources)}}}"
        with staging(data_dir, kind, files, urls) as temporary:
            dataset(temporary, download=True)  # checks the md5 of each .gz, and tries the mirrors
            move_files(temporary / kind / "raw", places[0])
        folder = places[0]
    read = [_read_idx(folder / file, kind) for file in IDX_FILES]
    (images, labels, test_images, test_labels), notes = zip(*read, strict=True)
    for pixels, numbers, file in ((images, labels, IDX_FILES[1]), (test_images, test_labels, IDX_FILES[3])):
        if len(pixels) != len(numbers) or numbers.max() > 9:
            what = f"{folder / file} has {len(numbers):,} labels up to {int(numbers.max())} for {len(pixels):,} images."
            raise UserError(what, "Labels go from 0 to 9, one for each image.")
    note = next(filter(None, notes), "")
    classes = [str(digit) for digit in range(10)] if kind == "MNIST" else FASHION
    return (images.unsqueeze(1), labels.long()), (test_images.unsqueeze(1), test_labels.long()), classes, note


def _present(file: Path) -> bool:
    return file.is_file() or file.with_name(file.name + ".gz").is_file()


def _read_idx(file: Path, kind: str) -> tuple[Tensor, str]:
    """uint8 [N, 28, 28] or [N] of a plain or .gz idx file, and why it may not be the official one; "" if it is.

    Raises:
        UserError: its length is not what its header says, or it has the official length and another checksum.
    """
    packed = not file.is_file()
    name, file = file.name, file.with_name(file.name + ".gz") if packed else file
    try:
        content = file.read_bytes()
        data = gzip.decompress(content) if packed else content  # checks a CRC of its own
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is damaged or incomplete: {error}.", _AGAIN) from error
    except OSError as error:
        raise UserError(f"{file} can't be read: {error}.", _AGAIN) from error
    dimensions = 3 if "idx3" in name else 1
    begin = 4 + 4 * dimensions
    # Magic number (uint8, number of dimensions), then each dimension, all big-endian 32 bits.
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, begin, 4)]
    whole = data[:4] == (0x800 + dimensions).to_bytes(4, "big") and len(data) == begin + torch.Size(shape).numel()
    expected, packing = IDX_MD5.get(kind, {}).get(name), dict(_torchvision(kind).resources).get(file.name)
    official = shape[0] == COUNTS[name.split("-")[0]]
    wrong = official and expected is not None and _md5(data) != expected
    if not whole or shape[1:] != [28, 28][: dimensions - 1] or not shape[0] or wrong:
        what = f"{file} is damaged or incomplete ({len(content):,} bytes): it is not the official file."
        raise UserError(what, _AGAIN)
    sure = expected is not None or _md5(content) == packing
    note = _OTHERS if not official else "" if sure else "checked by their lengths, as no checksums are known"
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=begin).view(shape), note


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _read_cifar(kind: str, name: str, data_dir: Path) -> tuple[_Split, _Split, list[str], str]:
    dataset = _torchvision(kind)
    base = dataset.base_folder
    places = [data_dir.parent] if data_dir.name == base else [data_dir, data_dir / name]
    root = next((place for place in places if (place / base).is_dir()), None)
    if root is None:
        root = fetch_archive(data_dir, dataset.url, dataset.tgz_md5, base).parent
    try:
        train, test = dataset(root, train=True), dataset(root, train=False)  # checks the md5s before it unpickles
    except RuntimeError as error:
        raise UserError(f"{root / base} is damaged or incomplete: it is not the official data.", _AGAIN) from error
    splits = [(torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in (train, test)]
    return splits[0], splits[1], list(train.classes), ""
