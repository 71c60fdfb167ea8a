"""Two trainings never write one run, and what a killed one left half-written is gone when it is resumed."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from common import files
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.files import sweep, write_whole
from common.training import lock
from common.training.run import Run
from tests import toy
from tests.helpers import ROOT, Process, environment, mistake, only_run, ranks, warm
from tests.test_resume import Crash, crash_after, run_toy

LONG = ("-m", "tests.toy", "--epochs", "5000", "--checkpoint-seconds", "0")


@pytest.fixture
def training(tmp_path: Path) -> Any:
    """A training in another process that has its first checkpoint, and will not end by itself."""
    process = Process([*LONG, "--quiet", "--out", tmp_path], ROOT, environment())
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*/checkpoints/step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    yield process
    process.kill()
    process.wait(60)


def test_a_run_that_is_being_trained_is_not_resumed_by_another(training: Any, tmp_path: Path) -> None:
    run = only_run(tmp_path, "tests.toy")
    said = (
        re.escape(f"error: {run} is being trained by another process (pid ")
        + r"\d+"
        + re.escape(f" on {socket.gethostname()}).")
    )
    for resume in (["--resume"], ["--resume", str(run)]):
        assert re.fullmatch(said, mistake(warm(*LONG, "--out", tmp_path, *resume)))
    assert training.poll() is None
    refused = ranks(2, *LONG, "--out", tmp_path, "--resume", timeout=120)  # both end: the first tells the other
    assert re.fullmatch(said, mistake(refused))
    assert training.poll() is None
    training.kill()
    assert training.wait(60).returncode == -signal.SIGKILL
    left = run / "checkpoints" / ".step-7.pt.abcd1234.tmp"
    left.write_bytes(b"half")
    (run / ".result.json.abcd1234.tmp").write_bytes(b"half")
    with pytest.raises(Crash), pytest.MonkeyPatch.context() as patch:  # the kernel has given the lock back
        patch.setattr(Run, "log", crash_after(3, Run.log))
        execute(toy.example, Options(out=str(tmp_path), resume="latest", quiet=True), {})
    assert not list(run.rglob(".*"))


def test_what_killed_writers_left_is_swept_from_every_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Run, "log", crash_after(6, Run.log))
        run_toy(tmp_path, {})
    run = only_run(tmp_path, "tests.toy")
    unlink = Path.unlink
    for place in (run, run / "checkpoints", run / "checkpoints" / "rank-1", run / "model"):
        with monkeypatch.context() as patch, pytest.raises(Crash):  # as kill -9 leaves it: nothing tidies up
            patch.setattr(files.Path, "unlink", lambda self, missing_ok=False: None)
            with write_whole(place / "step-9.pt") as file:
                file.write(b"half")
                raise Crash
        (place / ".mine.tmp").write_text("not of ours")
    assert Path.unlink is unlink
    assert len(list(run.rglob(".step-9.pt.*.tmp"))) == 4
    assert run_toy(tmp_path, {}, resume=True) == run
    assert not list(run.rglob(".step-9.pt.*.tmp"))
    assert len(list(run.rglob(".mine.tmp"))) == 4
    assert not (run / lock.NAME).exists()


def test_a_lock_is_free_again_when_it_is_released_and_not_before(tmp_path: Path) -> None:
    first = lock.take(tmp_path)
    with pytest.raises(UserError, match=rf"is being trained by another process \(pid {os.getpid()} on "):
        lock.take(tmp_path)
    first.release()
    assert list(tmp_path.iterdir()) == []
    second = lock.take(tmp_path)
    first.release()  # once more: it is no longer its own
    with pytest.raises(UserError, match="another process"):
        lock.take(tmp_path)
    second.release()


def test_who_had_the_file_open_when_it_was_removed_does_not_hold_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lock.take(tmp_path)
    really = lock._lock

    def late(descriptor: int) -> None:  # between opening and locking, the holder ends
        monkeypatch.setattr(lock, "_lock", really)
        first.release()
        really(descriptor)

    monkeypatch.setattr(lock, "_lock", late)
    second = lock.take(tmp_path)
    with pytest.raises(UserError, match="another process"):
        lock.take(tmp_path)
    second.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "_lock", refuse)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Run, "log", crash_after(6, Run.log))
        run_toy(tmp_path, {"epochs": 2})
    (only_run(tmp_path, "tests.toy") / ".a.abcd1234.tmp").touch()  # perhaps of a training that goes on
    run = run_toy(tmp_path, {"epochs": 2}, resume=True)
    assert (run / "result.json").exists()
    assert (run / ".a.abcd1234.tmp").exists()


def test_sweeping_takes_no_link_and_no_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    (tmp_path / ".a.abcd1234.tmp").symlink_to("kept")
    sweep(tmp_path, tmp_path / "none")
    assert (tmp_path / "kept").exists()
    assert (tmp_path / ".a.abcd1234.tmp").is_symlink()
