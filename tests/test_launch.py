"""From a command line to a job: every spelling, and mistakes in one or two lines before anything is created."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import cli, example
from common.config import path_prefixes
from common.errors import UserError
from common.sagemaker.training import launch
from common.sagemaker.training.here import Outcome
from common.sagemaker.training.job import Place, TrainingJob, normal_mode, training_job
from common.sagemaker.training.spare import Spare
from tests.helpers import ROOT, python
from vision.train import TrainConfig


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[TrainingJob]:
    """The jobs that would have been run, in any mode."""
    started: list[TrainingJob] = []

    def train(job: TrainingJob, spare: Spare | None = None) -> Outcome:
        started.append(job)
        return Outcome(tmp_path / job.name, "Failed", "ValueError: no", tmp_path / "model.tar.gz", {"accuracy": 0.5}, 3)

    monkeypatch.setattr(launch, "_run_job", train)
    return started


def exit_code(action: Callable[[], Any]) -> int:
    with pytest.raises(SystemExit) as stop:
        action()
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("fast_local_mode", "fast-local"),
        ("local_mode", "local"),
        ("AWS", "aws"),
        ("aws-mode", "aws"),
        ("local", "local"),
    ],
)
def test_a_mode_has_many_spellings(said: str, mode: str) -> None:
    assert normal_mode(said) == mode


def test_without_arguments_it_is_the_default_on_this_machine(jobs: list[TrainingJob]) -> None:
    assert exit_code(lambda: launch.main("vision.train", [])) == 3
    (job,) = jobs
    assert (job.example, job.hyperparameters, job.place.mode) == (
        "vision.train",
        {"example": "vision.train"},
        "fast-local",
    )


def test_the_launcher_takes_flags_in_both_spellings_and_the_example_s_after_two_dashes(
    jobs: list[TrainingJob], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (
        "rl.dqn --execution_mode aws_mode --instance_type ml.g6.xlarge --instance-count=2 --spot --max_run 60 --json "
    )
    words += f"--job-name my-job --out {tmp_path} -- --rainbow --batch_size=8"
    assert exit_code(lambda: launch.main("vision.train", words.split())) == 3
    (job,) = jobs
    place = Place(
        execution_mode="aws",
        instance_type="ml.g6.xlarge",
        instance_count=2,
        spot=True,
        max_run=60,
        job_name="my-job",
        out=str(tmp_path),
    )
    assert job.place == place
    assert job.hyperparameters == {"example": "rl.dqn", "rainbow": True, "batch_size": 8}
    output = capfd.readouterr()
    said = json.loads(output.out)
    assert (said["job"], said["status"], said["metrics"]) == ("my-job", "Failed", {"accuracy": 0.5})
    assert "ValueError: no" in output.err


def test_every_example_has_the_mode_and_its_own_flags_as_before(jobs: list[TrainingJob], tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"lr": 0.5, "seed": 7}')
    words = [
        "--execution-mode",
        "aws",
        "--processes",
        "2",
        "--tiny",
        "--config",
        str(tmp_path / "settings.json"),
        "--seed",
        "9",
    ]
    exit_code(lambda: cli.main(example.get("nlp.classify"), words))
    (job,) = jobs
    assert job.hyperparameters == {"example": "nlp.classify", "tiny": True, "lr": 0.5, "seed": 9}
    assert job.place.processes == 2
    assert job.name.startswith("nlp-classify-")


def test_the_arguments_of_a_job_are_those_of_the_same_training_here() -> None:
    job = training_job("vision.train", ["--tiny", "--epochs", "3", "--no-flip"], Place())
    assert list(job.arguments) == ["--tiny", "--epochs", "3", "--no-flip"]
    assert training_job("vision.train", job.arguments, Place()).hyperparameters == job.hyperparameters


# --- data -----------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "my photos" / "a").mkdir(parents=True)
    (tmp_path / "rows.csv").write_text("text,label\n")
    (tmp_path / "net.pt").write_text("")
    return tmp_path


def test_paths_of_the_user_become_channels(photos: Path) -> None:
    birds = photos / "my photos"

    def shipped(name: str, *words: object, data: object = None) -> tuple[dict[str, Any], dict[str, str]]:
        job = training_job(name, list(map(str, words)), Place(data=str(data) if data else None))
        return {k: v for k, v in job.hyperparameters.items() if k != "example"}, job.channels

    inside = {"data_dir": "{training}"}
    here = {"training": str(birds)}
    assert shipped("vision.train", "--data", f"folder:{birds}") == ({"data": "folder:.", **inside}, here)
    assert shipped("vision.train", "--data-dir", birds) == (inside, here)
    assert shipped("vision.train", data=birds) == (inside, here)
    assert shipped("vision.train", "--data", "folder:my photos", "--data-dir", photos) == (
        {"data": "folder:my photos", **inside},
        {"training": str(photos)},
    )
    assert shipped("vision.train", data=f"folder:{birds}") == ({"data": "folder:.", **inside}, here)
    assert shipped("vision.train", "--data", "folder:s3://b/birds/") == (
        {"data": "folder:.", **inside},
        {"training": "s3://b/birds/"},
    )
    assert shipped("nlp.classify", "--data", f"csv:{photos}/rows.csv") == (
        {"data": "csv:rows.csv", **inside},
        {"training": str(photos / "rows.csv")},
    )
    values, channels = shipped("vision.train", "--model", "torchvision/resnet18", "--weights", photos / "net.pt")
    assert (values["weights"], channels) == ("{weights}/net.pt", {"weights": str(photos / "net.pt")})
    assert shipped("vision.train", "--data", "digits") == ({"data": "digits"}, {})


def test_only_what_an_example_declares_is_taken_for_a_path(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert path_prefixes(TrainConfig) == {"data": ("folder:", "npz:"), "data_dir": ("",), "weights": ("",)}
    monkeypatch.chdir(photos)
    (photos / "cpu").touch()
    (photos / "lenet").touch()
    assert training_job("vision.train", ["--device", "cpu", "--model", "lenet"], Place()).channels == {}


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vision.trian"], "There is no example 'vision.trian'.\nDid you mean vision.train?"),
        (["--execution-mode", "asw"], "--execution-mode asw: unknown.\nDid you mean aws?"),
        (["--execution-mod", "aws"], "No such option: --execution-mod"),
        (["--instance-count", "0"], "--instance-count is 0; it must be at least 1."),
        (["--dialect", "v2"], "--dialect v2: unknown."),
        (["--job-name", "it's"], "--job-name it's: not allowed.\nUp to 63 letters"),
        (["--data", "nowhere"], "There is no data at nowhere.\nGive a folder or file of this machine"),
        (["--", "--epochs", "0"], "--epochs is 0; it must be at least 1."),
        (["--", "--epoch", "3"], "No such option: --epoch"),
        (["--", "--data", "folder:nowhere"], "There is no data at nowhere."),
        (["--", "--seeds", "0,1"], "--seeds trains several models; a job trains one."),
        (["--", "--resume"], "--resume does not go with --execution-mode.\nGive the --job-name"),
        (["--", "--track", "mlflow"], "--track does not go with --execution-mode."),
        (["--data", "s3://bucket/x"], "s3://bucket/x needs an account"),
    ],
)
def test_a_mistake_is_found_before_anything_is_created(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(lambda: launch.main("vision.train", words)) == 2
    output = capfd.readouterr()
    assert output.err.startswith(f"error: {text}")
    assert (len(output.err.splitlines()) <= 2, output.out, list(tmp_path.iterdir())) == (True, "", [])


def test_a_flag_of_a_job_without_a_mode_is_refused(refusal: Callable[..., str]) -> None:
    assert refusal(example.get("vision.train"), "--spot").startswith(
        "error: --spot belongs to a job.\nSay --execution-mode"
    )


def test_data_outside_of_the_folder_named_is_refused(photos: Path) -> None:
    with pytest.raises(UserError, match="is not in"):
        training_job("vision.train", ["--data", "folder:elsewhere", "--data-dir", str(photos)], Place())


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(lambda: launch.main("vision.train", ["rl.dqn", "--dry-run", "--", "--rainbow"])) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["hyperparameters"] == {"example": "rl.dqn", "rainbow": "true"}
    assert not list(tmp_path.iterdir())


def test_the_script_runs_from_inside_its_folder_finds_its_code_and_leaves_the_sdk_alone() -> None:
    words = ["run_training.py", "--execution_mode", "fast_local_mode", "--dry-run"]
    # Nothing but the script itself may lead to our code: no PYTHONPATH, and no hook of an editable install.
    code = f"import sys, runpy; sys.argv = {words}\n"
    code += "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in str(f)]\n"
    code += f"sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n"
    code += "try: runpy.run_path('run_training.py', run_name='__main__')\nexcept SystemExit as e: print(e.code)\n"
    code += "import importlib.util as u; print('sagemaker' in sys.modules, u.find_spec('common').origin)"
    process = python("-c", code, cwd=ROOT / "sagemaker")
    *_, exit_code, found = process.stdout.splitlines()
    assert (exit_code, found) == ("0", f"False {ROOT / 'common' / '__init__.py'}"), process.stderr
