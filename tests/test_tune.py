"""Tuning: what a search finds, that it can be stopped and continued, and what it says about mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import example as examples
from common.command.arguments import Options
from common.config import Config, Range
from common.errors import Interrupted, UserError
from common.tune.__main__ import main as tune_main
from common.tune.search import Limits, search
from common.tune.space import Space, space_of
from common.tune.study import Study, Trial, alone
from common.tune.tuning import Request, tune
from tests import toy
from tests.helpers import ROOT, environment

pytest.importorskip("optuna")

SPACE = Space({"lr": Range(1e-4, 1.0, log=True), "width": (8, 16, 32)}, {"lr": 1e-3, "width": 8}, frozenset({"width"}))


def quality(values: dict[str, Any]) -> float:
    """Best, 1.0, at a learning rate of 0.1 and a width of 32."""
    return float(1 - 0.1 * abs(math.log10(values["lr"]) + 1) - 0.05 * abs(math.log2(values["width"]) - 5))


class Fake:
    """A training that is over after `looks` looks and climbs to its quality in four validations."""

    def __init__(self, trial: Trial, looks: int = 1, error: str = "") -> None:
        self.values, self.looks, self.error, self.stopped = trial.values, looks, error, False

    def scores(self) -> list[float]:
        return [quality(self.values) * step / 4 for step in range(1, 5)]

    def finished(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def outcome(self) -> tuple[float, dict[str, Any]]:
        if self.error:
            raise UserError(self.error)
        return quality(self.values), {"run": "somewhere"}

    def stop(self) -> None:
        self.stopped = True

    def tidy(self) -> None:
        pass


def study(folder: Path, strategy: str = "tpe", seed: int = 0, space: Space = SPACE, **made_with: Any) -> Study:
    return Study(folder, space, made_with, goal="maximize", strategy=strategy, seed=seed)


def searched(folder: Path, trials: int, workers: int = 1, **options: Any) -> Study:
    made = study(folder, **options)
    search(made, lambda trial: Fake(trial), Limits(trials, workers=workers), lambda line: None)
    return made


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.tune.search.LOOK", 0.0)


# --- what it finds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["tpe", "hyperband", "random"])
def test_trial_0_is_the_defaults_and_the_best_is_better(tmp_path: Path, strategy: str) -> None:
    made = searched(tmp_path, 14, strategy=strategy)
    rows, best = made.rows(), made.best()
    assert len(rows) == 14
    assert rows[0].values == SPACE.defaults
    assert best is not None
    assert quality(best.values) > quality(SPACE.defaults) + 0.1


def test_tpe_learns_from_its_trials(tmp_path: Path) -> None:
    rows = searched(tmp_path, 24).rows()
    early, late = ([quality(row.values) for row in part] for part in (rows[1:9], rows[-8:]))
    assert sum(late) > sum(early)


def test_same_seed_same_search(tmp_path: Path) -> None:
    first, again, other = (searched(tmp_path / str(i), 9, seed=seed).rows() for i, seed in enumerate((1, 1, 2)))
    assert [row.values for row in first] == [row.values for row in again]
    assert [row.state for row in first] == [row.state for row in again]
    assert [row.values for row in first[1:]] != [row.values for row in other[1:]]


def test_hopeless_trials_are_stopped_while_they_train(tmp_path: Path) -> None:
    made, trainings = study(tmp_path), dict[int, Fake]()

    def begin(trial: Trial) -> Fake:
        trainings[trial.number] = Fake(trial, looks=3)
        return trainings[trial.number]

    search(made, begin, Limits(20), lambda line: None)
    pruned = [row for row in made.rows() if row.state == "pruned"]
    assert pruned
    assert all(trainings[row.number].stopped and len(row.scores) < 4 for row in pruned)
    median = sorted(row.score or 0 for row in made.rows() if row.state == "complete")[-1]
    assert all(quality(row.values) < median for row in pruned)
    assert not any(trainings[row.number].stopped for row in made.rows() if row.state == "complete")


def test_workers_share_the_trials(tmp_path: Path) -> None:
    begun: list[int] = []
    most = 0
    made, open_now = study(tmp_path), set[int]()

    def begin(trial: Trial) -> Fake:
        nonlocal most
        begun.append(trial.number)
        open_now.add(trial.number)
        most = max(most, len(open_now))
        training = Fake(trial, looks=trial.number % 4)
        training.tidy = lambda: open_now.discard(trial.number)  # type: ignore[method-assign]
        return training

    search(made, begin, Limits(17, workers=3), lambda line: None)
    assert begun == list(range(17))
    assert most == 3
    assert {row.state for row in made.rows()} <= {"complete", "pruned"}


def test_timeout_lets_running_trials_end(tmp_path: Path) -> None:
    made = study(tmp_path)
    search(made, lambda trial: Fake(trial), Limits(10, seconds=1e-9), lambda line: None)
    assert made.rows() == [] or all(row.state == "waiting" for row in made.rows())
    search(made, lambda trial: Fake(trial), Limits(3, seconds=60), lambda line: None)
    assert [row.state for row in made.rows()] == ["complete"] * 3


# --- stopped and continued ---------------------------------------------------------------------------------


def test_a_stopped_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", 14).rows()
    made, trainings = study(tmp_path / "halves"), list[Fake]()

    def begin(trial: Trial) -> Fake:
        trainings.append(Fake(trial, looks=0 if trial.number < 7 else 10**9))
        if len(trainings) > 7:
            raise Interrupted(signal.SIGINT)
        return trainings[-1]

    with pytest.raises(Interrupted):
        search(made, begin, Limits(14), lambda line: None)
    halves = searched(tmp_path / "halves", 14).rows()
    assert [(row.number, row.state, row.values, row.score) for row in halves] == [
        (row.number, row.state, row.values, row.score) for row in whole
    ]


def test_a_trial_that_was_running_when_the_process_died_is_done_again(tmp_path: Path) -> None:
    made = study(tmp_path)
    lost = made.ask()
    made.report(lost, [0.1, 0.2])  # and nothing more: as after kill -9
    again = study(tmp_path).ask()
    assert (again.number, again.values, again.reported) == (lost.number, lost.values, 2)


def test_failed_trials_count_but_a_failing_default_ends_the_search(tmp_path: Path) -> None:
    made = study(tmp_path / "some")
    said: list[str] = []
    search(made, lambda t: Fake(t, error="loss became nan." if t.number == 2 else ""), Limits(5), said.append)
    assert [row.state for row in made.rows()].count("failed") == 1
    assert made.rows()[2].notes["reason"] == "loss became nan."
    assert any("failed" in line and "loss became nan." in line for line in said)
    with pytest.raises(UserError, match="default settings failed: no disk"):
        search(study(tmp_path / "all"), lambda t: Fake(t, error="no disk"), Limits(5), said.append)


def test_another_search_is_not_continued(tmp_path: Path) -> None:
    searched(tmp_path, 1, arguments={"epochs": 3})
    with pytest.raises(UserError, match=r"made with other arguments.*epochs.*3.*not.*4"):
        study(tmp_path, arguments={"epochs": 4})
    narrow = dataclasses.replace(SPACE, ranges={**SPACE.ranges, "lr": Range(1e-3, 1.0, log=True)})
    with pytest.raises(UserError, match="made with other ranges"):
        study(tmp_path, space=narrow, arguments={"epochs": 3})
    with pytest.raises(UserError, match="made with other strategy"):
        study(tmp_path, strategy="random", arguments={"epochs": 3})


def test_two_processes_do_not_search_in_one_folder(tmp_path: Path) -> None:
    with alone(tmp_path):
        code = (
            f"from common.tune.study import alone\nfrom pathlib import Path\nwith alone(Path({str(tmp_path)!r})): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
        )
    assert "is being searched by another process" in other.stderr


# --- the space ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", examples.names())
def test_every_example_can_be_tuned_from_its_defaults(name: str) -> None:
    example = examples.get(name)
    space = space_of(example, Options(), {})
    assert "lr" in space.ranges
    declared = example.config.ranges()
    assert space.ranges == declared, "the default of each lies in its declared range"
    assert example.goal in ("maximize", "minimize")
    assert example.objective.startswith("val_"), "never a metric of the test split"
    base: Config = example.config()
    for name, where in declared.items():
        for value in where if isinstance(where, tuple) else (where.low, where.high):
            base.with_values({name: int(value) if name in space.integers else value}).resolve().check()


def test_what_was_said_is_not_searched() -> None:
    space = space_of(toy.example, Options(), {"lr": 0.5})
    assert set(space.ranges) == {"dropout"}
    with pytest.raises(UserError, match="fixed: --lr, --dropout"):
        space_of(toy.example, Options(), {"lr": 0.5, "dropout": 0.0})


def test_a_range_is_widened_to_its_default() -> None:
    @dataclasses.dataclass(frozen=True)
    class Far(toy.ToyConfig):
        def resolve(self) -> Far:
            return dataclasses.replace(self, lr=2.0, dropout=0.2)

    space = space_of(dataclasses.replace(toy.example, config=Far), Options(), {})
    assert space.ranges == {"lr": Range(1e-4, 2.0, log=True), "dropout": (0.0, 0.1, 0.2, 0.3)}


# --- the real thing ----------------------------------------------------------------------------------------

KILLED = """
import sys
from common.tune.tuning import tune
from tests.test_tune import toy_request
if __name__ == "__main__":
    tune(toy_request(sys.argv[1], 3, workers=2))
