"""The command line: one contract for every example, and mistakes in one or two lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common import example
from common.command.arguments import Options, with_resume_value
from common.command.execute import execute
from common.errors import UserError
from common.training import fit as training
from tests import toy
from tests.helpers import final_weights, mistake, only_run, python, result, same, warm

CONTRACT = """--tiny --data --data-dir --seed --device --precision --compile --batch-size --lr --out --resume --json
--quiet --config --help""".split()  # noqa: SIM905


@pytest.mark.parametrize("module", example.names())
def test_every_example_takes_the_contract(module: str) -> None:
    process = python("-m", module, "--help-all")
    assert process.returncode == 0, process.stderr
    text = process.stdout
    assert f"python -m {module}" in text
    assert example.get(module).task in text
    missing = [flag for flag in CONTRACT if flag not in text]
    assert not missing
    assert "--epochs" in text or "--steps" in text
    assert "--execution-mode" in text


@pytest.mark.parametrize("module", example.names())
def test_help_shows_what_people_turn_and_what_the_recipe_would_choose(module: str) -> None:
    text = warm("-m", module, "--help").stdout
    assert len(text.splitlines()) <= 37
    for flag in [
        "--tiny",
        "--data-dir",
        "--batch-size",
        "--lr",
        "--seed",
        "--device",
        "--resume",
        "--json",
        "--help-all",
    ]:
        assert flag in text
    assert "--epochs" in text or "--steps" in text
    assert "--weight-decay" not in text
    assert "--instance-type" not in text
    assert "by data set" not in text
    assert "by env" not in text


def test_help_with_an_execution_mode_shows_what_a_job_takes() -> None:
    assert "--instance-type" in warm("-m", "vision.train", "--execution-mode", "aws", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--epoch", "3"], "error: No such option: --epoch"),
        (["--epochs", "three"], "error: Invalid value for '--epochs'"),
        (["--schedule", "cosin"], "error: --schedule cosin: unknown.\nDid you mean cosine?"),
        (["--lr", "0"], "error: --lr is 0.0; it must be above 0."),
        (["--lr=-1"], "error: --lr is -1.0; it must be above 0."),
        (["--batch-size", "481"], "error: --batch-size 481 is larger than the training data (480 samples)."),
        (["--config", "no.json"], "error: There is no file no.json."),
        (["--precision", "fp16", "--device", "cpu"], "error: --precision fp16 needs a GPU."),
        (["--resume", "nowhere"], "error: --resume nowhere: there is no run there"),
        (["surplus"], "error: Got unexpected extra argument"),
        (["--poison"], "error: loss became nan at step "),
    ],
)
def test_a_mistake_gives_one_or_two_lines_and_leaves_nothing(
    refusal: Callable[..., str], arguments: list[str], text: str
) -> None:
    assert refusal(toy.example, *arguments).startswith(text)


def test_a_nan_late_in_training_names_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"lr": 90.0, "schedule": "constant", "epochs": 300, "checkpoint_seconds": 0.0}
    optimizer = training.make_optimizer
    monkeypatch.setattr(training, "make_optimizer", lambda name, model, lr, decay: optimizer("sgd", model, 1e12, 0.0))
    with pytest.raises(UserError, match="at a learning rate of") as error:
        execute(toy.example, Options(out=str(tmp_path), quiet=True), said)
    assert "became nan at step" in error.value.what or "became inf at step" in error.value.what


def test_an_out_that_is_a_file_or_unwritable_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert f"{file} is a file" in mistake(warm("-m", "tests.toy", "--out", file / "runs"))
    assert "Can't write" in mistake(warm("-m", "tests.toy", "--out", "/proc/runs"))  # refuses even root


def test_json_is_the_last_line_of_stdout_and_all_else_is_on_stderr(tmp_path: Path) -> None:
    process = warm("-m", "tests.toy", "--json", "--out", tmp_path)
    value = result(process)
    assert len(process.stdout.splitlines()) == 1
    assert value["example"] == "tests.toy"
    assert value.keys() == {"example", "run", "metrics", "steps", "seconds", "peak_memory_mb", "seed", "config"}
    assert value["seconds"].keys() == {"train", "total"}
    assert json.loads((Path(value["run"]) / "result.json").read_text()) == value


def test_quiet_says_nothing(tmp_path: Path) -> None:
    process = warm("-m", "tests.toy", "--quiet", "--out", tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_a_config_file_and_flags_over_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"lr": 0.02, "batch-size": 16}')
    first = execute(toy.example, Options(config=str(file), out=str(tmp_path / "a"), quiet=True), {"batch_size": 32})
    assert (first["config"]["lr"], first["config"]["batch_size"]) == (0.02, 32)
    again = Options(config=str(Path(first["run"]) / "config.json"), out=str(tmp_path / "b"), quiet=True)
    second = execute(toy.example, again, {})  # the config that a run saved repeats it
    assert second["config"] == first["config"]
    assert same(final_weights(Path(first["run"])), final_weights(Path(second["run"])))
    file.write_text('{"learning_rate": 0.02}')
    with pytest.raises(UserError, match=r"Unknown setting 'learning_rate' in .*settings.json"):
        execute(toy.example, Options(config=str(file), out=str(tmp_path / "c"), quiet=True), {})


def test_a_run_folder_has_everything(tmp_path: Path) -> None:
    execute(toy.example, Options(out=str(tmp_path), quiet=True), {})
    run = only_run(tmp_path, "tests.toy")
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    events = {n for n in names if n.startswith("events.out.tfevents")}
    assert len(events) == 1
    expected = {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "report.html",
        "model/model.json",
        "model/model.safetensors",
        "checkpoints/best.pt",
        "checkpoints/step-28.pt",
    }
    assert names - events == expected
    config = json.loads((run / "config.json").read_text())
    assert config.keys() >= {"example", "config", "command", "git_commit", "versions", "device", "device_why", "plan"}


def test_resume_may_stand_alone() -> None:
    assert with_resume_value(["--resume", "--quiet"]) == ["--resume", "latest", "--quiet"]
    assert with_resume_value(["--quiet", "--resume"]) == ["--quiet", "--resume", "latest"]
    assert with_resume_value(["--resume", "runs/x"]) == ["--resume", "runs/x"]


def test_a_run_that_cannot_be_repeated_says_so_once_and_in_its_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: Any, run: Any) -> Any:
        values, places = torch.nn.functional.max_pool2d(torch.randn(1, 1, 4, 4), 2, return_indices=True)
        for _ in range(3):  # an operator without a deterministic kernel, on any device
            torch.nn.functional.max_unpool2d(values, places, [2, 2])
        return toy.example.train(config, run)

    declared = dataclasses.replace(toy.example, train=train)
    result = execute(declared, Options(tiny=True, out=str(tmp_path)), {})
    said = capfd.readouterr().err
    assert result["not_repeatable"] == ["max_unpooling2d_forward_out"]
    assert said.count("max_unpooling2d_forward_out") == 1
    assert "not bit-reproducible on this device" in said
    assert "not_repeatable" not in execute(toy.example, Options(tiny=True, quiet=True, out=str(tmp_path)), {})
