"""common.demo: every finished run of a folder on one page, whatever else lies there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from common import demo
from common.errors import UserError
from tests.helpers import ROOT, environment
from tests.page_helpers import generator, table
from tests.serve_helpers import address, write_artifact


def age(run: Path, seconds: int) -> Path:
    """Makes a run look as if it had ended some time after the epoch."""
    os.utime(run / "model" / "model.json", (seconds, seconds))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs, the newest one last by name, one that cannot be loaded and one that is not finished."""
    folder = tmp_path / "runs"
    for number, name in enumerate(["20260101-000000-lenet-photos", "20260102-000000-lenet-photos"]):
        age(write_artifact(folder / "vision.train" / name / "model").parent, 100 + number)
    group = folder / "research.ladder" / "20260101-000000-seeds" / "seed-0"
    age(table(group / "model").parent, 300)
    bad = generator(folder / "generative.gan" / "20260101-000000-gan" / "model")
    (bad / "model.safetensors").write_bytes(b"damaged")
    age(bad.parent, 200)
    (folder / "vision.train" / "20260103-000000-unfinished").mkdir()
    (folder / "vision.train" / "20260103-000000-unfinished" / "config.json").write_text("{}")
    return folder


def test_runs_are_found_newest_first_and_named_by_what_tells_them_apart(runs: Path) -> None:
    found = demo.find_runs(runs)
    assert [path.name for path in found] == [
        "seed-0",
        "20260101-000000-gan",
        "20260102-000000-lenet-photos",
        "20260101-000000-lenet-photos",
    ]
    named = [name.partition("=")[0] for name in demo.name_runs(found)]
    assert named == ["seeds-seed-0", "gan", "lenet-photos", "lenet-photos-2"]


def test_names_are_fit_for_a_url_and_never_taken_twice() -> None:
    folders = [Path("a") / name for name in ("x y/ü", "x", "x-2", "x", "..", "20260101-000000-")]
    names = [name.partition("=")[0] for name in demo.name_runs(folders)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)


def test_a_damaged_run_costs_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as decoders:
        models = demo.load_whole(demo.name_runs(demo.find_runs(runs)), decoders, threads=1, precision="auto")
        assert list(models) == ["seeds-seed-0", "lenet-photos", "lenet-photos-2"]
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("left out: ")
        assert "20260101-000000-gan" in line
        bad = [name for name in demo.name_runs(demo.find_runs(runs)) if name.startswith("gan=")]
        with pytest.raises(UserError, match="None of the runs"):
            demo.load_whole(bad, decoders, threads=1, precision="auto")


@pytest.mark.parametrize("folder", ["empty", "missing", "file"])
def test_without_runs_it_says_what_to_do(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as refused:
        demo.main(runs=str(tmp_path / folder))
    assert "There is no trained run in" in refused.value.what
    assert "python -m common" in refused.value.hint


def test_too_many_runs_are_cut_with_a_line(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[str] = []
    monkeypatch.setattr(demo, "MOST", 2)
    monkeypatch.setattr("common.serve.server.start", lambda named, *_, **__: served.extend(named))
    demo.main(runs=str(runs))
    assert [name.partition("=")[0] for name in served] == ["seeds-seed-0", "gan"]
    assert "2 older runs are left out" in capsys.readouterr().err


def test_the_command_serves_the_page_until_it_is_stopped(runs: Path) -> None:
    command = [sys.executable, "-m", "common.demo", "--runs", str(runs), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        url = address(process)
        assert "PyTorch Use Cases" in httpx.get(url).text
        listed = [model["name"] for model in httpx.get(f"{url}/v1/models").json()["models"]]
        assert listed == ["seeds-seed-0", "lenet-photos", "lenet-photos-2"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
