"""An action, chosen by the value of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from common.kinds.answer import Row, Scored


@dataclass(frozen=True)
class Action(Scored):
    """The best of some actions, and the return that is expected of each."""

    kind: ClassVar[str] = "action"
    key: ClassVar[str] = "action"
    scores: ClassVar[str] = "q_values"

    def rows(self, outputs: Tensor) -> list[Row]:
        """The row of each observation.

        Args:
            outputs: expected returns [B, A].
        """
        rows: list[Row] = []
        for values in outputs:
            named: dict[str, Any] = {n: round(v, 6) for n, v in zip(self.names, values.tolist(), strict=True)}
            rows.append({self.key: self.names[int(values.argmax())], self.scores: named})
        return rows
