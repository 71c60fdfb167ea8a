"""A seed, or a point of a latent space, and how the picture that grows out of it is to be drawn."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from common.errors import UserError
from common.kinds.base import json_of, shown, text_of
from common.kinds.image import ImageInput
from common.kinds.seed import SeedInput

MOST_STEPS = 1000  # of one picture
MOST_GUIDANCE = 20.0
OWN = ("steps", "guidance", "path", "from", "strength", "keep")  # keys of an input beside those of a seed


class Wish(NamedTuple):
    """A picture that is asked for.

    Args:
        latent: float32 [Z].
        label: number of the class that is asked for, None for any.
        seed: that the latent was drawn from, None where it was given.
        steps: from noise to picture.
        guidance: how strongly the class is asked for.
        path: whether the pictures on the way are wanted too.
        picture: to begin with, in [−1, 1], [C, S, S]; None for noise alone.
        mask: 1 where that picture is kept, [1, S, S].
        start: time at which it is begun with: 0 from noise, near 1 from nearly the picture.
    """

    latent: Tensor
    label: int | None
    seed: int | None
    steps: int
    guidance: float
    path: bool = False
    picture: Tensor | None = None
    mask: Any = None
    start: float = 0.0


@dataclass(frozen=True)
class NoiseInput(SeedInput):
    """A seed, or a latent, from which a picture is drawn step by step.

    Args:
        channels, side: of a picture; latent_size is channels · side · side.
        steps: taken where none are said.
        guidance: likewise.
    """

    kind: ClassVar[str] = "noise"
    most_work: ClassVar[int] = 20_000  # what is counted are steps
    too_much: ClassVar[str] = "The pictures take more than 20,000 steps together, the limit."

    channels: int = 1
    side: int = 1
    steps: int = 10
    guidance: float = 1.0

    def start(self) -> Any:
        return {"seed": 7}

    def work(self, raw: bytes) -> int:
        try:
            return self.decode(raw).steps
        except UserError:  # decoding says it
            return 0

    def page(self) -> dict[str, Any]:
        return {"side": self.side}

    def decode(self, source: Path | bytes, name: str = "") -> Wish:
        """`7`, or an object with "seed" or "latent", and any of "class", "steps", "guidance", "path", "from",
        "strength" and "keep".

        "from" is an image file in base64 to begin with; "strength", in 0..1, says how much of it may change (0.6), or
        "keep" what stays of it: an image file in base64, white where the picture is kept and black where it is painted.

        Raises:
            UserError: the seed is none (see `SeedInput.decode`), a number is out of range, a picture can't be read.
        """
        name = name or "The seed"
        value = json_of(text_of(source, name), name)
        asked = value if isinstance(value, dict) else {"seed": value}
        unknown = next((key for key in asked if key not in (*OWN, "seed", "latent", "class")), None)
        if unknown is not None:
            known = "seed, latent, class, steps, guidance, path, from, strength and keep"
            raise UserError(f"{name} has an unknown key {shown(unknown)}.", f"Known are {known}.")
        point = self.drawn({key: part for key, part in asked.items() if key not in OWN}, name)
        steps, guidance = asked.get("steps", self.steps), asked.get("guidance", self.guidance)
        if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
            raise UserError(f"{name} has {shown(steps)} steps; it must be a whole number from 1 to {MOST_STEPS}.")
        if not _within(guidance, MOST_GUIDANCE):
            raise UserError(f"{name} has the guidance {shown(guidance)}; it must be 0 to {MOST_GUIDANCE:g}.")
        if not self.classes and guidance != 1:
            raise UserError(f"{name} asks for guidance, but this model was trained without classes.")
        if not isinstance(asked.get("path", False), bool):
            raise UserError(f"{name}: path is {shown(asked['path'])}; it must be true or false.")
        wish = Wish(*point, steps, float(guidance), asked.get("path", False))
        return self._begun(wish, asked, name)

    def _begun(self, wish: Wish, asked: dict[str, Any], name: str) -> Wish:
        """The wish with the picture that it begins with."""
        if "from" not in asked:
            alone = next((key for key in ("strength", "keep") if key in asked), None)
            if alone is not None:
                raise UserError(f"{name}: {alone} belongs to a picture to begin with.", 'Give it as "from".')
            return wish
        strength = asked.get("strength", 1.0 if "keep" in asked else 0.6)
        if not _within(strength, 1.0):
            raise UserError(f"{name} has the strength {shown(strength)}; it must be 0 to 1.")
        picture = self._image(asked["from"], self.channels, f"{name}: from")
        mask = self._image(asked["keep"], 1, f"{name}: keep").gt(0).float() if "keep" in asked else None
        mask = picture.new_zeros(1, self.side, self.side) if mask is None else mask
        return wish._replace(picture=picture, mask=mask, start=min(1 - strength, 0.999))

    def _image(self, value: Any, channels: int, name: str) -> Tensor:
        """An image file in base64 as [channels, S, S] in [−1, 1]."""
        try:
            content = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except (AttributeError, TypeError, ValueError, binascii.Error) as error:
            raise UserError(f"{name} is no image file in base64.") from error
        half = (0.5,) * channels
        reader = ImageInput(self.side, channels, half, half)
        return reader.normalize(reader.decode(content, name)[None])[0]


def _within(value: Any, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
