"""vision.compare: families side by side, a comparison that can be stopped and continued."""

from __future__ import annotations

import json
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from common.training.run import Run
from tests.test_resume import Crash, crash_after

KEYS = {"model", "accuracy", "parameters", "flops", "latency_ms", "images_per_second", "train_seconds"}
TWO = ("--tiny", "--models", "lenet,vit", "--epochs", "1")


def compare(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """`python -m vision.compare ARGUMENTS` in this process, which saves its start; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["vision.compare", *map(str, arguments)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module was imported before
        runpy.run_module("vision.compare", run_name="__main__")
    assert isinstance(stop.value.code, int)
    return stop.value.code


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not re.search("seconds|second|latency", k)} for row in rows]


def test_rows_report_and_continuing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:  # killed in the middle of the second family
        patch.setattr(Run, "log", crash_after(25 + 9, Run.log))
        patch.setattr(sys, "argv", ["vision.compare", *TWO, "--out", str(tmp_path)])
        with pytest.raises(Crash):
            runpy.run_module("vision.compare", run_name="__main__")
    (lenet,) = tmp_path.rglob("result.json")
    before = files(lenet.parent)
    assert not list(tmp_path.rglob("comparison.*"))
    capfd.readouterr()

    assert compare(monkeypatch, *TWO, "--json", "--out", tmp_path) == 0
    assert files(lenet.parent) == before, "a finished run was touched"
    output = capfd.readouterr()
    rows = json.loads(output.out)
    assert [row["model"] for row in rows] == ["lenet", "vit"]
    for row in rows:
        assert row.keys() >= KEYS
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
        assert min(row[key] for key in KEYS - {"model", "accuracy"}) > 0
        assert row["model"] in output.err, "no line in the table"
    assert len(list(tmp_path.rglob("result.json"))) == 2

    (page,) = tmp_path.rglob("comparison.html")
    text = page.read_text()
    links = re.findall(r"""(?:src|href)=["']?([^"' >]+)""", text) + re.findall(r"url\(([^)]*)\)", text)
    assert not [link for link in links if not link.startswith(("data:", "#"))], "the page needs other files"
    for row in rows:
        assert f"{row['parameters']:,}" in text
    assert json.loads(page.with_suffix(".json").read_text()) == rows

    kept = {path: content for path, content in files(tmp_path).items() if not path.name.startswith("comparison.")}
    assert compare(monkeypatch, *TWO, "--json", "--quiet", "--out", tmp_path) == 0
    after = {path: content for path, content in files(tmp_path).items() if not path.name.startswith("comparison.")}
    assert after == kept, "a finished comparison was trained again"
    output = capfd.readouterr()
    assert output.err == ""
    assert without_time(json.loads(output.out)) == without_time(rows)


def test_other_settings_start_other_runs_and_seeds_are_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one = ("--tiny", "--models", "lenet", "--json", "--quiet", "--out", tmp_path)
    accuracies = []
    for seed in ("3", "4"):
        assert compare(monkeypatch, *one, "--epochs", "1", "--seeds", seed) == 0
        accuracies.append(json.loads(capfd.readouterr().out)[0]["accuracy"])
    assert compare(monkeypatch, *one, "--epochs", "1", "--seeds", "3,4") == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert row["seeds"] == 2
    assert row["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert row["accuracy_std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert len(list(tmp_path.rglob("result.json"))) == 2
    assert compare(monkeypatch, *one, "--epochs", "2", "--seeds", "3") == 0
    assert len(list(tmp_path.rglob("result.json"))) == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--models", "lenet,resnt"], "error: --models resnt: unknown.\nDid you mean resnet?"),
        (["--models", "lenet,torchvision/resnt18"], "error: torchvision has no classifier 'resnt18'.\nDid you mean"),
        (["--models", ","], "error: --models ,: names no model."),
        (["--seeds", "0,one"], "error: --seeds 0,one: not a list of whole numbers.\n"),
        (["--data", "digit", "--models", "lenet"], "error: --data digit: unknown.\nDid you mean digits?"),
        (["--size", "tinny"], "error: --size tinny: unknown."),
        (["--epochs", "0"], "error: --epochs is 0"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    error: str,
) -> None:
    assert compare(monkeypatch, *arguments, "--out", tmp_path / "runs") == 2
    output = capfd.readouterr()
    assert output.err.startswith(error)
    assert len(output.err.splitlines()) <= 2
    assert output.out == ""
    assert not list(tmp_path.iterdir())
