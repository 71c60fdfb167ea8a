"""A seed, or a point of a latent space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.kinds.base import Kind, json_of, shown, tensor_of, text_of


class Draw(NamedTuple):
    """One point of a generator's latent space.

    Args:
        latent: float32 [Z].
        label: number of the class that is asked for, None for any.
        seed: that the latent was drawn from, None where it was given.
    """

    latent: Tensor
    label: int | None
    seed: int | None


@dataclass(frozen=True)
class SeedInput(Kind):
    """A seed, or a latent, from which a generator makes something.

    Args:
        latent_size: Z.
        classes: that can be asked for; empty where the generator is unconditional.
    """

    kind: ClassVar[str] = "seed"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    usage: ClassVar[str] = "--value 7 --out pictures"
    latent: ClassVar[bool] = True

    latent_size: int
    classes: tuple[str, ...] = ()

    def sample(self) -> bytes:
        return b"7"

    def many(self, count: int) -> list[bytes]:
        return [str(seed).encode() for seed in range(count)]

    def point(self, item: Any) -> dict[str, Any]:
        return {"seed": item.seed, "latent": item.latent.tolist()}

    def decode(self, source: Path | bytes, name: str = "") -> Any:
        """`7`, `{"seed": 7, "class": "cat"}` or `{"latent": [Z numbers]}`; a seed gives the same latent everywhere.

        Raises:
            UserError: neither seed nor latent, a seed that is no whole number in 0..2^63-1, an unknown class.
        """
        name = name or "The seed"
        value = json_of(text_of(source, name), name)
        return self.drawn(value if isinstance(value, dict) else {"seed": value}, name)

    def drawn(self, asked: dict[str, Any], name: str) -> Draw:
        """The point that an object with "seed" or "latent", and perhaps "class", means; see `decode`."""
        for key in asked:
            if key not in ("seed", "latent", "class"):
                raise UserError(f"{name} has an unknown key {shown(key)}.", "Known are seed, latent and class.")
        label = self._label(asked.get("class"), name)
        if "latent" in asked:
            return Draw(tensor_of(asked["latent"], (self.latent_size,), name), label, None)
        seed = asked.get("seed")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise UserError(f"{name} is no seed: {shown(seed)}.", "A seed is a whole number from 0, such as 7.")
        return Draw(torch.randn(self.latent_size, generator=torch.Generator().manual_seed(seed)), label, seed)

    def _label(self, asked: Any, name: str) -> int | None:
        if asked is None:
            return None
        if not self.classes:
            raise UserError(f"{name} asks for a class, but this model was trained without classes.")
        if str(asked) not in self.classes:
            raise UserError(f"{name} asks for the unknown class {shown(asked)}.", nearest(str(asked), self.classes))
        return self.classes.index(str(asked))
