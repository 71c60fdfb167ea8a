"""Images by name: embedded, made-up, official, or the user's own, all as the same three splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.data.images.arrays import digits, npz, synthetic
from common.data.images.folders import cub200, folder
from common.data.images.official import OFFICIAL, official
from common.data.images.splits import ImageData, Images
from common.errors import UserError, nearest
from common.files import located

__all__ = ["SOURCES", "ImageData", "Images", "load_images"]

SOURCES: dict[str, str] = {
    "digits": "scikit-learn's handwritten digits, no download",
    "synthetic": "made-up patterns with a known best score, no download",
    "mnist": "handwritten digits, 12 MB",
    "fashion-mnist": "articles of clothing, 30 MB",
    "cifar10": "small photos of 10 classes, 170 MB",
    "cifar100": "small photos of 100 classes, 170 MB",
    "cub200": "birds of 200 species, 1.1 GB; or any subset in the official layout",
    "folder:PATH": "class folders of images",
    "npz:FILE": "arrays x_train y_train x_test y_test",
}
SIZES = (8, 1024)  # pixels


def load_images(
    name: str,
    *,
    data_dir: Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> ImageData:
    """Load one of SOURCES as train, validation and test splits.

    Splits are disjoint, stratified and seeded; validation always comes out of the training images, and an official
    test set stays whole. Images that fit in memory are decoded here, so that a broken file is found now; of others
    the headers are read.

    Args:
        name: a key of SOURCES, `folder:` and a path, or `npz:` and a path.
        data_dir: where data sets are looked for and downloaded to, `data` by default; relative paths in `name` are
            looked up in it first.
        size: side in pixels, 8 to 1024; by default the images' own but at least 28, 64 for folders, 128 for cub200.
        channels: 1 or 3; by default the images' own, 3 for folders.
        seed: of the splits, and of made-up data.
        limit: most training images, stratified; None for all.

    Raises:
        UserError: the name is unknown, the data can't be had, or something in it is wrong.
    """
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"An image size of {size} pixels is not possible.", f"Choose {SIZES[0]} to {SIZES[1]}.")
    if channels not in (None, 1, 3):
        raise UserError(f"Images can't have {channels} channels.", "Choose 1 (grey) or 3 (RGB).")
    if limit is not None and limit < 1:
        raise UserError(f"A limit of {limit} training images is not possible.", "Choose 1 or more.")
    kind, colon, rest = name.partition(":")
    own: dict[str, Callable[..., ImageData]] = {"folder": folder, "npz": npz}
    if kind in own and colon and (rest or data_dir):
        return own[kind](located(rest, data_dir), size, channels, seed, limit)
    root = (data_dir or Path("data")).expanduser()
    if name in OFFICIAL:
        return official(name, root, size, channels, seed, limit)
    if name == "cub200":
        return cub200(root, size, channels, seed, limit)
    if name == "digits":
        return digits(size, channels, seed, limit)
    if name == "synthetic":
        return synthetic(size, channels, seed, limit)
    raise UserError(f"Unknown data {name!r}.", _hint(name))


def _hint(name: str) -> str:
    if name and Path(name).expanduser().is_dir():
        return f"For a folder of images say folder:{name}."
    if name.endswith(".npz"):
        return f"For an array file say npz:{name}."
    return nearest(name, SOURCES)
