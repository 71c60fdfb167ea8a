"""A picture that grew out of noise, and the pictures on its way."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from common.kinds.answer import Row
from common.kinds.picture import Picture
from common.report import frames


@dataclass(frozen=True)
class Denoising(Picture):
    """A PNG file and, where it was asked for, a PNG file for each step: what the model then expected to end with."""

    kind: ClassVar[str] = "denoising"
    path: ClassVar[str] = "path"

    def rows(self, outputs: Tensor, path: Tensor | None = None) -> list[Row]:
        """The row of each image, uint8 [B, C, H, W].

        Args:
            path: of a batch of one, the pictures on its way, uint8 [T, C, H, W].
        """
        rows = super().rows(outputs)
        if path is not None:
            rows[0][self.path] = [base64.b64encode(frames.png(image, quick=True)).decode() for image in path]
        return rows

    def files(self, row: Row) -> dict[str, tuple[str, bytes]]:
        """The picture, and its way as an animation."""
        files = super().files(row)
        if self.path in row:
            steps = [frames.read_png(base64.b64decode(step)) for step in row[self.path]]
            files[self.path] = (".gif", frames.gif(steps, fps=max(5, len(steps) / 3)))
        return files

    def schema(self) -> dict[str, Any]:
        schema = super().schema()
        schema["properties"][self.path] = {"type": "array", "items": schema["properties"][self.key]}
        return schema
