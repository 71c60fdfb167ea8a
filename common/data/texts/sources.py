"""Texts by name: embedded, made-up, classic, or the user's own, all as the same three splits."""

from __future__ import annotations

from pathlib import Path

from common.data.texts.classic import CLASSIC, classic
from common.data.texts.csv_file import csv_texts
from common.data.texts.docstrings import docstrings
from common.data.texts.splits import TextData, Texts
from common.data.texts.synthetic import synthetic
from common.errors import UserError, nearest
from common.files import located

__all__ = ["SOURCES", "TextData", "Texts", "load_texts"]

SOURCES: dict[str, str] = {
    "docstrings": "which installed package is a docstring from? no download",
    "synthetic": "made-up words with a known best score, no download",
    "ag-news": "news by topic, 120,000 texts",
    "sst2": "sentiment of sentences, 67,000 phrases or 7,000 sentences",
    "rotten-tomatoes": "sentiment of sentences, 10,662 texts",
    "imdb": "sentiment of film reviews, 50,000 texts",
    "csv:PATH": "a CSV file with a column of texts and one of labels",
}


def load_texts(
    name: str,
    *,
    data_dir: Path | None = None,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
) -> TextData:
    """Load one of SOURCES as train, validation and test splits.

    Splits are disjoint, stratified and seeded, and no near-duplicate is in two of them. Official test sets stay
    whole; what is nearly in them is dropped from train. Without an official split `seed` draws it, so that runs with
    other seeds are tested on other texts.

    Args:
        name: a key of SOURCES, or `csv:` and a path.
        data_dir: where data sets are looked for and downloaded to, `data` by default; it may be the very folder with
            the classic files. The relative path of a CSV file is looked up in it first.
        seed: of the splits, and of made-up data.
        text_column, label_column: of a CSV file; by default one with a usual name, such as "text" and "label".
        limit: most training texts, stratified; None for all.

    Raises:
        UserError: the name is unknown, the data can't be had, or something in it is wrong.
    """
    if limit is not None and limit < 1:
        raise UserError(f"A limit of {limit} training texts is not possible.", "Choose 1 or more.")
    kind, _, rest = name.partition(":")
    if kind == "csv" and rest:
        return csv_texts(located(rest, data_dir), text_column, label_column, seed, limit)
    if text_column is not None or label_column is not None:
        raise UserError("--text-column and --label-column are for --data csv:PATH.", f"{name} has columns of its own.")
    if name in CLASSIC:
        return classic(name, (data_dir or Path("data")).expanduser(), seed, limit)
    if name == "docstrings":
        return docstrings(seed, limit)
    if name == "synthetic":
        return synthetic(seed, limit)
    hint = f"For a CSV file say csv:{name}." if name.endswith(".csv") else nearest(name, SOURCES)
    raise UserError(f"Unknown data {name!r}.", hint)
