"""The program of `make gpu`, tried on the CPU: what is slow is stopped, what fails is said, and the rest goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu import __main__ as program
from tests.gpu import parts, report
from tests.gpu.parts import Part, perform
from tests.gpu.smoke import Smoke
from tests.helpers import ROOT, final_weights, only_run

SAYS = """
import json, pathlib, subprocess, sys, time
print("chatter of a library")
print(json.dumps({"figure": "rate", "value": 2.5, "unit": "images/s", "n": 3, "command": "x", "note": ""}), flush=True)
def check(status, note): print(json.dumps({"check": "it", "status": status, "note": note}), flush=True)
"""
STUBS = {
    "well": "check('ok', 'fine')",
    "wrong": "check('failed', 'ValueError: no')",
    "dies": "sys.exit('the last word')",
    "absent": "check('skipped', 'gymnasium is not installed')",
    "slow": "subprocess.Popen([sys.executable, '-c', f'import time, pathlib; time.sleep(2.5);"
    " pathlib.Path({str(sys.argv[1])!r}).touch()']); time.sleep(60)",
}


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, body in STUBS.items():
        (tmp_path / f"stub_{name}.py").write_text(SAYS + body)
    monkeypatch.setattr(parts, "environment", lambda: {"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    monkeypatch.setattr(parts, "LEAST", 0.5)
    return tmp_path


def part(name: str, *arguments: str, seconds: float = 20) -> Part:
    return Part(name, [f"stub_{name}", *arguments], seconds)


def test_what_fails_is_slow_or_absent_is_said_and_the_others_go_on(stubs: Path) -> None:
    alive = stubs / "alive"
    named = [part("slow", str(alive), seconds=1), part("wrong"), part("dies"), part("absent"), part("well")]
    done = perform(named, stubs, time.monotonic() + 60, at_once=2)
    found = {one.part.name: (one.status, one.reason) for one in done}
    assert [one.part.name for one in done] == [one.name for one in named]
    assert found["well"] == ("ok", "")
    assert found["wrong"] == ("failed", "it: ValueError: no")
    assert found["dies"] == ("failed", "exit code 1: the last word")
    assert found["absent"] == ("skipped", "gymnasium is not installed")
    assert found["slow"][0] == "failed"
    assert "its time was up" in found["slow"][1]
    assert done[0].lines[0]["value"] == 2.5  # what it said before counts
    time.sleep(2)
    assert not alive.exists()  # what a stopped part had started is stopped too

    told = report.collect(done, "cpu", 3.0)
    report.write(stubs / "gpu.json", told)
    saved = json.loads((stubs / "gpu.json").read_text())
    assert torch.__version__.startswith(saved["versions"]["torch"])
    assert [p["status"] for p in saved["parts"]] == ["failed", "failed", "failed", "skipped", "ok"]
    assert saved["parts"][4]["figures"][0]["n"] == 3
    text = report.table(told)
    assert "| rate | 2.5 images/s | 3 | `x` |" in text
    assert "| absent | it | skipped | gymnasium is not installed |" in text
    assert "| dies | – | failed | exit code 1: the last word |" in text
    assert "1 ok, 3 failed, 1 skipped" in text


def test_nothing_begins_or_goes_on_after_the_minutes(stubs: Path) -> None:
    began = time.monotonic()
    done = perform([part("slow", str(stubs / "alive")), part("well")], stubs, began + 2, at_once=1)
    assert time.monotonic() - began < 5
    assert [(one.status, one.reason) for one in done[1:]] == [("skipped", "no time was left")]


def test_without_a_gpu_or_the_data_it_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main([]) == 2
    assert capsys.readouterr().err == "error: PyTorch finds no GPU here. --device cpu tries the program itself.\n"
    for arguments in (["--data", str(tmp_path)], ["--only", "nothing"]):
        with pytest.raises(SystemExit, match=r"error: --(data|only) "):
            program.main(["--device", "cpu", "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_timing_really_runs_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--device", "cpu", "--out", str(tmp_path), "--only", "small"]) == 0
    found: Any = json.loads((tmp_path / "gpu.json").read_text())
    rates = {f["figure"]: f["value"] for f in found["parts"][0]["figures"]}
    assert rates.keys() == {f"vgg 28 px, batch 32: {what}" for what in ("fit", "bare", "fit of bare")}
    assert min(rates.values()) > 0
    assert "| vgg 28 px, batch 32: fit of bare |" in capsys.readouterr().out


def test_an_example_really_passes_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = Smoke("research.ladder", "cpu", tmp_path)
    smoke.run()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["check"] for line in lines] == ["train", "resume", "predict", "evaluate", "export", "serve"]
    assert {line["status"] for line in lines} == {"ok"}, lines
    assert lines[1]["note"].endswith("bit-equal")

    other = final_weights(only_run(tmp_path / "killed", smoke.name))
    name = next(iter(other))
    moved = {**other, name: other[name] + 1e-3}
    for told, verdict in (([], "the run had said nothing"), (["scatter"], "as the run had said (scatter)")):
        smoke.result["not_repeatable"] = told
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.gpu.smoke.final_weights", lambda run: moved if "killed" in str(run) else other)
            patch.setattr(smoke, "start", lambda *_: None)
            patch.setattr("tests.gpu.smoke.ended", lambda _: {})
            if told:
                assert verdict in str(smoke.resume())
            else:
                with pytest.raises(AssertionError, match=verdict):
                    smoke.resume()
