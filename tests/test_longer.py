"""`--resume RUN --epochs N` with a larger N trains on, with a schedule of its own for what was added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.example import get
from common.training.run import Run
from common.training.tracking import read_history
from tests import toy
from tests.helpers import final_weights, last_checkpoint, same
from tests.test_resume import Crash

STEPS = 7  # of a toy's epoch


def train(out: Path, resume: bool = False, **values: Any) -> Path:
    options = Options(out=str(out), quiet=True, resume="latest" if resume else None)
    return Path(execute(toy.example, options, {"checkpoint_seconds": 0.0, **values})["run"])


def rates(run: Path) -> list[float]:
    return [line["lr"] for line in read_history(run) if "lr" in line]


def crash_at(step: int) -> Callable[[Run, bool], None]:
    """What in the place of `Run._after_step` ends training there."""
    after_step = Run._after_step

    def crash(self: Run, last: bool) -> None:
        after_step(self, last)
        if self.step == step:
            raise Crash

    return crash


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "wsd", "constant"])
def test_a_finished_run_trains_on_with_a_schedule_for_the_steps_that_were_added(tmp_path: Path, schedule: str) -> None:
    run = train(tmp_path, schedule=schedule, epochs=3)
    before = read_history(run)
    assert train(tmp_path, resume=True, epochs=8) == run
    after = read_history(run)
    assert after[: len(before)] == before
    assert last_checkpoint(run)["step"] == 8 * STEPS
    result = json.loads((run / "result.json").read_text())
    assert (result["config"]["epochs"], result["steps"]) == (8, 8 * STEPS)
    assert json.loads((run / "config.json").read_text())["config"]["epochs"] == 8
    if schedule != "constant":  # down at the end of the first leg, up again in the second
        end = len([line for line in before if "lr" in line])
        assert max(rates(run)[end:]) > 2 * rates(run)[end - 1]
        assert rates(run)[-1] < max(rates(run)[end:]) / 2


@pytest.mark.parametrize("step", [3 * STEPS + 1, 4 * STEPS + 3])
def test_killed_in_the_second_leg_it_ends_with_the_same_bits(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"ema": 0.9, "schedule": "cosine"}
    for name in ("whole", "killed"):
        train(tmp_path / name, epochs=3, **values)
    whole = train(tmp_path / "whole", resume=True, epochs=6)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Run, "_after_step", crash_at(step))
        train(tmp_path / "killed", resume=True, epochs=6)
    killed = train(tmp_path / "killed", resume=True)  # without the flag: the run knows how long it is to be
    assert same(final_weights(killed), final_weights(whole))
    ends = [last_checkpoint(run) for run in (killed, whole)]
    for end in ends:
        del end["seconds"]
    assert same(*ends)


def test_a_run_that_stopped_early_goes_on(tmp_path: Path) -> None:
    run = train(tmp_path, epochs=12, patience=1, lr=0.05)
    stopped = last_checkpoint(run)["step"]
    assert stopped < 12 * STEPS
    train(tmp_path, resume=True, epochs=40)
    assert last_checkpoint(run)["step"] > stopped


def test_a_run_whose_data_are_gone_keeps_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path, epochs=3)
    before = [(run / name).read_bytes() for name in ("result.json", "config.json")]

    def gone(*_: Any) -> Any:
        raise UserError("The data are gone.")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="are gone"):
        patch.setattr(toy, "points", gone)
        train(tmp_path, resume=True, epochs=9)
    assert [(run / name).read_bytes() for name in ("result.json", "config.json")] == before


def test_fewer_are_refused_and_as_many_change_nothing(tmp_path: Path) -> None:
    run = train(tmp_path, epochs=3)
    result = (run / "result.json").read_bytes()
    with pytest.raises(UserError, match="was made with --epochs 3, not 2"):
        train(tmp_path, resume=True, epochs=2)
    train(tmp_path, resume=True, epochs=3)
    assert (run / "result.json").read_bytes() == result


def test_rungs_that_are_compared_do_not_grow(tmp_path: Path) -> None:
    ladder = get("research.ladder")
    execute(ladder, Options(tiny=True, quiet=True, out=str(tmp_path)), {"epochs": 3})
    with pytest.raises(UserError, match="was made with --epochs 3, not 5"):
        execute(ladder, Options(quiet=True, out=str(tmp_path), resume="latest"), {"epochs": 5})


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("rl.dqn", {"steps": 960}, {"steps": 1920}),
        ("generative.gan", {"epochs": 1}, {"epochs": 2}),
        ("generative.flow", {"epochs": 1}, {"epochs": 2}),
    ],
)
def test_agents_and_generators_train_on_too_and_killed_on_the_way_end_with_the_same_bits(
    name: str, first: dict[str, int], then: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(execute(get(name), Options(tiny=True, quiet=True, out=str(tmp_path)), first)["run"])
    step = last_checkpoint(run)["step"]
    killed = shutil.copytree(run, tmp_path / "killed" / run.name)

    def train_on(folder: Path, asked: dict[str, int]) -> None:
        often = {"checkpoint_seconds": 0.0, **asked}
        execute(get(name), Options(quiet=True, out=str(tmp_path), resume=str(folder)), often)

    train_on(run, then)
    assert last_checkpoint(run)["step"] == 2 * step
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Run, "_after_step", crash_at(step + step // 2))
        train_on(killed, then)
    assert step <= last_checkpoint(killed)["step"] < 2 * step
    train_on(killed, {})
    assert same(final_weights(killed), final_weights(run))


def test_null_in_a_file_of_settings_is_what_the_run_had(tmp_path: Path) -> None:
    vision, options = get("vision.train"), Options(quiet=True, out=str(tmp_path))
    run = Path(execute(vision, replace(options, tiny=True), {"epochs": 1})["run"])
    (tmp_path / "settings.json").write_text('{"epochs": null, "seed": 0}')
    again = replace(options, resume=str(run), config=str(tmp_path / "settings.json"))
    assert execute(vision, again, {})["config"]["epochs"] == 1
