"""Image sources that are arrays: scikit-learn's digits, made-up images, and .npz files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.data.images.splits import ImageData, Images, assemble
from common.data.splits import stratified
from common.errors import UserError
from common.kinds.image import Drawing, ImageInput

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 28  # pixels; smaller images are enlarged once, to this
CLASSES, IMAGES, FLIPPED = 10, 600, 0.05  # of the made-up data


def shape_of(size: int, channels: int) -> ImageInput:
    """An ImageInput for decoding alone: mean and std are measured later."""
    return ImageInput(size, channels, (0.0,) * channels, (1.0,) * channels)


def digits(size: int | None, channels: int | None, seed: int, limit: int | None) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 enlarged; 70 / 10 / 20 %, stratified.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0); the UCI test part.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # 0..16 to [N, 1, 8, 8]
    images = Images(pixels, torch.from_numpy(bunch.target).long(), shape_of(size or SMALLEST, channels or 1))
    parts = stratified(images.targets, (0.7, 0.1, 0.2), seed)
    return assemble(
        [images.subset(part) for part in parts],
        [str(digit) for digit in range(10)],
        "digits: scikit-learn's copy of UCI optical digits (Alpaydin and Kaynak 1998, CC BY 4.0)",
        f"stratified split, seed {seed}",
        limit=limit,
        seed=seed,
        # 98 % fill all 8 rows, and each class has ink on 30 to 32 % of the image: NIST's form reader made them so.
        drawing=Drawing(grid=8, fill=1.0, widest=0.7),
    )


def synthetic(size: int | None, channels: int | None, seed: int, limit: int | None) -> ImageData:
    """Made-up images with a known best score: smooth random class patterns, moved, noisy, with some labels wrong.

    Each image is the pattern of its class, moved by up to an eighth of the side and with noise of the pattern's own
    strength. In each split exactly FLIPPED of the labels are replaced by another class, so that 1 − FLIPPED (to
    rounding) is the best accuracy.
    """
    image = shape_of(size or SMALLEST, channels or 1)
    generator = torch.Generator().manual_seed(seed)
    side = image.size
    coarse = torch.randn(CLASSES, image.channels, 5, 5, generator=generator)
    patterns = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    targets = torch.arange(IMAGES) % CLASSES
    moves = torch.randint(-(side // 8), side // 8 + 1, (IMAGES, 2), generator=generator).tolist()
    moved = torch.stack([patterns[t].roll(m, (1, 2)) for t, m in zip(targets.tolist(), moves, strict=True)])
    noisy = moved + torch.randn(moved.shape, generator=generator)
    pixels = noisy.mul_(40).add_(128).round_().clamp_(0, 255).to(torch.uint8)
    parts = stratified(targets, (2 / 3, 2 / 15, 1 / 5), seed)
    for part in parts:
        wrong = part[torch.randperm(len(part), generator=generator)[: round(FLIPPED * len(part))]]
        targets[wrong] = (targets[wrong] + torch.randint(1, CLASSES, (len(wrong),), generator=generator)) % CLASSES
    best = 1 - round(FLIPPED * len(parts[2])) / len(parts[2])
    return assemble(
        [Images(pixels, targets, image).subset(part) for part in parts],
        [f"pattern {k}" for k in range(CLASSES)],
        f"synthetic: made-up patterns with {FLIPPED:.0%} wrong labels, best possible accuracy {best:.3f}",
        f"seed {seed}",
        limit=limit,
        seed=seed,
        best_accuracy=best,
    )


def npz(path: Path, size: int | None, channels: int | None, seed: int, limit: int | None) -> ImageData:
    """Arrays x_train y_train x_test y_test, optionally x_valid y_valid and classes, in one .npz file.

    x: [N, H, W], [N, H, W, C] or [N, C, H, W], integers in [0, 255] or floats in [0, 1], C of 1, 3 or 4 (alpha).
    y: integers [N]. Without x_valid a tenth of the training images is kept for validation.

    Raises:
        UserError: the file is missing, damaged or holds pickled objects; an array is missing, has a wrong shape,
            dtype or value; there is only one class.
    """
    arrays = _read(path)
    names = ["train", "valid", "test"] if "x_valid" in arrays else ["train", "test"]
    for key in [f"{axis}_{name}" for name in names for axis in "xy"]:
        if key not in arrays:
            raise UserError(f"{path} has no array {key}, only {', '.join(sorted(arrays)) or 'nothing'}.", _LAYOUT)
    xs = {name: _pixels(arrays[f"x_{name}"], f"x_{name} in {path}") for name in names}
    classes = _classes(arrays, path)
    ys = {name: _labels(arrays, name, len(xs[name]), len(classes), path) for name in names}
    if len(ys["train"].unique()) < 2:
        raise UserError(f"y_train in {path} has only one class.", "Classification needs at least two.")
    height, width, found = xs["train"].shape[2], xs["train"].shape[3], xs["train"].shape[1]
    image = shape_of(size or max(SMALLEST, min(height, width)), channels or (1 if found == 1 else 3))
    splits = {name: Images(xs[name], ys[name], image) for name in names}
    how = "validation as given"
    if "valid" not in splits:
        kept, held = stratified(ys["train"], (0.9, 0.1), seed)
        splits["train"], splits["valid"] = splits["train"].subset(kept), splits["train"].subset(held)
        how = f"validation carved from train, stratified, seed {seed}"
    ordered = [splits[name] for name in ("train", "valid", "test")]
    return assemble(ordered, classes, f"npz:{path.name}", how, limit=limit, seed=seed)


_LAYOUT = "Needed are x_train, y_train, x_test and y_test; x_valid, y_valid and classes may be there."


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file.", "Give npz:FILE the path of a .npz file.")
    arrays = {}
    key = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[key] = archive[key]
    except Exception as error:  # zip, zlib and NumPy raise nearly anything on a damaged file
        if "allow_pickle" in str(error) and key:
            what = f"{key} in {path} holds pickled Python objects, which are not loaded: they can run code."
            raise UserError(what, f"Save it as plain numbers or strings: {key}.astype(...).") from error
        raise UserError(f"{path} is damaged or not a .npz file.", "Write it with numpy.savez.") from error
    return arrays


def _pixels(x: np.ndarray[Any, Any], name: str) -> Tensor:
    """uint8 [N, C, H, W] of an array in one of the accepted layouts."""
    import numpy as np

    layout = "Images are [N, H, W], [N, H, W, C] or [N, C, H, W], with C of 1, 3 or 4."
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise UserError(f"{name} has the shape {list(x.shape)}.", layout)
    if x.dtype.kind == "f":
        wrong = (~np.isfinite(x)).sum()
        if wrong:
            raise UserError(
                f"{name} holds {wrong:,} values that are NaN or infinite.", "Mend them, or leave those images out."
            )
        if not (x.min() >= 0 and x.max() <= 1):
            raise UserError(f"{name} has floats outside 0 to 1.", "Scale them, or save uint8 in 0 to 255.")
        x = (x * 255).round().astype("uint8")
    elif x.dtype.kind not in "iu" or x.min() < 0 or x.max() > 255:
        raise UserError(f"{name} ({x.dtype}) is not all integers in 0 to 255.", "Save uint8 in 0 to 255.")
    pixels = torch.from_numpy(x.astype("uint8"))
    if pixels.ndim == 3:
        return pixels.unsqueeze(1)
    if pixels.shape[3] in (1, 3, 4):
        return pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] in (1, 3, 4):
        return pixels
    raise UserError(f"{name} has the shape {list(pixels.shape)}.", layout)


def _classes(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> list[str]:
    if "classes" in arrays:
        if arrays["classes"].ndim != 1:
            raise UserError(
                f"classes in {path} has the shape {list(arrays['classes'].shape)}.", "It is a list of names."
            )
        return [str(name) for name in arrays["classes"].tolist()]
    labels = arrays["y_train"]
    highest = int(labels.max()) if labels.size and labels.dtype.kind in "iu" else 0
    return [str(label) for label in range(min(highest, 99_999) + 1)]


def _labels(arrays: dict[str, np.ndarray[Any, Any]], name: str, count: int, classes: int, path: Path) -> Tensor:
    """int64 [N] of y_<name>, checked against the images and the classes."""
    y = arrays[f"y_{name}"]
    if y.dtype.kind not in "iu":
        raise UserError(f"y_{name} in {path} holds {y.dtype}, not integers.", "Labels are class numbers from 0.")
    if y.shape not in ((count,), (count, 1)):
        raise UserError(f"y_{name} in {path} has the shape {list(y.shape)}, but x_{name} has {count} images.", _LAYOUT)
    if y.min() < 0 or y.max() >= classes:
        worst = y.min() if y.min() < 0 else y.max()
        from_ = "classes" if "classes" in arrays else "y_train"
        hint = (
            "Classes count from 0; a negative label marks what has none: leave those images out." if worst < 0 else ""
        )
        raise UserError(f"y_{name} in {path} has the label {worst}; {from_} allows 0 to {classes - 1}.", hint)
    return torch.from_numpy(y.astype("int64")).flatten()
