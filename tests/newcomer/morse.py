"""A message in Morse code: a kind of input that nobody else in the project has heard of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.errors import UserError
from common.kinds.base import Kind, text_of

SIGNS = " .-"


@dataclass(frozen=True)
class MorseInput(Kind):
    """Dots, dashes and gaps, at most `length` of them."""

    kind: ClassVar[str] = "morse"
    suffixes: ClassVar[tuple[str, ...]] = (".morse",)
    media: ClassVar[tuple[str, ...]] = ("audio/x-morse",)
    usage: ClassVar[str] = '--value "... --- ..."'

    length: int

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """int64 [length], the number of each sign."""
        signs = text_of(source, name or "The message").strip()
        if not signs or len(signs) > self.length or set(signs) - set(SIGNS):
            raise UserError(f"{name or 'The message'} is not 1 to {self.length} dots, dashes and gaps.")
        return torch.tensor([SIGNS.index(sign) for sign in signs.ljust(self.length)])

    def sample(self) -> bytes:
        return b"... --- ..."

    def start(self) -> str:
        return self.sample().decode()

    def alone(self, media: str) -> bool:
        return media in self.media

    def value(self, value: Any) -> bytes:
        return str(value).encode()

    def network_input(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))
