"""Texts by name: what each source gives, and one clear line where it can't."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from common.data.texts import docstrings as text_docstrings
from common.data.texts.sources import SOURCES, load_texts
from common.errors import UserError
from tests.test_texts import sentences


def refused(name: str, **said: object) -> str:
    with pytest.raises(UserError) as error:
        load_texts(name, **said)  # type: ignore[arg-type]
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)


# --- no download -------------------------------------------------------------------------------------------


def test_synthetic_has_its_known_share_of_wrong_labels() -> None:
    data = load_texts("synthetic")
    assert [len(p) for p in (data.train, data.valid, data.test)] == [400, 80, 120]
    assert data.best_accuracy == 0.95
    other = load_texts("synthetic", seed=1)
    assert other.test.texts != data.test.texts
    assert load_texts("synthetic").test.texts == data.test.texts
    counts = data.train.targets.bincount()
    assert counts.min() >= 80


def test_docstrings_are_parsed_not_imported_and_give_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_docstrings, "PER_CLASS", 60)
    before = set(sys.modules)
    data = load_texts("docstrings")
    assert not {m for m in set(sys.modules) - before if m.startswith(("torch.", "sklearn", "numpy.", "idlelib"))}
    assert data.classes == ["python", "torch", "numpy", "scikit-learn"]
    everything = [text for part in (data.train, data.valid, data.test) for text in part.texts]
    assert 230 <= len(everything) <= 240
    assert len(set(everything)) == len(everything)
    for word in ("torch", "numpy", "sklearn", "scikit", "python"):
        assert not [text for text in everything if word in text.lower()]
    assert f"torch {torch.__version__.split('+')[0]}" in data.provenance
    assert load_texts("docstrings").test.texts == data.test.texts
    assert load_texts("docstrings", seed=1).test.texts != data.test.texts


# --- classic files -----------------------------------------------------------------------------------------


def test_rotten_tomatoes_from_files_in_utf8_or_an_older_encoding(tmp_path: Path) -> None:
    lines = sentences(400, words=12)
    (tmp_path / "rt-polarity.pos").write_bytes("\n".join(["un café à paris", *lines[:199]]).encode("cp1252"))
    (tmp_path / "rt-polarity.neg").write_text("\r\n".join([*lines[199:398], "naïve\x85 and long"]), encoding="utf-8")
    data = load_texts("rotten-tomatoes", data_dir=tmp_path)
    assert [len(p) for p in (data.train, data.valid, data.test)] == [324, 36, 40]
    assert data.classes == ["negative", "positive"]
    labels = {t: int(y) for p in (data.train, data.valid, data.test) for t, y in zip(p.texts, p.targets, strict=True)}
    assert labels["un café à paris"] == 1
    assert labels["naïve\x85 and long"] == 0
    assert load_texts("rotten-tomatoes", data_dir=tmp_path, seed=1).test.texts != data.test.texts


def test_ag_news_from_files_and_a_row_that_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "ag_news_csv"
    folder.mkdir()
    lines = sentences(120)
    for name, part in (("train", lines[:100]), ("test", lines[100:])):
        rows = [f'"{i % 4 + 1}","A ""title"" {i}","{text}\\more"' for i, text in enumerate(part)]
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    data = load_texts("ag-news", data_dir=tmp_path)
    assert data.classes == ["World", "Sports", "Business", "Sci/Tech"]
    assert (len(data.train), len(data.valid), len(data.test)) == (90, 10, 20)
    assert data.test.texts[1] == f'A "title" 1 {lines[101]} more'
    assert data.test.targets.tolist() == [i % 4 for i in range(20)]
    (folder / "train.csv").write_text('"1","a","b"\n"7","a","b"\n')
    assert "train.csv line 2 is not a row of AG News" in refused("ag-news", data_dir=folder)


def test_sst2_from_files_of_either_layout(tmp_path: Path) -> None:
    lines = sentences(60)
    for header, test in (("", [f"{t}\t{i % 2}" for i, t in enumerate(lines[50:])]), ("sentence\tlabel\n", None)):
        (tmp_path / "train.tsv").write_text(header + "\n".join(f"{t}\t{i % 2}" for i, t in enumerate(lines[:40])))
        (tmp_path / "dev.tsv").write_text(header + "\n".join(f"{t}\t{i % 2}" for i, t in enumerate(lines[40:50])))
        hidden = ["index\tsentence", *(f"{i}\t{t}" for i, t in enumerate(lines[50:]))]
        (tmp_path / "test.tsv").write_text("\n".join(test or hidden))
        data = load_texts("sst2", data_dir=tmp_path)
        sizes = [len(p) for p in (data.train, data.valid, data.test)]
        assert sizes == ([40, 10, 10] if test else [36, 4, 10])
        assert data.test.texts == (lines[50:] if test else lines[40:50])
    (tmp_path / "dev.tsv").write_text("good\t1\nno label here\n")
    assert "dev.tsv line 2 is not a sentence, a tab and 0 or 1" in refused("sst2", data_dir=tmp_path)


def test_imdb_from_files(tmp_path: Path) -> None:
    for number, text in enumerate(sentences(40)):
        part, side = ("train", "test")[number % 2], ("neg", "pos")[number // 2 % 2]
        file = tmp_path / "aclImdb" / part / side / f"{number}_7.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}<br />end {number}")
    data = load_texts("imdb", data_dir=tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 20)
    assert "<br" not in data.train.texts[0]
    assert data.test.targets.tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("name", ["ag-news", "sst2", "rotten-tomatoes", "imdb"])
@pytest.mark.usefixtures("no_hub")
def test_data_that_is_nowhere_is_said_with_places_and_a_way_out(tmp_path: Path, name: str) -> None:
    error = refused(name, data_dir=tmp_path)
    assert str(tmp_path) in error
    assert "package datasets" in error
    assert "--data-dir" in error
    assert not list(tmp_path.iterdir())


# --- csv ---------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[str], encoding: str = "utf-8") -> str:
    path.write_bytes("\n".join(rows).encode(encoding))
    return f"csv:{path}"


def test_csv_with_strings_or_numbers_as_labels(tmp_path: Path) -> None:
    lines = sentences(60)
    name = write(
        tmp_path / "a.csv",
        ["text,label", *(f'"{t}, ""so""\nnext",{"yes" if i % 3 else "no"}' for i, t in enumerate(lines))],
    )
    data = load_texts(name)
    assert data.classes == ["no", "yes"]
    assert (len(data.train), len(data.valid), len(data.test)) == (49, 5, 6)
    assert all(text.endswith(', "so"\nnext') for text in data.train.texts)
    rows = [f"{i % 3 * 5 + 1}{'.0' if i % 2 else ''},{t}" for i, t in enumerate(lines)]
    write(tmp_path / "b.csv", ["stars,body", *rows], "utf-8-sig")
    data = load_texts("csv:b.csv", data_dir=tmp_path, text_column="body", label_column="stars")
    assert data.classes == ["1", "6", "11"]


def test_csv_with_empty_texts_emoji_other_scripts_and_a_megabyte(tmp_path: Path) -> None:
    odd = ["", "😀👍", "的一是不了人我", "مرحبا", "word " * 210_000, "\u2028", "1 2 3"]
    lines = [f'"{t}",{i % 2}' for i, t in enumerate([*odd, *sentences(40)])]
    data = load_texts(write(tmp_path / "odd.csv", ["text,label", *lines]))
    everything = [t for p in (data.train, data.valid, data.test) for t in p.texts]
    assert set(odd) <= set(everything)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "x.csv is empty"),
        (["text,label"], "has no rows in column 'label'"),
        (["text,label", "a,1", "b,1"], "has only one class, '1' in column 'label'"),
        (["words,label", "a,1"], "which column is the text?\nColumns: words, label."),
        (["text,label", "a,1", "b"], "line 3 has 1 fields, but the header has 2"),
        (["text,label", "a,1", "b,"], "line 3 has no label"),
        (["text,label", "a,1", '"never closed,0', "c,1"], "line 3: a quote that opens here is not closed"),
        (["text,label", "a,1", '"bad"quote,0', "c,1"], "line 3: a quote that opens here is not closed"),
        (["text,label", *(f"a{i},{i}.5" for i in range(50))], "holds 50 different values in 50 rows"),
        (["text,label", "a,x", "b,y"], "occurs only once"),
    ],
)
def test_csv_mistakes_are_named_with_their_line(tmp_path: Path, rows: list[str], text: str) -> None:
    assert text in refused(write(tmp_path / "x.csv", rows))


def test_csv_in_another_encoding_or_missing(tmp_path: Path) -> None:
    name = write(tmp_path / "x.csv", ["text,label", "a,1", "café,0"], "cp1252")
    assert "x.csv line 3 is not UTF-8 (byte 0xe9)" in refused(name)
    assert "x.csv is UTF-16" in refused(write(tmp_path / "x.csv", ["text,label"], "utf-16"))
    assert "There is no file" in refused(f"csv:{tmp_path / 'none.csv'}")
    assert "Can't read" in refused(f"csv:{tmp_path}")
    good = write(tmp_path / "x.csv", ["text,label", "a,1"])
    assert "has no column 'body'.\nColumns: text, label." in refused(good, text_column="body")
    assert "are the same column" in refused(good, text_column="label", label_column="label")


def test_names_are_checked(tmp_path: Path) -> None:
    assert "Did you mean docstrings?" in refused("docstring")
    assert "say csv:mails.csv" in refused("mails.csv")
    assert "are for --data csv:PATH" in refused("synthetic", text_column="text")
    assert "A limit of 0" in refused("synthetic", limit=0)
    assert "synthetic" in SOURCES
