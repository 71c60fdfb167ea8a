"""Figures by matplotlib's object API, as inline SVG that follows light and dark mode, or as pixels.

A figure is drawn in the light colours below; `svg` replaces each of them by the CSS variable of its name, so other
modules that draw with `canvas` and these colours get figures that follow the page.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.report.words import label

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, ACCENT, SECOND = "#1b1f27", "#5c6473", "#e3e6eb", "#ffffff", "#2450b8", "#8a94a6"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", ACCENT: "accent", SECOND: "second"}
CURVE_POINTS = 300  # drawn per curve; longer histories are averaged down to it

_THEME: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a class named "$x" is not a formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.4,
}


@contextlib.contextmanager
def _theme(more: Mapping[Any, Any] | None = None) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**_THEME, **(more or {})}), warnings.catch_warnings():
        # Class names may be in any script; the browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


@contextlib.contextmanager
def canvas(label: str, width: float = 5.0, height: float = 3.6, rows: Sequence[float] = (1,)) -> Iterator[Any]:
    """Gives a themed Figure and its list of Axes, one below the other; to be drawn on inside the `with`.

    Args:
        label: what the figure shows, for those who do not see it.
        width, height: in inches; 5 is half a laptop's page and a whole phone's, where the text of 10 pt is readable.
        rows: relative heights of the axes.
    """
    from matplotlib.figure import Figure

    with _theme():
        figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER, label=label)
        axes = figure.subplots(len(rows), 1, squeeze=False, sharex=len(rows) > 1, height_ratios=rows)
        for ax in axes.flat:
            ax.set_facecolor("none")
        yield figure, list(axes.flat)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once: another pass would move things by fractions of a pixel


def curves(history: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Training curves as small multiples, one figure a quantity, the learning rate last.

    Args:
        history: the logged rows in order, each with "step" or "epoch" and any numbers. `train_x` (or x) and
            `val_x` share a figure. Values that are not finite numbers are left out, as are times and a
            learning rate that never changes.
    """
    unit = _unit(history)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for i, row in enumerate(history):
        for key, value in row.items():
            if key in _NOT_CURVES or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                name, part = _split(key)
                panels.setdefault(name, {}).setdefault(part, []).append((float(row.get(unit, i)), float(value)))
    for parts in panels.values():
        if "" in parts and len(parts) > 1:  # `loss` beside `val_loss`
            parts["train"] = parts.pop("") + parts.get("train", [])
    constant = {name for name, parts in panels.items() if name in _RATES and len({y for _, y in parts[""]}) == 1}
    shown = [name for name in panels if name not in constant]
    order = sorted(shown, key=lambda name: ("loss" not in name, name in _RATES))
    return [_curve(name, panels[name], unit) for name in order]


