"""The catalogue finds every example, and the README says what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common import example
from common.__main__ import markdown
from common.errors import UserError
from tests.helpers import ROOT, mistake, python


def test_json_lists_every_example() -> None:
    process = python("-m", "common", "--json")
    assert process.returncode == 0, process.stderr
    rows = json.loads(process.stdout)
    assert {row["name"] for row in rows} == set(example.names())
    times = [float(row["time"].split()[0]) for row in rows]
    assert times == sorted(times)
    assert all(row.keys() >= {"name", "domain", "task", "data", "model", "headline", "time", "command"} for row in rows)
    assert all(row["domain"] == row["name"].split(".")[0] for row in rows)


def test_the_table_and_its_mistakes() -> None:
    process = python("-m", "common")
    assert process.returncode == 0
    assert "vision.train" in process.stdout
    assert "Did you mean vision.train?" in mistake(python("-m", "common", "vision.trian"))
    assert "Unknown argument --jsn" in mistake(python("-m", "common", "--jsn"))


def test_the_readme_has_the_catalogue() -> None:
    assert markdown() in (ROOT / "README.md").read_text(encoding="utf-8"), "run `python -m common --markdown`"


def test_a_new_file_is_found_without_another_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "nlp").mkdir()
    (tmp_path / "nlp" / "__init__.py").write_text('"""Texts."""\n\nDOMAIN = "Language"\n')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("")
    (tmp_path / "other" / "prose.py").write_text("from x import Example\nexample = Example(name='other.prose')\n")
    (tmp_path / "nlp" / "poems.py").write_text("from x import Example\nexample = Example(name='nlp.poems')\n")
    (tmp_path / "nlp" / "helper.py").write_text("def f(): return Example(1)\n")
    monkeypatch.setattr(example, "__file__", str(tmp_path / "common" / "example.py"))
    assert example.names() == ["nlp.poems"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("usecases vis", "vision.train"),
        ("usecases vision.train --sche", "--schedule"),
        ("usecases vision.train --schedule one", "one-cycle"),
    ],
)
def test_the_shell_completes_examples_flags_and_choices(
    words: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_USECASES_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert expected in python("-m", "common").stdout.split()


def test_an_artifact_cannot_name_another_module() -> None:
    with pytest.raises(UserError, match="There is no example 'os'"):
        example.get("os")
