"""What every kind of answer shares, and the kind that a new one begins with: everything here may be said otherwise.

A kind says what a row of an answer holds, how it stands in a table and in files, how it is measured, and what a report
shows of it. Nobody else tests a kind's name: who wants to know asks the kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.kinds.base import Kind

if TYPE_CHECKING:
    from torch import nn

    from common.kinds.game import Game
    from common.kinds.writing import Writer
    from common.metrics import Metrics
    from common.report.page import Section

Row = dict[str, Any]  # JSON-able, one for each input


class Answer:
    """What a model answers with.

    How a kind makes rows of a network's outputs, and how it measures them, is between it and the examples that answer
    so: by custom `rows(outputs)`, `measure(outputs, targets)` and, for every epoch, `validate(outputs, targets)`.

    Attributes:
        kind: its name, such as "labels"; also of the page's view for it.
        key: under which a row holds the answer.
        scores: under which a row holds a number for each of `names`, as an object; "" where there are none.
        names: of the outputs, in their order; empty where they have none.
        in_files: whether answers are too large for a table and become files of their own.
        unit: of `evidence`.
        together: the suffix of the one file in which others expect the answers to many inputs; "" where there is none.
        drawn: whether an answer can be drawn on its input.
    """

    kind: ClassVar[str]
    key: ClassVar[str]
    scores: ClassVar[str] = ""
    names: Sequence[str] = ()
    in_files: ClassVar[bool] = False
    unit: ClassVar[str] = "nats"
    together: ClassVar[str] = ""
    drawn: ClassVar[bool] = False

    # -- rows -------------------------------------------------------------------------------------------

    def is_row(self, row: Row) -> bool:
        """Whether a row that was read again is one of this model."""
        return self.key in row

    def schema(self) -> dict[str, Any]:
        """Of a row, for the API's description."""
        return {"type": "object", "required": [self.key]}

    @property
    def columns(self) -> list[str]:
        """Of a table of answers: a text, then numbers."""
        return [self.key]

    def cells(self, row: Row) -> list[Any]:
        """A row in the order of the columns; empty where it has no value."""
        return [row.get(self.key, "")]

    def files(self, row: Row) -> dict[str, tuple[str, bytes]]:
        """What of a row becomes a file: its key to the file's suffix and content."""
        return {}

    def as_file(self, rows: Sequence[Row]) -> bytes:
        """The content of the file that `together` names; each row has its input's name under "file"."""
        raise NotImplementedError

    def draw(self, row: Row, source: Path | bytes) -> bytes:
        """The input with its answer drawn on it, as a PNG file, where `drawn` says that this can be done."""
        raise NotImplementedError

    # -- why ---------------------------------------------------------------------------------------------

    def about(self, row: Row) -> str:
        """The one of `names` that an explanation of a row is about, where nobody asks for another."""
        return str(row[self.key])

    def evidence(self, row: Row, name: str) -> float:
        """What a row says for one of `names`: explanations tell how much of it is lost without a part of the input."""
        return math.log(max(row[self.scores][name], 1e-6))  # of a probability

    # -- measuring --------------------------------------------------------------------------------------

    def sections(self, metrics: Metrics) -> list[Section]:
        """What a report shows of the metrics; nothing by default."""
        return []

    def pictures(self, metrics: Metrics) -> dict[str, Any]:
        """What TensorBoard shows of them, uint8 [C, H, W] by name, arrays or tensors; nothing by default."""
        return {}


@dataclass(frozen=True)
class Scored(Answer):
    """One of some names, and a number for each of them."""

    names: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(str, self.names)))

    def is_row(self, row: Row) -> bool:
        return self.key in row and row[self.scores].keys() == set(self.names)

    def schema(self) -> dict[str, Any]:
        scores = {"type": "object", "additionalProperties": {"type": "number"}}
        properties = {self.key: {"type": "string"}, self.scores: scores}
        return {"type": "object", "required": [self.key, self.scores], "properties": properties}

    @property
    def columns(self) -> list[str]:
        return [self.key, *self.names]

    def cells(self, row: Row) -> list[Any]:
        scores = row.get(self.scores, {})
        return [row.get(self.key, ""), *(scores.get(name, "") for name in self.names)]


@dataclass(frozen=True)
class Predictor:
    """A trained model in use.

    Attributes:
        input: how raw input is read.
        answer: what comes out.
        predict: a list of decoded inputs to a row of the answer for each.
        model: the network that `predict` calls, for those who change how it is computed (number format, export).
        explain: from a decoded input and the number of one of the answer's names, what in the input speaks for it: of
            an image a heat map [h, w] in 0..1 over the square that the model sees, of a text spans with scores. Without
            it, an image is explained by its `model` and a text by its words.
        play: makes a game in which the model acts.
        writer: makes what writes texts token by token, several at the same time; what `predict` answers is the same.
    """

    input: Kind
    answer: Answer
    predict: Callable[[Sequence[Any]], list[Row]]
    model: nn.Module | None = None
    explain: Callable[[Any, int], Any] | None = None
    play: Callable[[], Game] | None = None
    writer: Callable[[], Writer] | None = None
