"""How a text goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from common.kinds.answer import Answer, Row


@dataclass(frozen=True)
class Continuation(Answer):
    """What a model wrote, and the probability that it gave to each piece of it.

    A row holds the `text`, its number of `tokens`, why it ended as `finish_reason` ("stop" at a stop string or at the
    end of a document, "length" after the most tokens), and `pieces`: [text, probability in 0..1] of each, which
    together are the text. `prompt_pieces` are those of the prompt, as far as the model saw it.
    """

    kind: ClassVar[str] = "continuation"
    key: ClassVar[str] = "text"

    def schema(self) -> dict[str, Any]:
        piece = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]}
        properties = {
            self.key: {"type": "string"},
            "tokens": {"type": "integer"},
            "finish_reason": {"enum": ["stop", "length"]},
            "pieces": {"type": "array", "items": piece},
            "prompt_pieces": {"type": "array", "items": piece},
        }
        return {"type": "object", "required": list(properties), "properties": properties}

    @property
    def columns(self) -> list[str]:
        return [self.key, "tokens", "finish_reason"]

    def cells(self, row: Row) -> list[Any]:
        return [row.get(name, "") for name in self.columns]
