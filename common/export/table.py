"""All exports of a run side by side: `export.html` and `export.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import report
from common.config import read_json
from common.files import write_json

COLUMNS = (
    "export", "quantised", "metric", "run", "difference", "may differ by", "outputs differ by", "MB", "size of run's",
    "ms, 1 sample", "faster", "ms, 32 samples", "faster ",
)  # fmt: skip
NOTE = (
    "The metric is that of the test split, measured through the export; outputs are compared on samples of that split. "
    "Times are medians of single calls of the network, without reading inputs, beside the run's own in fp32 as it is."
)


def write(root: Path, example: str) -> None:
    """Writes the table of the exports under a folder from the `export.json` of each."""
    rows = [read_json(file) for file in sorted(root.glob("*/export.json"))]
    write_json(root / "export.json", rows)
    section = report.table("Exports", COLUMNS, [_cells(row) for row in rows], NOTE)
    machines = "; ".join(dict.fromkeys(str(row["hardware"]) for row in rows))
    html = report.page(
        f"Exports of {example}", f"{rows[0]['metric']} and speed beside the run's", None, [section],
        {"run": root.parent.name, "measured on": machines},
    )  # fmt: skip
    report.write(root / "export.html", html)


def _cells(row: dict[str, Any]) -> list[Any]:
    ours, theirs = row["milliseconds"], row["original_milliseconds"]
    batch = f", batches of {row['batch']}" if row["batch"] else ""
    times = [x for size in ("1", "32") for x in (ours[size], f"{theirs[size] / max(ours[size], 1e-3):.2f} ×")]
    return [
        row["format"] + batch, row["quantize"], f"{row['metric']} {row['value']:.4f}", f"{row['original']:.4f}",
        f"{row['value'] - row['original']:+.4f}", f"{row['tolerance']:.4f}", f"{row['difference']:.3g}",
        round(row["bytes"] / 1e6, 3), f"{row['bytes'] / row['original_bytes']:.2f} ×", *times,
    ]  # fmt: skip