"""


def toy_request(out: Path | str, trials: int, workers: int = 1, resume: bool = False) -> Request:
    limits = Limits(trials, workers=workers)
    return Request(toy.example, Options(), {"epochs": 24}, limits, out=str(out), resume=resume)


def test_killed_and_continued(tmp_path: Path, capsys: Any) -> None:
    """kill -9 in the middle of a trial: nothing goes on alone, no trial is lost or counted twice."""
    (tmp_path / "script.py").write_text(KILLED)
    out = tmp_path / "runs"
    words = [sys.executable, str(tmp_path / "script.py"), str(out)]
    with subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: any("epoch   5" in log.read_text() for log in out.glob("*/*/trial-1/log.txt")))
        process.kill()
    (folder,) = (out / "tests.toy").iterdir()
    time.sleep(0.3)  # for the orphans to notice
    log = folder / "trial-1" / "log.txt"
    before = log.read_text()
    time.sleep(0.5)
    assert log.read_text() == before, "nobody goes on"

    result = tune(toy_request(out, 3, resume=True))
    assert sum(result["trials"].values()) == 3
    assert result["study"] == str(folder)
    assert result["best"]["score"] >= result["defaults"]["score"]
    assert result["final"]["score"] == pytest.approx(result["best"]["score"])
    assert len(list((folder / "trial-1" / "tests.toy").iterdir())) == 1, "continued in the same run"

    # What it left: a page, a model, and no checkpoints of trials.
    page = (folder / "tune.html").read_text()
    assert all(text in page for text in ("History", "Parallel coordinates", "Every trial", "Defaults and best"))
    assert (Path(result["final"]["model"]) / "model" / "model.safetensors").exists()
    assert not list(folder.glob("trial-*/*/*/checkpoints"))
    assert json.loads((folder / "result.json").read_text()) == result

    # With Ctrl-C it ends by itself, and says how to go on.
    def interrupt() -> None:
        wait_until(lambda: (folder / "trial-3" / "log.txt").exists())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted):
        tune(toy_request(out, 5, resume=True))
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vision.trian"], "There is no example 'vision.trian'.\nDid you mean vision.train?"),
        (["vision.train", "--trials", "0"], "--trials 0: it must be more than 0."),
        (["vision.train", "--timeout", "-1"], "--timeout -1: it must be more than 0."),
        (["vision.train", "--strategy", "tbe"], "--strategy tbe: unknown.\nDid you mean tpe?"),
        (["vision.train", "--", "--seeds", "0,1"], "--seeds does not go behind --.\nGive one --seed."),
        (["vision.train", "--", "--epochs", "0"], "--epochs is 0; it must be at least 1."),
        (["research.ladder", "--", "--lr", "1", "--batch-size", "8"], "Everything that could be tuned is fixed"),
    ],
)
def test_mistakes(words: list[str], text: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert text in refused(["--out", str(tmp_path / "runs"), *words], monkeypatch, capsys)
    assert not (tmp_path / "runs").exists()


def test_without_optuna(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    error = refused(["--out", str(tmp_path / "runs"), "research.ladder"], monkeypatch, capsys)
    assert error == "Tuning needs Optuna.\npip install -e '.[tune]'"
    assert not (tmp_path / "runs").exists()


def refused(words: list[str], monkeypatch: Any, capsys: Any) -> str:
    """The error text of `python -m common.tune WORDS`, run in this process."""
    from common.command import exits as command

    monkeypatch.setattr(sys, "argv", ["common.tune", *words])
    with pytest.raises(SystemExit) as stop:
        command.run(tune_main, "python -m common.tune")
    output = capsys.readouterr()
    assert stop.value.code == 2, output.err
    assert "Traceback" not in output.err
    return str(output.err.partition("error: ")[2].strip())
