"""Scenes composed of real digits on real photographs, and of shapes: every box and every mask is exact."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.splits import stratified

COUNTS = {"train": 2000, "valid": 200, "test": 500}
SIDES = (96, 128)  # pixels of a scene, across and down
MOST, SMALLEST, LARGEST = 6, 12, 36  # digits of a scene, and their height in pixels
INK = 0.35  # opacity from which a pixel belongs to a digit
PARTS = {"train": (0.0, 0.5), "valid": (0.5, 0.72), "test": (0.72, 1.0)}  # of each photograph, from left to right
TRIES = 20  # places that are tried for a digit before it is left out

SHAPES = ("square", "disc", "triangle")
SHAPE_COUNTS = {"train": 96, "valid": 24, "test": 48}
SHAPE_SIDE = 64


class Scene(NamedTuple):
    """An image and what is in it.

    Args:
        image: uint8 [3, H, W].
        boxes: float32 [n, 4], left, top, right and bottom in pixels; around the pixels of each object, exactly.
        labels: int64 [n], the class of each object.
        instances: uint8 [H, W], the number of the object that a pixel belongs to, from 1; 0 where there is none.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    instances: Tensor

    @property
    def classes(self) -> Tensor:
        """The class of each pixel, uint8 [H, W], counted from 1; 0 where there is no object."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.labels + 1])[self.instances.long()].byte()


@dataclass(frozen=True)
class Scenes:
    """Scenes by the name of their split: train, valid and test.

    Args:
        splits: disjoint in digits and in photographs.
        classes: their names.
        provenance: where the parts come from, and how they were split.
    """

    splits: dict[str, list[Scene]]
    classes: list[str]
    provenance: str


# --- digits on photographs ---------------------------------------------------------------------------------


def digits(seed: int) -> Scenes:
    """scikit-learn's 1,797 handwritten digits on crops of its two photographs, one to six in a scene.

    No digit and no part of a photograph is in two splits: digits are divided 70 / 10 / 20 % by class, each photograph
    from left to right. Digits are 12 to 36 px high, turned and tinted, lighter or darker than what is behind them.
    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0); china.jpg and
    flower.jpg of scikit-learn (CC BY 2.0, Dan Dickinson and contributors).
    """
    from sklearn.datasets import load_digits, load_sample_images

    bunch = load_digits()
    drawn = (bunch.images * (255 / 16)).round().astype(np.uint8)  # [N, 8, 8]
    photos = load_sample_images().images  # [427, 640, 3] each
    parts = stratified(torch.from_numpy(bunch.target).long(), (0.7, 0.1, 0.2), seed)
    splits = {}
    for number, (name, part) in enumerate(zip(COUNTS, parts, strict=True)):
        dice = random.Random(3 * seed + number)
        grounds = [_slice(photo, *PARTS[name]) for photo in photos]
        splits[name] = [_scene(grounds, drawn[part], bunch.target[part], dice) for _ in range(COUNTS[name])]
    provenance = (
        "scenes composed of real images: scikit-learn's digits (UCI, CC BY 4.0) on its two photographs (CC BY 2.0); "
        f"digits and parts of photographs are in one split each, seed {seed}"
    )
    return Scenes(splits, [str(digit) for digit in range(10)], provenance)


def _slice(photo: np.ndarray, left: float, right: float) -> np.ndarray:
    return photo[:, round(left * photo.shape[1]) : round(right * photo.shape[1])]


def _scene(grounds: Sequence[np.ndarray], drawn: np.ndarray, targets: np.ndarray, dice: random.Random) -> Scene:
    height, width = (dice.randint(*SIDES) for _ in range(2))
    canvas = Canvas(_ground(dice.choice(grounds), height, width, dice))
    for _ in range(dice.randint(1, MOST)):
        index = dice.randrange(len(drawn))
        opacity = _turned(drawn[index], dice.randint(SMALLEST, LARGEST), dice)
        tint = np.array([80 * dice.random() for _ in range(3)])
        canvas.lay(opacity, int(targets[index]), tint, dice, contrast=True)
    return canvas.scene()


def _ground(photo: np.ndarray, height: int, width: int, dice: random.Random) -> np.ndarray:
    """A random piece of a photograph at a scene's size, enlarged up to twice: float32 [height, width, 3]."""
    from PIL import Image

    most = min(1.0, photo.shape[0] / height, photo.shape[1] / width)
    scale = most * (0.5 + 0.5 * dice.random())
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = dice.randint(0, photo.shape[0] - h), dice.randint(0, photo.shape[1] - w)
    piece = Image.fromarray(photo[top : top + h, left : left + w]).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(piece, dtype=np.float32)
    return pixels if dice.random() < 0.5 else pixels[:, ::-1]


