"""Splits of images: what every image source returns, and how a split is drawn, held in memory and measured."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.data.splits import stratified
from common.errors import UserError
from common.kinds.image import Drawing, ImageInput, check_header
from common.machine.device import available_memory, cores

MEMORY_LIMIT = 4 * 2**30  # bytes of one split
STATISTICS_SAMPLE = 4096  # images that mean and std are taken from where the split is not in memory


class Images:
    """One split: indexing decodes (or fits) one image, `in_memory` all of them once.

    Args:
        source: image files, or arrays decoded already, uint8 [N, C', H, W].
        targets: class of each image, int64 [N].
        image: the shape every image is brought to; its mean and std are not used here.

    Raises:
        ValueError: sources and targets differ in number.
    """

    def __init__(self, source: Sequence[Path] | Tensor, targets: Tensor, image: ImageInput) -> None:
        if len(source) != len(targets):
            raise ValueError(f"{len(source)} images but {len(targets)} targets")
        self.source = source
        self.targets = targets
        self.image = image
        self._pixels: Tensor | None = None
        self._fits: bool | None = None
        if isinstance(source, Tensor) and source.shape[1:] == (image.channels, image.size, image.size):
            self.source = self._pixels = source.contiguous()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index`, uint8 [C, S, S].

        Raises:
            UserError: its file can't be read.
        """
        if self._pixels is not None:
            return self._pixels[index]
        item = self.source[index]
        return self.image.fit(item) if isinstance(item, Tensor) else self.image.decode(item)

    def subset(self, indices: Tensor) -> Images:
        """The images at `indices`, int64 [M], as a split of their own."""
        source = self.source[indices] if isinstance(self.source, Tensor) else [self.source[i] for i in indices.tolist()]
        return Images(source, self.targets[indices], self.image)

    def in_memory(self) -> Tensor | None:
        """All images, uint8 [N, C, S, S], decoded by threads on the first call; None where they would not fit.

        They fit when they take at most MEMORY_LIMIT and a quarter of the memory that is free.

        Raises:
            UserError: a file can't be read.
        """
        if self._fits is None:  # decided once, so that every caller gets the same answer
            size = len(self) * self.image.channels * self.image.size**2
            self._fits = size <= min(MEMORY_LIMIT, available_memory() // 4)
        if self._pixels is None and self._fits:
            self._pixels = self._decode(torch.arange(len(self)))
        return self._pixels

    def check(self) -> None:
        """Read the headers of all files, so that a wrong one is found before training and not hours into it.

        Raises:
            UserError: a file is missing, empty, no image or too large.
        """
        if not isinstance(self.source, Tensor):
            with ThreadPoolExecutor(cores()) as pool:
                list(pool.map(check_header, self.source))

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of values in [0, 1].

        Over all images where they are in memory, else over STATISTICS_SAMPLE of them, evenly spaced.
        """
        import numpy as np

        pixels = self.in_memory()
        if pixels is None:
            count = min(len(self), STATISTICS_SAMPLE)
            pixels = self._decode(torch.linspace(0, len(self) - 1, count).long())
        # Sums of integers are exact; by NumPy, because waking PyTorch's threads for each small chunk costs more.
        total = np.zeros((2, self.image.channels), dtype=np.int64)
        for chunk in pixels.split(max(1, 2**18 // pixels[0].numel())):
            values = chunk.numpy()
            total[0] += values.sum((0, 2, 3), dtype=np.int64)
            total[1] += np.square(values, dtype=np.uint16).sum((0, 2, 3), dtype=np.int64)
        mean, square = total / (len(pixels) * self.image.size**2) / [[255], [255**2]]
        std = np.sqrt(np.maximum(square - mean**2, 1 / 255**2))  # a channel without contrast stays finite
        return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())

    def _decode(self, indices: Tensor) -> Tensor:
        out = torch.empty(len(indices), self.image.channels, self.image.size, self.image.size, dtype=torch.uint8)
        rows = out.numpy()  # copied by NumPy: PyTorch's own threads would wait, spinning, for those that decode
        with ThreadPoolExecutor(cores()) as pool:  # Pillow lets go of the interpreter lock
            for row, pixels in enumerate(pool.map(self.__getitem__, indices.tolist())):
                rows[row] = pixels.numpy()
        return out


@dataclass(frozen=True)
class ImageData:
    """Three disjoint splits of images.

    Args:
        train, valid, test: the splits; valid is never taken from the official test set.
        classes: name of each class.
        channels, size: of every image, [channels, size, size].
        mean, std: of each channel over the training split, of values in [0, 1].
        provenance: source, licence or citation, counts and how the split was made.
        best_accuracy: the highest accuracy that can be reached on test, where it is known (made-up data).
        drawing: what the images are like, where they are drawings in grey.
    """

    train: Images
    valid: Images
    test: Images
    classes: list[str]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: str
    best_accuracy: float | None = None
    drawing: Drawing | None = None

    @property
    def image(self) -> ImageInput:
        """What a model trained on these takes for an image."""
        return ImageInput(self.size, self.channels, self.mean, self.std, self.drawing)


def assemble(
    splits: Sequence[Images],
    classes: list[str],
    source: str,
    how: str,
    *,
    limit: int | None,
    seed: int,
    best_accuracy: float | None = None,
    drawing: Drawing | None = None,
) -> ImageData:
    """Limit the training split, read what fits in memory, measure mean and std, and write the provenance.

    Args:
        splits: train, valid, test.
        source: name, and licence or citation.
        how: how the splits were made.
        limit: most training images; None for all.
        drawing: what the images are like, where they are drawings; its `ink` is measured here.

    Raises:
        UserError: a file of any split can't be read.
    """
    train, valid, test = splits
    if limit is not None and limit < len(classes):
        raise UserError(f"A limit of {limit} training images leaves none for some of the {len(classes)} classes.")
    if limit is not None and limit < len(train):
        train = train.subset(stratified(train.targets, (1 - limit / len(train), limit / len(train)), seed)[1][:limit])
        how += f"; train limited to {len(train):,}"
    for split in (train, valid, test):
        if split.in_memory() is None:
            split.check()
    mean, std = train.statistics()
    counts = f"{len(train):,} train / {len(valid):,} valid / {len(test):,} test"
    image = train.image
    drawing = replace(drawing, ink=mean[0]) if drawing and image.channels == 1 else None
    provenance = f"{source}; {counts}; {how}"
    return ImageData(
        train, valid, test, classes, image.channels, image.size, mean, std, provenance, best_accuracy, drawing
    )
