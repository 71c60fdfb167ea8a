"""The report of a run: one HTML file with nothing outside it, for laptop, phone and paper, in light and dark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from common.files import write_whole
from common.metrics import Metrics
from common.report import frames, plots
from common.report.words import heading, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Nothing is loaded from elsewhere and no script runs, even if a text should ever slip through unescaped.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Picture:
    """An image uint8 [C, H, W] (C = 1, 3 or 4) with a caption and a smaller line under it."""

    image: Tensor
    caption: str
    detail: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: plain text.
        body: trusted HTML, as made by the functions below.
        note: plain text under the title: how to read it.
        wide: takes the whole width of a laptop's page, else half of it.
        first: stands before the training curves and what every classifier has: the page's own story.
    """

    title: str
    body: str
    note: str = ""
    wide: bool = True
    first: bool = False


def pictures(title: str, pictures: Sequence[Picture], note: str = "") -> Section:
    """A grid of captioned pictures."""
    return Section(title, f'<div class="pictures">{"".join(map(_picture, pictures))}</div>', note)


def _picture(picture: Picture) -> str:
    photo = ' class="photo"' if max(picture.image.shape[1:]) > 64 else ""  # smaller ones keep their square pixels
    caption, detail = _breakable(picture.caption), _breakable(picture.detail)
    alt = escape(f"{picture.caption} {picture.detail}".strip())
    return (
        f'<figure><img{photo} src="{frames.data_uri(picture.image)}" alt="{alt}" loading="lazy">'
        f"<figcaption>{caption}{f'<span>{detail}</span>' if detail else ''}</figcaption></figure>\n"
    )


def image(title: str, picture: Tensor, alt: str, note: str = "") -> Section:
    """One picture, uint8 [C, H, W], over the width of the page; its pixels stay square."""
    uri = frames.embed(frames.png(picture), "png")
    return Section(title, f'<img class="sheet" src="{uri}" alt="{escape(alt)}" loading="lazy">', note)


