"""Several seeds at once: each is an ordinary run, and the group says their mean and spread."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from common.cli import execute_seeds
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.report import plots
from tests import toy


def group(out: Path, seeds: str, **options: Any) -> dict[str, Any]:
    return execute_seeds(toy.example, Options(out=str(out), quiet=True, seeds=seeds, **options), {"epochs": 2})


def single(out: Path, seed: int) -> dict[str, Any]:
    return execute(toy.example, Options(out=str(out), quiet=True), {"epochs": 2, "seed": seed})


def test_mean_and_deviation_are_those_of_single_runs(tmp_path: Path) -> None:
    alone = [single(tmp_path / "alone", seed)["metrics"] for seed in (3, 5)]
    summary = group(tmp_path / "group", "3,5")
    for name, mean in summary["metrics"].items():
        values = [metrics[name] for metrics in alone]
        assert (mean, summary["std"][name]) == (fmean(values), stdev(values))
    assert json.loads((Path(summary["run"]) / "result.json").read_text()) == summary
    report = (Path(summary["run"]) / "report.html").read_text()
    assert "Seeds 3, 5" in report
    assert 'aria-label="val loss by step, 2 runs"' in report


def test_a_stopped_group_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    first = group(tmp_path, "0,1")
    kept = {run: (Path(run) / "result.json").stat().st_mtime_ns for run in first["runs"]}
    again = group(tmp_path, "0,1,2", resume="latest")
    assert again["run"] == first["run"]
    assert again["runs"][:2] == first["runs"]
    assert len(again["runs"]) == 3
    assert {run: (Path(run) / "result.json").stat().st_mtime_ns for run in first["runs"]} == kept


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    assert set(group(tmp_path, "4")["std"].values()) == {None}


@pytest.mark.parametrize(
    ("seeds", "said", "words"),
    [
        ("0,one", {}, "--seeds 0,one: not a list of whole numbers"),
        ("0,0", {}, "one of them stands there twice"),
        ("0,-1", {}, "--seed is -1; it must be at least 0"),
        ("0,1", {"seed": 3}, "--seed and --seeds together"),
        ("0,1", {"batch_size": 0}, "--batch-size is 0"),
    ],
)
def test_mistakes_are_named_before_the_first_training(
    tmp_path: Path, seeds: str, said: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        execute_seeds(toy.example, Options(out=str(tmp_path), quiet=True, seeds=seeds), said)
    assert not list(tmp_path.iterdir())


def test_a_band_is_drawn_over_what_was_logged_by_each() -> None:
    histories = [[{"step": 10, "loss": 1.0}, {"step": 30, "loss": 3.0}], [{"step": 20, "loss": 6.0, "lr": 1.0}]]
    (figure,) = plots.bands(histories)  # learning rates are no result
    (line,) = figure.axes[0].lines
    drawn: Any = line.get_xydata()
    assert drawn.tolist() == [[10, 3.5], [20, 4.0], [30, 3.0]]  # interpolated; ended runs take no part
