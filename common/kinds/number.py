"""A number, and the band in which it should lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from common.errors import UserError
from common.kinds.answer import Answer, Row
from common.metrics import Metrics
from common.report import page as report
from common.report.plots import ACCENT, INK, MUTED, SECOND, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.8  # of the values that should lie within the band
SHOWN = 500  # points of a figure


@dataclass(frozen=True)
class Number(Answer):
    """A number of some name, with a band that should hold SHARE of what is true.

    A row is `{"value": 3.5, "low": 2.9, "high": 4.1}`.

    Args:
        names: one, that of the number.
    """

    kind: ClassVar[str] = "number"
    key: ClassVar[str] = "value"
    unit: ClassVar[str] = ""  # that of the number itself

    names: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(str, self.names)))

    def rows(self, outputs: Tensor) -> list[Row]:
        """The row of each input.

        Args:
            outputs: value, low and high [B, 3].
        """
        keys = self.columns
        return [dict(zip(keys, (float(f"{x:.7g}") for x in row), strict=True)) for row in outputs.double().tolist()]

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "required": self.columns, "properties": {n: {"type": "number"} for n in self.columns}}

    @property
    def columns(self) -> list[str]:
        return [self.key, "low", "high"]

    def cells(self, row: Row) -> list[Any]:
        return [row.get(name, "") for name in self.columns]

    def about(self, row: Row) -> str:
        return self.names[0]

    def evidence(self, row: Row, name: str) -> float:
        return float(row[self.key])

    def measure(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """Errors in the unit of the number, the share of variance explained, and how often the band holds.

        `r2` is left out where all targets are the same. `details` has "true", "predicted" and "low", "high".

        Args:
            outputs, targets: value, low and high [N, 3], and what is true [N].

        Raises:
            UserError: the set is empty, or the outputs are not finite.
        """
        if not len(targets):
            raise UserError("there is nothing to evaluate: the set is empty", "Check the split of the data.")
        found, true = outputs.detach().cpu().double(), targets.detach().cpu().double()
        if not bool(found.isfinite().all()):
            raise UserError("the outputs to evaluate are not numbers (NaN or infinite)", "Train with a lower --lr.")
        value, low, high = found.unbind(1)
        error = value - true
        values: dict[str, float | int] = {
            "rmse": error.square().mean().sqrt().item(), "mae": error.abs().mean().item(), "n": len(true)
        }  # fmt: skip
        spread = (true - true.mean()).square().mean().item()
        notes = []
        if spread > 0:
            values["r2"] = 1 - error.square().mean().item() / spread
        else:
            notes.append("all values to be predicted are the same: r2 is undefined and left out")
        values[f"coverage_{round(100 * SHARE)}"] = ((true >= low) & (true <= high)).double().mean().item()
        details = {"true": true.tolist(), "predicted": value.tolist(), "low": low.tolist(), "high": high.tolist()}
        return Metrics("rmse", values, notes, details)

    def sections(self, metrics: Metrics) -> list[report.Section]:
        """What was predicted against what is true."""
        if "predicted" not in metrics.details:
            return []
        covered = metrics.values[f"coverage_{round(100 * SHARE)}"]
        note = (
            f"On the diagonal a prediction is right. The bars are the bands that should hold {100 * SHARE:.0f} % of "
            f"what is true; they hold {100 * covered:.1f} % of these {metrics.values['n']}."
        )
        return [report.figure("Predicted and true", scatter(metrics.details, self.names[0]), note)]


def scatter(details: dict[str, list[float]], name: str) -> Figure:
    """Predictions with their bands against what is true."""
    step = max(1, len(details["true"]) // SHOWN)
    true, value, low, high = (details[key][::step] for key in ("true", "predicted", "low", "high"))
    ends = [min(true + value), max(true + value)]
    with canvas(f"Predicted {name} against the true one", 5.0, 5.0) as (figure, (ax,)):
        ax.vlines(true, low, high, color=SECOND, alpha=0.25, linewidth=1)
        ax.plot(ends, ends, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        ax.plot(true, value, "o", color=ACCENT, markersize=3.5, markeredgewidth=0, alpha=0.8)
        ax.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
        ax.xaxis.label.set_color(INK)
        ax.yaxis.label.set_color(INK)
    return figure
