"""A picture that a model makes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from common.kinds.answer import Answer, Row
from common.report import frames


@dataclass(frozen=True)
class Picture(Answer):
    """A PNG file, in JSON as base64."""

    kind: ClassVar[str] = "picture"
    key: ClassVar[str] = "png"
    in_files: ClassVar[bool] = True

    def rows(self, outputs: Tensor) -> list[Row]:
        """The row of each image, uint8 [B, C, H, W]."""
        return [{self.key: base64.b64encode(frames.png(image)).decode()} for image in outputs]

    def files(self, row: Row) -> dict[str, tuple[str, bytes]]:
        return {self.key: (".png", base64.b64decode(row[self.key]))} if self.key in row else {}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "required": [self.key],
            "properties": {self.key: {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}},
        }
