"""What a generator shows of itself: grids at fixed latents, walks between latents, and its nearest training images.

A generator is here what makes images uint8 [N, C, S, S], on the CPU, of latents [N, Z] and labels int64 [N], or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.data.images.sources import ImageData
from common.files import write_whole
from common.report import frames
from common.report import page as report
from generative import quality

Generator = Callable[[Tensor, Tensor | None], Tensor]

SEED = 7  # of the fixed latents: the same points in every run and every epoch
ROWS = 8  # of the sample grid
STEPS = 10  # of a walk from one latent to another


def sections(
    generator: Generator, latent_size: int, classes: Sequence[str], data: ImageData, samples: Tensor, folder: Path
) -> list[report.Section]:
    """What only a generator has for the report of its run.

    Args:
        classes: their names, if the generator is told the class.
        samples: uint8 [N, C, S, S], of which the nearest training images are shown.
    """
    columns = f" Columns are the classes {', '.join(classes[:10])}." if classes else ""
    picture = sheet(generator, latent_size, len(classes))
    return [
        report.image("Samples", picture, "generated images", f"By the averaged generator, not selected.{columns}"),
        walks(generator, latent_size, len(classes)),
        neighbours(data, samples),
        film(folder),
    ]


def to_pixels(images: Tensor) -> Tensor:
    """Images in [−1, 1] as uint8; what lies outside is cut off here and nowhere before."""
    return ((images + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def fixed_latents(count: int, size: int, seed: int = SEED) -> Tensor:
    """The same latents [count, size] wherever they are asked for."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def sheet(generator: Generator, latent_size: int, classes: int) -> Tensor:
    """Samples at fixed latents: uint8 [C, H, W]; with classes a column for each of the first ten."""
    columns = min(classes, 10) or ROWS
    labels = torch.arange(columns).repeat(ROWS) if classes else None
    latents = fixed_latents(ROWS * columns, latent_size)
    return frames.grid(generator(latents, labels), columns)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Points on the great circle from one latent to another, [T, Z]; a straight line would leave the shell they fill.

    Args:
        start, end: [Z].
        share: of the way, in [0, 1], [T].
    """
    angle = torch.acos((torch.dot(start, end) / (start.norm() * end.norm())).clamp(-1, 1))
    if torch.sin(angle) < 1e-4:
        return torch.lerp(start, end, share[:, None])
    weights = torch.sin(torch.stack([(1 - share) * angle, share * angle])) / torch.sin(angle)  # [2, T]
    return weights[0, :, None] * start + weights[1, :, None] * end


def walks(generator: Generator, latent_size: int, classes: int, count: int = 4) -> report.Section:
    """Images on the way from one latent to another, a row for each walk."""
    ends = fixed_latents(2 * count, latent_size, SEED + 1).unflatten(0, (count, 2))
    share = torch.linspace(0, 1, STEPS)
    latents = torch.cat([slerp(start, end, share) for start, end in ends])
    labels = (torch.arange(count) % classes).repeat_interleave(STEPS) if classes else None
    strip = frames.grid(generator(latents, labels), STEPS)
    note = "Each row goes from one latent to another. Smooth changes say that the space between samples is used."
    return report.image("Interpolation", strip, "samples on the way from one latent to another", note)


def neighbours(data: ImageData, samples: Tensor, count: int = 10) -> report.Section:
    """Samples over the training images nearest to them in pixels, and how near those are."""
    split = quality.evenly(data.train, 10_000)
    train = quality.take(split, torch.arange(len(split)))  # uint8 [N, C, S, S]
    test = quality.take(data.test, torch.arange(min(len(data.test), 200)))
    distances, nearest = _nearest(samples[:200], train)
    usual = _nearest(test, train)[0]
    rows = torch.cat([samples[:count], train[nearest[:count]]])
    note = (
        f"First row: samples. Second row: the training image nearest to each, in pixels. On average a sample is "
        f"{float(distances.mean()):.3f} away from it (root mean square, of 1), a test image {float(usual.mean()):.3f}: "
        "a generator that copies would be far nearer."
    )
    return report.image("Nearest training images", frames.grid(rows, count), "samples and their nearest", note)


def _nearest(images: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square distance of each image to the nearest training image, in [0, 1], and which that is."""
    size = images[0].numel()
    values, where = torch.cdist(images.flatten(1).float() / 255, train.flatten(1).float() / 255).min(1)
    return values / math.sqrt(size), where


def keep(folder: Path, epoch: int, picture: Tensor) -> None:
    """Writes the sheet of an epoch, so that a resumed run has the earlier ones."""
    with write_whole(folder / "samples" / f"epoch-{epoch:04d}.png") as file:
        file.write(frames.png(picture))


def film(folder: Path) -> report.Section:
    """The sheets of all epochs as an animation."""
    files = sorted((folder / "samples").glob("epoch-*.png"))
    content = frames.gif([frames.read_png(file.read_bytes()) for file in files], fps=5)
    note = f"The same latents at {len(files)} moments of the training, by the averaged generator."
    return report.animation("Samples during training", content, "samples at fixed latents during training", note)
