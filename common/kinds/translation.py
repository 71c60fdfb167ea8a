"""A text in other words: what it became, where the model looked for each part, and what else it might have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from common.kinds.answer import Answer, Row


@dataclass(frozen=True)
class Translation(Answer):
    """What a model made of a text.

    A row holds the `text`, and its `probability` in 0..1 as a whole. `source_pieces` are the parts of what was asked,
    `pieces` the parts of the text with the probability of each, [text, probability in 0..1], and `attention` is how
    much the model looked at each part of the source before it said a part: a list for each piece, of a number in 0..1
    for each source piece. `alternatives` are other texts, the best first: [text, probability].
    """

    kind: ClassVar[str] = "translation"
    key: ClassVar[str] = "text"

    def schema(self) -> dict[str, Any]:
        scored = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]}
        properties = {
            self.key: {"type": "string"},
            "probability": {"type": "number"},
            "source_pieces": {"type": "array", "items": {"type": "string"}},
            "pieces": {"type": "array", "items": scored},
            "attention": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "alternatives": {"type": "array", "items": scored},
        }
        return {"type": "object", "required": list(properties), "properties": properties}

    @property
    def columns(self) -> list[str]:
        return [self.key, "probability"]

    def cells(self, row: Row) -> list[Any]:
        return [row.get(name, "") for name in self.columns]