def animation(title: str, content: bytes, alt: str, note: str = "") -> Section:
    """An animated GIF, on half a page."""
    uri = frames.embed(content, "gif")
    return Section(title, f'<img class="sheet" src="{uri}" alt="{escape(alt)}" loading="lazy">', note, wide=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> Section:
    """A table, on half a page up to six columns; numbers stand at the right, None in their column is a dash."""
    numeric = [all(type(row[i]) in (int, float, NoneType) for row in rows) for i in range(len(columns))]
    long = [any(len(text(row[i])) > 12 for row in rows) for i in range(len(columns))]  # not one word a line on a phone
    side = [' class="right"' if n else ' class="long"' if x else "" for n, x in zip(numeric, long, strict=True)]
    head = "".join(f'<th scope="col"{s}>{escape(c)}</th>' for c, s in zip(columns, side, strict=True))
    lines = []
    for row in rows:
        texts = [value_text(c, x) if number else text(x) for c, x, number in zip(columns, row, numeric, strict=True)]
        lines.append(
            "<tr>" + "".join(f"<td{s}>{_breakable(t)}</td>" for t, s in zip(texts, side, strict=True)) + "</tr>"
        )
    body = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table>"
    # tabindex: what scrolls must be reachable by keyboard.
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
    return Section(title, f"{region}{body}</div>", note, wide=len(columns) > 6)


def figure(title: str, fig: Figure | Sequence[Figure], note: str = "") -> Section:
    """One figure on half a page, or several beside each other on a whole one."""
    figures = list(fig) if isinstance(fig, Sequence) else [fig]
    inches = sum(float(f.get_size_inches()[0]) for f in figures)
    drawn = "".join(f"<div>{plots.svg(f)}</div>\n" for f in figures)
    style = f' style="{_tiling(len(figures), (2, 3, 4), (2,))}"' if len(figures) > 3 else ""
    return Section(title, f'<div class="figures"{style}>{drawn}</div>', note, wide=inches > 6)


def _breakable(plain: str) -> str:
    """Escaped; a line may break after the underscores, dots and slashes of a name, but not within a number."""
    return re.sub(r"([_/\\]|\.(?!\d))(?=\w)", r"\1<wbr>", escape(plain))


def value_text(name: str, value: float | int | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    size = abs(value)
    if 0 < size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{4 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def page(
    title: str,
    subtitle: str,
    metrics: Metrics | None,
    sections: Sequence[Section],
    facts: Mapping[str, Any],
) -> str:
    """The whole report as HTML, the same bytes for the same input.

    Args:
        metrics: shows its headline large, with `<headline>_low`, `<headline>_high` as its 95 % interval and `n` where
            it has them, then the other values and the notes.
        facts: what must be known to repeat the run: config, hardware, time. Plain text.
    """
    name = f"{title} · {subtitle}" if subtitle else title  # of the window, beside those of other runs
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    body = "\n".join([*([_headline(metrics)] if metrics else []), f"<main>{''.join(map(_section, sections))}</main>"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n<p>{escape(subtitle)}</p></header>\n"
        f"{_unique_ids(body)}\n{_facts(facts)}</body>\n</html>\n"
    )


def _headline(metrics: Metrics) -> str:
    name, values = metrics.headline, metrics.values
    number = re.sub(r" %$", "<small>%</small>", escape(value_text(name, values[name])))
    around = []
    if f"{name}_low" in values and f"{name}_high" in values:
        low, high = (value_text(name, values[f"{name}_{end}"]) for end in ("low", "high"))
        around.append(f"<span>95 % interval</span>{low.removesuffix(' %')} – {high}")
    if "n" in values:
        around.append(f"<span>test samples</span>{value_text('n', values['n'])}")
    rest = {key: x for key, x in values.items() if key not in (name, f"{name}_low", f"{name}_high", "n")}
    tiles = "".join(f"<div><dt>{escape(heading(k))}</dt><dd>{value_text(k, x)}</dd></div>\n" for k, x in rest.items())
    notes = "".join(f"<li>{escape(note[:1].upper() + note[1:])}.</li>" for note in metrics.notes)
    return (
        f'<div class="headline"><div><div class="name">{escape(heading(name))}</div>'
        f'<div class="number">{number}</div></div>\n'
        + "".join(f'<div class="around">{part}</div>\n' for part in around)
        + "</div>\n"
        + (f'<dl class="values" style="{_tiling(len(rest), (5, 6, 7), (3, 4, 5))}">{tiles}</dl>\n' if tiles else "")
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
    )


def _tiling(count: int, wide: Sequence[int], narrow: Sequence[int]) -> str:
    """How many tiles stand in a row on a laptop and on a tablet: no last row of a single one, and few empty places."""

    def columns(choices: Sequence[int]) -> int:
        return min(choices, key=lambda n: (count > n and count % n == 1, -count % n, -n))

    return f"--columns: {columns(wide)}; --fewer: {columns(narrow)}"


def _section(section: Section) -> str:
    wide = ' class="wide"' if section.wide else ""
    title, note = escape(section.title), escape(section.note)
    return f'<section{wide}><h2>{title}</h2><p class="note">{note}</p>\n<div>{section.body}</div></section>\n'


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<div><dt>{_breakable(k)}</dt><dd>{_breakable(text(v))}</dd></div>\n" for k, v in facts.items())
    return f'<details open><summary>The run</summary>\n<dl class="facts">{rows}</dl></details>\n' if facts else ""


def _unique_ids(body: str) -> str:
    """Renames the ids of an SVG that is on the page a second time; different ones differ by `plots.svg`."""
    seen: Counter[str] = Counter()

    def rename(match: re.Match[str]) -> str:
        seen[match[0]] += 1
        return plots.prefix_ids(match[0], f"r{seen[match[0]]}-") if seen[match[0]] > 1 else match[0]

    return re.sub(r"<svg\b.*?</svg>", rename, body, flags=re.DOTALL)


def write(path: Path, html: str) -> None:
    """Writes the page whole or not at all: an interrupted or failed write leaves the old one.

    Raises UserError where it can't be written (read-only folder, full disk).
    """
    with write_whole(path) as file:
        file.write(html.encode())
