"""All exports of a run side by side: `export.html` and `export.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from common.config import read_json
from common.files import write_json
from common.report import page as report
from common.report import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGREEMENT = ("export", "test metric", "the run's", "difference", "may differ by", "outputs differ by")
SPEED = ("export", "MB", "size of the run's", "ms, 1 sample", "faster", "ms, 32 samples", "faster ")
AGREES = (
    "The metric is measured through the export. Outputs are compared on samples of the test split; "
    "the difference is the largest, of the largest output."
)
TIMES = (
    "Medians of single calls of the network, without reading inputs. The run's network, in fp32 and not compiled, took "
    "turns with the export's."
)


def write(root: Path, example: str) -> None:
    """Writes the table of the exports under a folder from the `export.json` of each."""
    rows = [read_json(file) for file in sorted(root.glob("[!.]*/export.json"))]
    write_json(root / "export.json", rows)
    agreement = report.table("Agreement with the run", AGREEMENT, [_agreement(row) for row in rows], AGREES)
    sections = [
        report.figure("Size and speed", _figures(rows), "Shorter is better. Grey is the run itself."),
        replace(agreement, wide=True),
        report.table("Numbers", SPEED, [_speed(row) for row in rows], TIMES),
    ]
    machines = "; ".join(dict.fromkeys(str(row["hardware"]) for row in rows))
    facts = {"run": root.parent.name, "metric": rows[0]["metric"], "measured on": machines}
    html = report.page(
        f"Exports of {example}", "The same network in other formats, beside the run's own", None, sections, facts
    )
    report.write(root / "export.html", html)


def _name(row: dict[str, Any]) -> str:
    kind = "" if row["quantize"] == "none" else f" {row['quantize']}"
    return f"{row['format']}{kind}" + (f", batches of {row['batch']}" if row["batch"] else "")


def _agreement(row: dict[str, Any]) -> list[str]:
    return [
        _name(row),
        f"{row['value']:.4f}",
        f"{row['original']:.4f}",
        f"{row['value'] - row['original']:+.4f}",
        f"{row['tolerance']:.4f}",
        f"{row['difference']:.2g} of {row['largest']:.3g}",
    ]


def _speed(row: dict[str, Any]) -> list[str]:
    ours, theirs = row["milliseconds"], row["original_milliseconds"]
    times = [x for size in ours for x in (f"{ours[size]:.3f}", f"{theirs[size] / max(ours[size], 1e-3):.2f} ×")]
    return [_name(row), f"{row['bytes'] / 1e6:.3f}", f"{row['bytes'] / row['original_bytes']:.2f} ×", *times]


def _figures(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """Bars of the size and of the latency at each batch size, those of the run first."""
    names = ["the run", *map(_name, rows)]
    quantities = {"MB": [rows[0]["original_bytes"] / 1e6, *(row["bytes"] / 1e6 for row in rows)]}
    for size in rows[0]["milliseconds"]:
        title = f"ms for {size} sample{'s' if size != '1' else ''}"
        quantities[title] = [
            median(row["original_milliseconds"][size] for row in rows),
            *(row["milliseconds"][size] for row in rows),
        ]
    return [_bars(title, names, values) for title, values in quantities.items()]


def _bars(title: str, names: Sequence[str], values: Sequence[float]) -> Figure:
    with plots.canvas(f"{title} of each export", 3.6, 0.8 + 0.32 * len(names)) as (figure, (ax,)):
        bars = ax.barh(names, values, height=0.62, color=[plots.SECOND, *[plots.ACCENT] * (len(names) - 1)])
        ax.bar_label(bars, [f"{value:.3g}" for value in values], padding=4, color=plots.MUTED)
        ax.invert_yaxis()
        ax.grid(visible=False)
        ax.margins(x=0.18)
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        ax.set_title(title)
    result: Figure = figure
    return result