def _turned(digit: np.ndarray, height: int, dice: random.Random) -> np.ndarray:
    """The opacity of a digit in 0..1, stretched, turned by up to 15 degrees and cut to its ink: [height, w]."""
    from PIL import Image

    fine, smooth = LARGEST, Image.Resampling.BICUBIC
    large = Image.fromarray(digit).resize((round(fine * (0.8 + 0.4 * dice.random())), fine), smooth)
    turned = large.rotate(30 * dice.random() - 15, smooth, expand=True)
    ink = np.asarray(turned) >= INK * 255
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    wide = max(3, round(height * len(columns) / len(rows)))
    return np.asarray(turned.resize((wide, height), Image.Resampling.BILINEAR, box), dtype=np.float32) / 255


class Canvas:
    """A scene in the making.

    Args:
        pixels: float32 [H, W, 3] in 0..255; objects are laid on it.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = np.ascontiguousarray(pixels)
        self._instances = np.zeros(pixels.shape[:2], dtype=np.uint8)
        self._boxes: list[tuple[int, int, int, int]] = []
        self._labels: list[int] = []

    def lay(
        self, opacity: np.ndarray, label: int, tint: np.ndarray, dice: random.Random, contrast: bool = False
    ) -> None:
        """Lays an object where no other is; leaves it out where no such place is found.

        Args:
            opacity: float32 [h, w] in 0..1.
            tint: its colour, [3] in 0..255.
            contrast: turn the colour into its opposite where what is behind it is dark.
        """
        height, width = opacity.shape
        place = self._free_place(height, width, dice)
        if place is None:
            return
        top, left = place
        inside = slice(top, top + height), slice(left, left + width)
        behind = self._pixels[inside]
        colour = 255 - tint if contrast and behind.mean() < 128 else tint
        behind += opacity[:, :, None] * (colour - behind)
        self._boxes.append((left, top, left + width, top + height))
        self._labels.append(label)
        self._instances[inside][opacity >= INK] = len(self._boxes)

    def _free_place(self, height: int, width: int, dice: random.Random) -> tuple[int, int] | None:
        rows, columns = self._pixels.shape[:2]
        if height > rows or width > columns:
            return None
        for _ in range(TRIES):
            top, left = dice.randint(0, rows - height), dice.randint(0, columns - width)
            apart = (left >= r or left + width <= x or top >= b or top + height <= y for x, y, r, b in self._boxes)
            if all(apart):
                return top, left
        return None

    def scene(self) -> Scene:
        boxes = []
        for number in range(1, len(self._boxes) + 1):
            rows, columns = np.nonzero(self._instances == number)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        # Copied by NumPy: PyTorch would wake its threads for each of thousands of small images.
        pixels = torch.from_numpy(self._pixels.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
        around = torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4))
        return Scene(pixels, around, torch.tensor(self._labels, dtype=torch.int64), torch.from_numpy(self._instances))


# --- shapes ------------------------------------------------------------------------------------------------


def shapes(seed: int) -> Scenes:
    """Squares, discs and triangles of any colour on noise, one to three in a scene of 64 px."""
    splits = {}
    for number, (name, count) in enumerate(SHAPE_COUNTS.items()):
        dice = random.Random(3 * seed + number)
        splits[name] = [_shape_scene(dice) for _ in range(count)]
    return Scenes(splits, list(SHAPES), f"synthetic: coloured shapes on noise; seed {seed}")


def _shape_scene(dice: random.Random) -> Scene:
    noise = np.random.default_rng(dice.getrandbits(32))
    canvas = Canvas((90 + 20 * noise.standard_normal((SHAPE_SIDE, SHAPE_SIDE, 3))).astype(np.float32))
    for _ in range(dice.randint(1, 3)):
        label, size = dice.randrange(len(SHAPES)), dice.randint(14, 26)
        tint = np.array([160 + 95 * dice.random() for _ in range(3)])
        canvas.lay(_shape(label, size), label, tint, dice)
    return canvas.scene()


def _shape(label: int, size: int) -> np.ndarray:
    """The pixels of a shape: float32 [size, size], 1 where it is."""
    y, x = np.mgrid[:size, :size] + 0.5
    middle = size / 2
    inside = {
        "square": np.ones((size, size)),
        "disc": (x - middle) ** 2 + (y - middle) ** 2 <= middle**2,
        "triangle": abs(x - middle) <= y / 2,
    }
    return inside[SHAPES[label]].astype(np.float32)
