"""What an agent sees."""

from __future__ import annotations

import functools
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.errors import UserError
from common.kinds.base import CSV, TEXT, Kind, checked, content_of, dumps, json_of, tensor_of, text_of

NPY = "application/x-npy"


@dataclass(frozen=True)
class ObservationInput(Kind):
    """What an agent sees.

    Args:
        shape: of one observation.
    """

    kind: ClassVar[str] = "observation"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".npy")
    media: ClassVar[tuple[str, ...]] = (CSV, TEXT, NPY)
    usage: ClassVar[str] = '--value "[...]"'

    shape: tuple[int, ...]

    def sample(self) -> bytes:
        return json.dumps(torch.zeros(self.shape).tolist()).encode()

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """float32 of the given shape, from nested JSON lists or a .npy file.

        Raises:
            UserError: another shape, or a value that is no finite number.
        """
        name = name or "The observation"
        content = content_of(source, name)
        if content.startswith(b"\x93NUMPY"):
            np = _numpy()
            try:
                value = np.load(io.BytesIO(content), allow_pickle=False)
            except Exception as error:  # of the header anything: its text is a Python literal
                raise UserError(f"{name} is a damaged .npy file ({type(error).__name__}).") from error
            if value.dtype.kind not in "biuf":
                raise UserError(f"{name} holds {str(value.dtype)[:80]}, not numbers.")
            with np.errstate(all="ignore"):  # what float32 can't hold becomes infinite, and is refused as that
                return checked(torch.from_numpy(value.astype("float32")), self.shape, name)
        return tensor_of(json_of(text_of(content, name), name), self.shape, name)

    def alone(self, media: str) -> bool:
        return media in (TEXT, NPY)

    def cells(self, cells: list[str]) -> bytes:
        if len(cells) != math.prod(self.shape):
            raise UserError(f"A line has {len(cells)} numbers; an observation has {math.prod(self.shape)}.")
        return dumps(_nested([float(cell) for cell in cells], self.shape)).encode()

    def is_one(self, value: Any) -> bool:
        """An observation is a list itself, as deep as its shape."""
        if not isinstance(value, list):
            return True
        depth = 0
        while isinstance(value, list) and value:
            value, depth = value[0], depth + 1
        return depth == len(self.shape) and not isinstance(value, dict)

    def documents(self) -> dict[str, dict[str, Any]]:
        return super().documents() | {NPY: {"schema": {"type": "string", "format": "binary"}}}


def _nested(values: list[float], shape: Sequence[int]) -> Any:
    if len(shape) <= 1:
        return values
    step = math.prod(shape[1:])
    return [_nested(values[i : i + step], shape[1:]) for i in range(0, len(values), step)]


@functools.cache
def _numpy() -> Any:
    import numpy as np

    # NumPy warns of headers that Python 2 wrote, and Python of odd literals in them; what matters is an error.
    warnings.filterwarnings("ignore", message="Reading `.npy` or `.npz` file required")
    warnings.filterwarnings("ignore", message="invalid escape sequence")
    return np