def bands(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[Figure]:
    """Learning curves of several runs: the mean of each quantity by step, and a band from the lowest to the highest.

    Values between logged steps are interpolated; a run that ended earlier takes no part in what comes after.

    Args:
        histories: of each run, as for `curves`.
    """
    series: dict[str, list[list[tuple[float, float]]]] = {}
    for history in histories:
        own: dict[str, list[tuple[float, float]]] = {}
        for row in history:
            for key, value in row.items():
                known = key in _NOT_CURVES or key in _RATES or isinstance(value, bool)
                if not known and isinstance(value, int | float) and math.isfinite(value):
                    own.setdefault(key, []).append((float(row["step"]), float(value)))
        for key, points in own.items():
            series.setdefault(key, []).append(_thin(points))
    order = sorted(series, key=lambda name: "loss" in name)
    return [_band(name, series[name]) for name in order]


def _band(name: str, runs: Sequence[Sequence[tuple[float, float]]]) -> Figure:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    lines = [np.array(points).T for points in runs]  # each [2, points]
    grid = np.unique(np.concatenate([x for x, _ in lines]))
    values = np.stack([np.interp(grid, x, y, right=np.nan) for x, y in lines])  # [runs, steps]
    title = label(name)
    with canvas(f"{title} by step, {len(runs)} runs", 3.6, 2.5) as (figure, (ax,)):
        ax.fill_between(grid, np.nanmin(values, 0), np.nanmax(values, 0), color=SECOND, alpha=0.35, linewidth=0)
        ax.plot(grid, np.nanmean(values, 0), color=ACCENT, marker="o" if len(grid) == 1 else None, markersize=4)
        ax.locator_params(axis="y", nbins=4)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_title(title)
        ax.set_title(f"{np.nanmean([y[-1] for _, y in lines]):.4g}", loc="right", color=ACCENT, fontweight="normal")
        ax.set_xlabel("step")
    return figure


_NOT_CURVES = {
    "step",
    "environment_steps",
    "epoch",
    "time",
    "seconds",
    "wall_time",
    "elapsed",
    "images_per_second",
    "samples_per_second",
}
_RATES = {"lr", "learning_rate"}
_PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def _unit(history: Sequence[Mapping[str, Any]]) -> str:
    """The x axis: epochs where they tell the rows of each key apart, else steps."""
    if not all("epoch" in row for row in history):
        return "step"
    seen = [(key, row["epoch"]) for row in history for key in row if key not in _NOT_CURVES]
    return "epoch" if len(set(seen)) == len(seen) else "step"


def _split(key: str) -> tuple[str, str]:
    """'val_loss' or 'val/loss' -> ('loss', 'validation')."""
    head, separator, rest = key.replace("/", "_").partition("_")
    return (rest, _PARTS[head]) if separator and head in _PARTS else (key, "")


def _curve(name: str, parts: Mapping[str, list[tuple[float, float]]], unit: str) -> Figure:
    from matplotlib.ticker import MaxNLocator

    title = label(name)
    values = [y for points in parts.values() for _, y in points]
    with canvas(f"{title} by {unit}", 3.6, 2.5) as (figure, (ax,)):
        for part in sorted(parts):  # train, then validation above it
            x, y = zip(*_thin(parts[part]), strict=True)
            main = part != "train" or len(parts) == 1
            marker = "o" if len(x) == 1 else None
            ax.plot(x, y, color=ACCENT if main else SECOND, label=part, marker=marker, markersize=4)
        if "loss" in name and min(values) > 0 and max(values) > 20 * min(values):
            ax.set_yscale("log")
            plain(ax.yaxis, (1, 2, 5) if max(values) < 1000 * min(values) else (1,))
        else:
            ax.locator_params(axis="y", nbins=4)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        only = next(iter(parts)) if len(parts) == 1 else ""
        ax.set_title(f"{only} {title}".strip())
        if name not in _RATES:
            ax.set_title(f"{parts[max(parts)][-1][1]:.4g}", loc="right", color=ACCENT, fontweight="normal")
        ax.set_xlabel(unit)
        if len(parts) > 1:
            ax.legend(loc="best")
    return figure


def plain(axis: Any, multiples: Sequence[int]) -> None:
    """Labels a logarithmic axis with plain numbers, at these multiples of the powers of ten."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Averages neighbours, so that a long history stays a light figure."""
    size = math.ceil(len(points) / CURVE_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def svg(figure: Figure) -> str:
    """The figure as inline SVG without size, fonts and fixed colours of its own; the same figure gives the same bytes.

    Colours become var(--ink), var(--accent), … of the page with the light colour as fallback; texts take the page's
    font. Ids begin with a digest of the figure, so that different figures may stand on one page.
    """
    buffer = io.StringIO()
    with _theme({"svg.fonttype": "none", "svg.hashsalt": "common.plots"}):
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", _tidy_tag, text)
    text = re.sub(r">\s+<", ">\n<", text).replace("<g/>\n", "")
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = prefix_ids(text, f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-")
    width = figure.get_size_inches()[0] * 72
    label = html.escape(str(figure.get_label()), quote=True)
    style = f"stroke-linejoin:round;min-width:{0.85 * width:.0f}px;max-width:{1.45 * width:.0f}px"
    return re.sub(r"^<svg", f'<svg role="img" aria-label="{label}" style="{style}"', text)


def _tidy_tag(match: re.Match[str]) -> str:
    """Rounds coordinates, drops sizes, fonts and namespaces (HTML needs none), names the colours."""
    tag = match[0].replace("xlink:href", "href")
    if tag.startswith("<svg"):
        return re.sub(r' (width|height|version|xmlns(:xlink)?)="[^"]*"', "", tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r' d="[^"]*"', lambda d: re.sub(r"\s*([A-Zz])\s*", r"\1", d[0]), tag)
    tag = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", r"font-weight: \1; font-size: \2", tag)
    tag = re.sub(r"font-weight: ;|font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda c: f"var(--{VARIABLES[c[0]]}, {c[0]})" if c[0] in VARIABLES else c[0], tag)


def prefix_ids(text: str, prefix: str) -> str:
    """Puts `prefix` before each id in an SVG and before each reference to one; texts are left alone."""
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", tag[0]), text)


def pixels(figure: Figure, dpi: int = 144) -> np.ndarray:
    """The figure as uint8 [H, W, 3] in light colours, for TensorBoard's add_image(dataformats="HWC")."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    with _theme():
        figure.savefig(buffer, format="png", dpi=dpi)  # restores the figure's own dpi and canvas
    return np.array(Image.open(buffer).convert("RGB"))
