"""The two ways from noise to a picture that a network can learn, and how a picture is drawn along them.

Time runs from 0, where all is noise, to 1, where the picture is done. Between, a point is a · picture + s · noise.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # points [N, C, S, S] and their time -> what the network predicts there


class Path(Protocol):
    """What a network is trained to predict, and what its prediction says."""

    def times(self, uniform: Tensor) -> Tensor:
        """Times to train at, of numbers spread evenly over (0, 1)."""

    def weights(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """a and s."""

    def target(self, picture: Tensor, noise: Tensor) -> Tensor:
        """What is to be predicted."""

    def parts(self, x: Tensor, time: float, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Picture and noise that a prediction at a point means."""


class Flow:
    """A straight line, along which the network predicts the velocity (Lipman et al. 2023, arXiv 2210.02747).

    Times are the logistic function of normal numbers (Esser et al. 2024, arXiv 2403.03206): most in the middle.
    """

    def times(self, uniform: Tensor) -> Tensor:
        return torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).sigmoid()

    def weights(self, time: Tensor) -> tuple[Tensor, Tensor]:
        return time, 1 - time

    def target(self, picture: Tensor, noise: Tensor) -> Tensor:
        return picture - noise

    def parts(self, x: Tensor, time: float, predicted: Tensor) -> tuple[Tensor, Tensor]:
        return x + (1 - time) * predicted, x - time * predicted


class Diffusion:
    """A quarter of a circle, along which the network predicts the noise (Ho et al. 2020, arXiv 2006.11239).

    It is the cosine schedule of Nichol and Dhariwal 2021 (arXiv 2102.09672) in continuous time.
    """

    START = 0.01  # of the quarter: at its very beginning noise says nothing of the picture

    def times(self, uniform: Tensor) -> Tensor:
        return uniform

    def weights(self, time: Tensor) -> tuple[Tensor, Tensor]:
        angle = (self.START + (1 - self.START) * time) * (math.pi / 2)
        return angle.sin(), angle.cos()

    def target(self, picture: Tensor, noise: Tensor) -> Tensor:
        return noise

    def parts(self, x: Tensor, time: float, predicted: Tensor) -> tuple[Tensor, Tensor]:
        a, s = (float(weight) for weight in self.weights(torch.tensor(time, dtype=torch.float64)))
        # Near the beginning a small error of the noise is a large one of the picture: what can't be one is cut off.
        picture = ((x - s * predicted) / a).clamp(-1, 1)
        return picture, (x - a * picture) / s


PATHS: dict[str, Path] = {"flow": Flow(), "ddpm": Diffusion()}
# The samplers that each objective has, the first one its default, with the steps that they take where none are said.
SAMPLERS = {"flow": {"heun": 10, "euler": 20}, "ddpm": {"ddim": 50, "ddpm": 250}}
MOST_STEPS = 1000
MOST_GUIDANCE = 20.0


class Way(NamedTuple):
    """How pictures are drawn.

    Args:
        sampler: of SAMPLERS.
        steps: from noise to picture.
        guidance: how far predictions are moved from those without a class to those with it, and beyond (Ho and
            Salimans 2022, arXiv 2207.12598); 1 asks for the class and no more.
    """

    sampler: str
    steps: int
    guidance: float = 1.0


class Known(NamedTuple):
    """A picture to begin with, and what of it stays.

    Args:
        picture: in [−1, 1], [C, S, S].
        mask: 1 where the picture is kept, 0 where it is painted anew, [1, S, S].
        start: time to begin at: 0 from noise, near 1 from nearly the picture.
    """

    picture: Tensor
    mask: Tensor
    start: float


class Moment(NamedTuple):
    """A step on the way: the points reached, and the pictures that the network expects at the end, [N, C, S, S]."""

    points: Tensor
    expected: Tensor


def walk(path: Path, denoise: Denoise, noise: Tensor, way: Way, known: Known | None = None) -> Iterator[Moment]:
    """The moments from noise [N, C, S, S] to pictures; the last one's points are the pictures."""
    start = known.start if known is not None else 0.0
    grid = [start + (1 - start) * i / way.steps for i in range(way.steps)] + [1.0]
    x = _mixed(path, known.picture, noise, start) if known is not None and start else noise
    more = _own_noise(noise) if way.sampler == "ddpm" else None
    for now, then in pairwise(grid):
        if known is not None:
            x = torch.lerp(x, _mixed(path, known.picture, noise, now), known.mask)
        picture, rest = path.parts(x, now, denoise(x, now))
        expected = picture
        if then == 1.0:
            x = picture
        elif more is not None:
            x = _ancestral(path, picture, rest, now, then, more())
        elif way.sampler == "heun":
            further, other = path.parts(ahead := _mixed(path, picture, rest, then), then, denoise(ahead, then))
            velocity = ((picture - rest) + (further - other)) / 2  # of both ends: a method of second order
            x = x + (then - now) * velocity
        else:
            x = _mixed(path, picture, rest, then)  # on a straight line this is Euler's step; on the circle DDIM's
        if known is not None and then == 1.0:
            x = torch.lerp(x, known.picture.expand_as(x), known.mask)
        yield Moment(x, expected)


def _mixed(path: Path, picture: Tensor, noise: Tensor, time: float) -> Tensor:
    a, s = (float(weight) for weight in path.weights(torch.tensor(time, dtype=torch.float64)))
    return a * picture + s * noise


def _ancestral(path: Path, picture: Tensor, rest: Tensor, now: float, then: float, fresh: Tensor) -> Tensor:
    """A step of DDPM: DDIM's with η = 1 (Song et al. 2021, arXiv 2010.02502, equation 16)."""
    times = torch.tensor([now, then], dtype=torch.float64)
    (a, b), (s, z) = (weight.tolist() for weight in path.weights(times))
    spread = z / s * math.sqrt(max(0.0, 1 - (a / b) ** 2))
    return b * picture + math.sqrt(max(0.0, z**2 - spread**2)) * rest + spread * fresh


def _own_noise(noise: Tensor) -> Callable[[], Tensor]:
    """Further noise for each sample, from its own first noise: the same whatever stands beside it in a batch."""
    sources = [torch.Generator().manual_seed(zlib.crc32(one.numpy().tobytes())) for one in noise.cpu()]
    shape = noise.shape[1:]
    return lambda: torch.stack([torch.randn(shape, generator=source) for source in sources]).to(noise.device)
