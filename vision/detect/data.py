"""Photos with boxes by name: composed here, made up, or the user's own, all as the same three splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.files import located
from common.kinds.boxes import Truth
from common.kinds.photo import Fitted, Photo
from common.machine.device import available_memory, cores
from vision import scenes
from vision.detect import formats
from vision.detect.formats import Found

SOURCES: dict[str, str] = {
    "scenes": "scikit-learn's digits on its two photographs, composed here, no download",
    "synthetic": "coloured shapes, no download",
    "bccd": "blood cells, 364 images: BCCD_Dataset in --data-dir",
    "voc:PATH": "Pascal VOC: a devkit, or one year of it",
    "coco:PATH": "COCO's JSON, of one split or a folder with train and val",
    "yolo:PATH": "YOLO: a data.yaml, or images/ and labels/",
}
LIMIT = 4 * 2**30  # bytes of one split in memory
SAMPLE = 200  # images that mean and deviation are taken from
MULTIPLE = 16  # pixels: sides of a canvas are multiples of it
LONGEST = 320  # pixels of a canvas whose size nobody says


class Photos:
    """One split: photos and what is in each.

    Args:
        source: files, or photos decoded already, uint8 [3, H, W] of any size.
        truths: of each photo, in its own pixels.
        photo: the canvas that every photo is fitted to.
    """

    def __init__(self, source: Sequence[Path] | Sequence[Tensor], truths: Sequence[Truth], photo: Photo) -> None:
        self.source, self.truths, self.photo = source, truths, photo
        self._all: Fitted | None = None
        self._targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Fitted:
        """A photo on its canvas; UserError where its file can't be read."""
        item = self.source[index]
        return self.photo.fit(item) if isinstance(item, Tensor) else self.photo.decode(item)

    def in_memory(self) -> Fitted | None:
        """All photos on their canvases; None where they would not fit."""
        size = len(self) * self.photo.channels * self.photo.height * self.photo.width
        if self._all is None and size <= min(LIMIT, available_memory() // 4):
            images = torch.empty(len(self), self.photo.channels, self.photo.height, self.photo.width, dtype=torch.uint8)
            sizes = torch.empty(len(self), 2, dtype=torch.int64)
            rows = images.numpy()  # copied by NumPy: PyTorch's threads would wait for those that decode
            with ThreadPoolExecutor(cores()) as pool:  # Pillow lets go of the interpreter lock
                for row, item in enumerate(pool.map(self.__getitem__, range(len(self)))):
                    rows[row], sizes[row] = item.image.numpy(), item.size
            self._all = Fitted(images, sizes)
        return self._all

    @property
    def targets(self) -> Tensor:
        """The objects of each photo in pixels of the canvas: float32 [N, M, 5], the class last, −1 where none is.

        What is ignored in evaluation is no object here.
        """
        if self._targets is None:
            kept = [~truth.ignored for truth in self.truths]
            most = max([1, *(int(keep.sum()) for keep in kept)])
            self._targets = torch.full((len(self), most, 5), -1.0)
            scales = self.photo.scales(self.sizes()).double()
            for row, (truth, keep, scale) in enumerate(zip(self.truths, kept, scales, strict=True)):
                boxes = truth.boxes[keep] * scale.repeat(2)
                self._targets[row, : len(boxes)] = torch.cat([boxes, truth.labels[keep, None].double()], 1).float()
        return self._targets

    def sizes(self) -> Tensor:
        """Width and height of every photo as it came, int64 [N, 2]."""
        if self._all is not None:
            return self._all.size
        return torch.tensor([formats.size_of(item) for item in self.source])


@dataclass(frozen=True)
class DetectionData:
    """Three disjoint splits of photos with boxes.

    Args:
        train, valid, test: the splits.
        classes: their names.
        photo: what a model that learned from these takes.
        provenance: source, licence, counts, and how the split was made.
    """

    train: Photos
    valid: Photos
    test: Photos
    classes: list[str]
    photo: Photo
    provenance: str


Normal = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel, in 0..1


def load(
    name: str, data_dir: Path | None, image_size: int | None, seed: int, normal: Normal | None = None
) -> DetectionData:
    """One of SOURCES, its photos fitted to canvases whose longer side is `image_size`.

    Args:
        normal: by which photos are normalised; that of the training photos by default.

    Raises:
        UserError: the name is unknown, the data can't be had, or something in them is wrong.
    """
    kind, colon, rest = name.partition(":")
    own: dict[str, Callable[[Path, int], Found]] = {"voc": formats.voc, "coco": formats.coco, "yolo": formats.yolo}
    if kind in own and colon and rest:
        found = own[kind](located(rest, data_dir), seed)
    elif name == "bccd":
        found = formats.bccd(data_dir or Path("data"), seed)
    elif name in ("scenes", "synthetic"):
        found = _composed(scenes.digits(seed) if name == "scenes" else scenes.shapes(seed))
    else:
        raise UserError(f"Unknown data {name!r}.", nearest(name, SOURCES))
    return _assemble(found, image_size, normal)


def _composed(made: scenes.Scenes) -> Found:
    splits = {
        name: ([scene.image for scene in split], [Truth.of(scene.boxes, scene.labels) for scene in split])
        for name, split in made.splits.items()
    }
    return Found(splits, made.classes, made.provenance)


def _assemble(found: Found, image_size: int | None, normal: Normal | None) -> DetectionData:
    """The splits on canvases of a shape that suits their photos, with the colours' mean and deviation measured."""
    for name, (source, _) in found.splits.items():
        if not len(source):
            raise UserError(f"The {name} split has no image.", "Check the lists of the data.")
    train = found.splits["train"][0]
    step = max(1, len(train) // SAMPLE)
    sizes = torch.tensor([formats.size_of(item) for item in train[::step]]).double()
    canvas = canvas_for(sizes, image_size)
    plain = Photo(max(canvas), 3, (0.5,) * 3, (1.0,) * 3, None, *canvas)
    pixels = Photos(train[::step], [], plain)
    mean, std = normal or _statistics(
        torch.stack([pixels[i].image for i in range(len(pixels))]), plain.scales(sizes) * sizes
    )
    photo = replace(plain, mean=mean, std=std)
    splits = [Photos(*found.splits[role], photo) for role in formats.ROLES]
    counts = " / ".join(
        f"{len(split):,} {name} ({sum(len(truth.labels) for truth in split.truths):,} objects)"
        for name, split in zip(formats.ROLES, splits, strict=True)
    )
    train_split, valid, test = splits
    return DetectionData(train_split, valid, test, found.classes, photo, f"{found.provenance}; {counts}")


def canvas_for(sizes: Tensor, longest: int | None) -> tuple[int, int]:
    """Height and width of the canvas that wastes little of photos of these sizes [N, 2], width and height.

    Args:
        longest: side in pixels; the photos' own where they are smaller than LONGEST, else that.
    """
    longest = longest or min(LONGEST, int(sizes.max()))
    longest = max(MULTIPLE, MULTIPLE * math.ceil(longest / MULTIPLE))
    ratio = float((sizes[:, 1] / sizes[:, 0]).median())  # height by width
    if 0.9 < ratio < 1.12 or (float((sizes[:, 1] > sizes[:, 0]).double().mean()) > 0.2 and ratio < 1):
        return longest, longest  # about square, or some upright and some not
    shorter = max(MULTIPLE, MULTIPLE * math.ceil(longest * min(ratio, 1 / ratio) / MULTIPLE))
    return (shorter, longest) if ratio < 1 else (longest, shorter)


def _statistics(images: Tensor, sizes: Tensor) -> Normal:
    """Mean and standard deviation of each channel in 0..1, of the photos alone and not what is beside them."""
    parts = [image[:, : int(h), : int(w)].flatten(1) for image, (w, h) in zip(images, sizes.round(), strict=True)]
    pixels = torch.cat(parts, dim=1).double() / 255
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp(min=1 / 255).tolist())
