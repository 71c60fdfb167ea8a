"""How the labs show photos and figures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.report.plots import ACCENT, INK, SECOND, canvas

BLUE, GREY, ORANGE, RED = ACCENT, SECOND, "#d1862b", "#b3261e"


@contextmanager
def axes(label: str, width: float = 6.0, height: float = 3.0) -> Iterator[Any]:
    """Axes to draw on, shown at the end of the `with`.

    Args:
        label: what the figure shows, for those who do not see it.
        width, height: in inches.
    """
    with canvas(label, width, height) as (figure, (ax,)):
        yield ax
    _show(figure)


def gallery(images: Sequence[Any], captions: Sequence[str] = (), wrong: Sequence[bool] = (), columns: int = 8) -> None:
    """Shows photos in rows; captions of wrong answers are red.

    Args:
        images: uint8 tensors [3, S, S], or files.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.2 * columns, (1.45 if captions else 1.2) * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for number, (ax, image) in enumerate(zip(grid, images, strict=False)):
        ax.imshow(Image.open(image) if isinstance(image, Path) else image.permute(1, 2, 0).numpy())
        if captions:
            ax.set_title(captions[number], fontsize=9, color=RED if wrong and wrong[number] else INK)
    for ax in grid:
        ax.axis("off")
    _show(figure)


def table(cells: Sequence[Sequence[object]], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Shows a table, numbers in four digits."""
    from html import escape

    from IPython.display import HTML, display

    def line(head: str, values: Sequence[object], tag: str) -> str:
        shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        inside = "".join(f"<{tag} style='text-align:right'>{escape(text)}</{tag}>" for text in shown)
        return f"<tr><th style='text-align:left'>{escape(head)}</th>{inside}</tr>"

    body = "".join(line(head, values, "td") for head, values in zip(rows, cells, strict=True))
    display(HTML(f"<table>{line('', columns, 'th')}{body}</table>"))


def _show(figure: Any) -> None:
    from IPython.display import Image, display

    png = io.BytesIO()
    figure.savefig(png, dpi=100)
    display(Image(png.getvalue(), format="png"))
