"""Running text by name: where it comes from, how it is split, and one clear line where it can't be had."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from common.data.texts import corpora
from common.data.texts.corpora import load_corpus
from common.data.texts.splits import fingerprint
from common.errors import UserError


def refused(name: str, data_dir: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(name, data_dir)
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def test_docstrings_are_split_by_file_and_no_paragraph_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(package: str) -> list[Path]:
        return files(package)[:150]

    files = corpora.source_files
    monkeypatch.setattr(corpora, "source_files", some)
    found = load_corpus("docstrings")
    splits = [found.train, found.valid, found.test]
    assert all(len(split) > 5 for split in splits)
    prints = [{fingerprint(p) for document in split for p in document.split("\n\n")} for split in splits]
    long = [{key for key in keys if len(key) >= corpora.LEAST} for keys in prints]
    assert not long[0] & long[1]
    assert not (long[0] | long[1]) & long[2]
    assert f"torch {torch.__version__.split('+')[0]}" in found.provenance
    assert load_corpus("docstrings") == found


SOURCE = r"""
x = QQQno docstringQQQ  # nor is QQQthis, with a don't
y = 'QQQ'
def f():
    rQQQA docstring, with a "quote".

        And an indented line.
    QQQ
    return QQQ
QQQ
    \'\'\'Another.\'\'\'
"""


def test_a_docstring_is_a_string_that_begins_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE.replace("QQQ", '"' * 3).replace("\\'", "'"))
    assert corpora._strings(tmp_path / "a.py") == [
        'A docstring, with a "quote".\n\nAnd an indented line.',
        "Another.",
    ]


def test_the_entropy_of_made_up_text_is_what_its_own_rule_takes() -> None:
    found = load_corpus("markov")
    assert found == load_corpus("markov")
    assert found.entropy is not None
    (train,), (valid,) = found.train, found.valid
    assert (len(train), len(valid)) == (corpora.TRAIN_LETTERS, corpora.VALID_LETTERS)
    counts: dict[str, dict[str, int]] = {}
    for place in range(2, len(train)):
        row = counts.setdefault(train[place - 2 : place], {})
        row[train[place]] = row.get(train[place], 0) + 1
    nats = 0.0
    for place in range(2, len(valid)):  # the rule as it is seen in the training text
        row = counts.get(valid[place - 2 : place], {})
        nats -= math.log((row.get(valid[place], 0) + 0.1) / (sum(row.values()) + 0.8))
    assert nats / len(valid) == pytest.approx(found.entropy, rel=0.02)


def test_tinyshakespeare_is_its_file_and_the_end_is_for_validation(tmp_path: Path) -> None:
    folder = tmp_path / "tinyshakespeare"
    folder.mkdir()
    text = "First Citizen:\nSpeak, speak.\n\n" * 100
    (folder / "input.txt").write_text(text)
    for place in (tmp_path, folder):
        found = load_corpus("tinyshakespeare", place)
        assert found.train + found.valid == [text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]]
        assert found.test == []


@pytest.mark.parametrize("suffix", ["tokens", "raw"])
def test_wikitext_is_cut_into_articles(suffix: str, tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        articles = [
            f" \n = Title {part} {n} = \n \n The text . \n \n = = A section = = \n \n More . \n" for n in range(count)
        ]
        (tmp_path / f"wiki.{part}.{suffix}").write_text("".join(articles))
    found = load_corpus("wikitext-2", tmp_path)
    assert [len(split) for split in (found.train, found.valid, found.test)] == [3, 2, 1]
    assert found.train[1].startswith(" = Title train 1 = ")
    assert "A section" in found.train[1]


def test_a_folder_of_ones_own_is_split_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    for number in range(20):
        (folder / "deep" / f"{number}.md").write_text(f"Note {number}. ü" * 10, encoding="utf-8")
    (folder / ".secret.md").write_text("hidden")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    found = load_corpus("text:notes", tmp_path)
    assert (len(found.train), len(found.valid)) == (18, 2)
    assert not set(found.train) & set(found.valid)
    assert "20 of 22 files are text" in found.provenance


def test_a_file_of_ones_own_may_be_in_an_older_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café ".encode("cp1252") * 100)
    found = load_corpus(f"text:{tmp_path}/a.txt")
    assert "".join(found.train + found.valid) == "café " * 100


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    assert "Did you mean tinyshakespeare?" in refused("tinyshakespear")
    assert f"For a text file say text:{tmp_path}/short.txt." in refused(f"{tmp_path}/short.txt")
    assert "has 1 letters, too few to learn from" in refused(f"text:{tmp_path}/short.txt")
    assert "is no text file" in refused(f"text:{tmp_path}/binary.txt")
    assert "holds no text files" in refused(f"text:{tmp_path}/empty")
    assert "There is no file or folder" in refused(f"text:{tmp_path}/nowhere")
    assert "input.txt not found in" in refused("tinyshakespeare", tmp_path)
    assert "Point --data-dir at the folder" in refused("wikitext-2", tmp_path)
