"""A run that was stopped, anywhere and often, ends with the same bits as one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import Interrupted, UserError
from common.metrics import Metrics
from common.training import checkpoint
from common.training.checkpoint import Checkpoints
from common.training.run import Run
from tests import toy
from tests.helpers import ROOT, Process, environment, final_weights, last_checkpoint, only_run, same, warm

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema, clip, accumulate": {"ema": 0.9, "clip": 0.5, "accumulate": 3, "schedule": "cosine"},
    "early stopping": {"patience": 1, "epochs": 12, "lr": 0.05},
    "workers": {"streamed": True, "epochs": 2},
}


class Crash(BaseException):
    """Stands for a kill: nothing in the project catches it."""


def run_toy(out: Path, said: dict[str, Any], resume: bool = False) -> Path:
    options = Options(out=str(out), quiet=True, resume="latest" if resume else None)
    return Path(execute(toy.example, options, {"checkpoint_seconds": 0.0, **said})["run"])


def assert_same_end(left: Path, right: Path) -> None:
    assert same(final_weights(left), final_weights(right))
    ends = [last_checkpoint(run) for run in (left, right)]
    for end in ends:
        del end["seconds"]
    assert same(*ends)  # optimiser, schedule, averages, random states, best score
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (left, right)]
    for line in lines[0] + lines[1]:
        del line["seconds"]
    assert lines[0] == lines[1]
    results = [json.loads((run / "result.json").read_text())["metrics"] for run in (left, right)]
    assert results[0] == results[1]


def crash_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, raising Crash instead of its `count`-th call."""
    calls = iter(range(count))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise Crash
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("said", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("moment", ["step", "writing", "validation", "evaluation"])
def test_crash_and_resume_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], moment: str
) -> None:
    whole = run_toy(tmp_path / "whole", said)
    target, name, count = {
        "step": (Run, "log", 9),
        "writing": (checkpoint, "write_whole", 8),  # after config.json nothing else uses this module's name
        "validation": (Run, "log_now", 1),  # at the end of the second epoch, after the weights were judged
        "evaluation": (toy, "predict_all", 0),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, crash_after(count, getattr(target, name)))
        with pytest.raises(Crash):
            run_toy(tmp_path / "cut", said)
    assert_same_end(whole, run_toy(tmp_path / "cut", said, resume=True))


def test_crash_at_every_step_in_turn_is_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_toy(tmp_path / "whole", {"epochs": 2})
    resume = False
    for _ in range(14):  # two steps of progress, then a crash, until the end
        with monkeypatch.context() as patch:
            patch.setattr(Run, "log", crash_after(2, Run.log))
            try:
                cut = run_toy(tmp_path / "cut", {"epochs": 2}, resume)
                break
            except Crash:
                resume = True
    assert_same_end(whole, cut)


def test_kill_9_at_a_random_moment_is_bit_equal(tmp_path: Path) -> None:
    """One kill; `python -m tests.bench kills` does twenty."""
    arguments = ["--checkpoint-seconds", "0", "--epochs", "20", "--ema", "0.9"]
    command = ["-m", "tests.toy", "--quiet", *arguments]
    warm(*command, "--out", tmp_path / "whole").check_returncode()
    process = Process([*command, "--out", tmp_path / "cut"], ROOT, environment())
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cut/*/*/checkpoints/step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.random() / 2)
    assert process.poll() is None, "the kill came too late to show anything"
    process.kill()
    assert process.wait(60).returncode == -signal.SIGKILL
    warm(*command, "--out", tmp_path / "cut", "--resume").check_returncode()
    assert_same_end(only_run(tmp_path / "whole", "tests.toy"), only_run(tmp_path / "cut", "tests.toy"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "tests.toy", "--epochs", "5000", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch   2"):
            break
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in rest
    run = only_run(tmp_path, "tests.toy")
    assert f"continue with: python -m tests.toy --resume {run}" in rest
    assert last_checkpoint(run)["step"] > 0
    assert not (run / "result.json").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_toy(tmp_path, {})
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    result = execute(toy.example, Options(out=str(tmp_path), resume="latest", json=True), {})
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    output = capfd.readouterr()
    assert "is finished already; nothing was changed" in output.err
    assert json.loads(output.out.splitlines()[-1]) == result


def test_resume_starts_a_run_where_there_is_none(tmp_path: Path) -> None:
    run = run_toy(tmp_path, {"epochs": 1}, resume=True)
    assert (run / "result.json").exists()


def test_resume_refuses_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "predict_all", crash_after(0, toy.predict_all))
    with pytest.raises(Crash):
        run_toy(tmp_path, {"dropout": 0.1})
    with pytest.raises(UserError, match=r"was made with --dropout 0\.1, not 0\.5"):
        run_toy(tmp_path, {"dropout": 0.5}, resume=True)
    with pytest.raises(UserError, match="was made with --epochs 4, not 2"):
        execute(toy.example, Options(out=str(tmp_path), tiny=True, resume="latest", quiet=True), {})


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run_toy(tmp_path / "whole", {})
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash_after(9, Run.log))
        with pytest.raises(Crash):
            run_toy(tmp_path / "cut", {})
    newest = only_run(tmp_path / "cut", "tests.toy") / "checkpoints" / "step-9.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one flipped bit
    newest.write_bytes(content)
    options = Options(out=str(tmp_path / "cut"), resume="latest")
    cut = Path(execute(toy.example, options, {})["run"])
    errors = capfd.readouterr().err
    assert "step-9.pt is damaged" in errors
    assert "at step 8" in errors
    assert_same_end(whole, cut)


def train_in_cuts(config: toy.ToyConfig, run: Run) -> Metrics:
    """A training whose checkpoints leave a mark: its walk starts anew at every one, as environments would."""
    walk = nn.Linear(1, 1)
    run.track(walk=walk)
    for step in run.loop(steps=90, checkpoint_every=30):
        with torch.no_grad():
            if step % 30 == 0:
                walk.bias.fill_(step)
            walk.bias.add_(torch.rand(1))
        if stop_at.get("step") == step:
            os.kill(os.getpid(), signal.SIGINT)
        run.log(place=walk.bias[0].detach().clone())
    metrics = Metrics("place", {"place": walk.bias.item()})
    artifact.save(run, walk, inputs=None, answer=None, metrics=metrics)
    return metrics


stop_at: dict[str, int] = {}


@pytest.mark.parametrize("step", [10, 44, 89])
def test_fixed_checkpoints_are_the_same_however_a_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(toy, "example", dataclasses.replace(toy.example, train=train_in_cuts, headline="place"))
    whole = run_toy(tmp_path / "whole", {})  # --checkpoint-seconds 0 does not add any
    assert Checkpoints(whole / "checkpoints").steps() == [60, 90]
    monkeypatch.setitem(stop_at, "step", step)
    with pytest.raises(Interrupted):
        run_toy(tmp_path / "cut", {"checkpoint_seconds": 0.001})
    cut = only_run(tmp_path / "cut", "tests.toy")
    assert Checkpoints(cut / "checkpoints").steps() == {10: [], 44: [30], 89: [60, 90]}[step]
    monkeypatch.delitem(stop_at, "step")
    assert run_toy(tmp_path / "cut", {}, resume=True) == cut
    assert_same_end(whole, cut)
