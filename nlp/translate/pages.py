"""What a report shows of translations: beside what is simpler, by length, as they are, and where the model looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common.kinds.answer import Row
from common.metrics import Metrics
from common.report import page as report
from common.report.plots import canvas
from nlp.translate import scores
from nlp.translate.data import PairData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # translations, the first of the test split
MAPS = 4  # of attention, likewise
LENGTHS = 5  # groups of test texts by length
LETTERS = 40  # parts that a map has room for


def sections(
    data: PairData, texts: dict[str, list[str]], shown: Sequence[Row], metrics: Metrics
) -> list[report.Section]:
    """The report's own story.

    Args:
        texts: the translations of the test split by their method.
        shown: rows of its first sources.
    """
    found = [
        beside(data, texts, metrics),
        by_length(data, texts),
        examples(data, texts),
        report.figure(
            "Where it looked", [heat(row) for row in shown],
            "The first texts of the test split: how much the last layer looked at each part of the source (across) "
            "before it said a part (down), on average over its heads.",
        ),
    ]  # fmt: skip
    return [replace(section, first=True) for section in found]


def beside(data: PairData, texts: dict[str, list[str]], metrics: Metrics) -> report.Section:
    """A row for each method."""
    measured = {method: scores.points(found, data.test.references, data.symbols) for method, found in texts.items()}
    names = list(next(iter(measured.values())))
    rows = [(method, *(values[name] for name in names)) for method, values in measured.items()]
    note = "Word by word: IBM model 1, the likeliest word for each, in the same order; no network."
    return report.table("Beside what is simpler", ("method", *(_label(name) for name in names)), rows, note)


def _label(name: str) -> str:
    return {"wer": "WER", "per": "PER", "bleu": "BLEU", "chrf": "chrF"}[name]


def by_length(data: PairData, texts: dict[str, list[str]]) -> report.Section:
    """The headline metric for test texts of similar length."""
    sizes = [len(text) if data.symbols else len(text.split()) for text in data.test.sources]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    step = -(-len(order) // LENGTHS)
    name = scores.headline(data.symbols)
    rows: list[Sequence[Any]] = []
    for start in range(0, len(order), step):
        part = order[start : start + step]
        right = [data.test.references[i] for i in part]
        values = [
            scores.points([found[i] for i in part], right, data.symbols)[name]
            for method, found in texts.items() if method in ("beam search", "word by word")
        ]  # fmt: skip
        rows.append((f"{sizes[part[0]]}–{sizes[part[-1]]}", len(part), *values))
    unit = "letters" if data.symbols else "words"
    label = _label(name)
    columns = (f"{unit} of the source", "texts", f"{label}, beam search", f"{label}, word by word")
    return report.table("By length", columns, rows)


def examples(data: PairData, texts: dict[str, list[str]]) -> report.Section:
    """The first texts of the test split, not picked by anybody."""
    split = data.test
    rows = [
        (split.sources[i], texts["beam search"][i], " | ".join(split.references[i]), texts["word by word"][i])
        for i in range(min(SHOWN, len(split)))
    ]
    columns = ("source", "the model", "right", "word by word")
    return replace(report.table("The first of the test split", columns, rows), wide=True)


def heat(row: Row) -> Figure:
    """The attention of one translation, a cell for each pair of parts."""
    across = [part.strip() or "␣" for part in row["source_pieces"][:LETTERS]]
    down = [part.strip() or "␣" for part, _ in row["pieces"][:LETTERS]]
    values = [line[: len(across)] for line in row["attention"][: len(down)]]
    size = 1.4 + 0.28 * max(len(across), len(down), 4)
    with canvas("Attention", min(5.0, size), min(4.5, size)) as (figure, (ax,)):
        if values and across:
            ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        long = max(map(len, across), default=0) > 2
        ax.set_xticks(range(len(across)), across, rotation=90 if long else 0)
        ax.set_yticks(range(len(down)), down)
        ax.tick_params(length=0)
        ax.grid(visible=False)
    return figure
