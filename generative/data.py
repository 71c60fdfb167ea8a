"""Images for generators: the three splits, always cut alike, and pixels as networks see them."""

from __future__ import annotations

from pathlib import Path

from common.data.images.sources import ImageData, load_images
from common.errors import UserError
from common.kinds.image import ImageInput
from common.machine import distributed

SPLIT_SEED = 0  # of the data: every run is measured against the same images by the same classifier
FEWEST = 4  # images of a split: measures look for the third neighbour of each


def load(name: str, data_dir: Path | None, size: int) -> ImageData:
    """The three splits of a data set, as images of `size` × `size`.

    Raises:
        UserError: the data can't be had, or a split has too few images to be measured against.
    """
    with distributed.first():
        data = load_images(name, data_dir=data_dir, size=size, seed=SPLIT_SEED)
    fewest = min(len(data.valid), len(data.test))
    if fewest < FEWEST:
        what = f"--data {name}: a split has only {fewest} images."
        raise UserError(what, "Measuring a generator needs more to compare.")
    return data


def image_input(data: ImageData) -> ImageInput:
    """Images as networks see them: in [−1, 1]."""
    half = (0.5,) * data.channels
    return ImageInput(size=data.size, channels=data.channels, mean=half, std=half)
