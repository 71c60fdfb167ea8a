"""fast-local: a job without a container does what the container would, through stops, kills and failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.example import get, names
from common.sagemaker.container import contract, staging
from common.sagemaker.container.contract import Tree
from common.sagemaker.training import here as fast_local
from common.sagemaker.training.here import Outcome
from common.sagemaker.training.job import Place, TrainingJob, training_job
from tests.helpers import ROOT, environment, final_weights, same
from tests.test_sagemaker_contract import drivers, toolkit


def job(out: Path, *words: str, **place: Any) -> TrainingJob:
    return training_job("vision.train", ["--tiny", "--quiet", *words], Place(out=str(out), job_name="j", **place))


def run(out: Path, *words: str, **place: Any) -> Outcome:
    outcome = fast_local.train(job(out, *words, **place))
    assert outcome is not None
    return outcome


def model(outcome: Outcome, into: Path) -> artifact.Artifact:
    with tarfile.open(outcome.model) as archive:
        archive.extractall(into, filter="data")
    return artifact.load(into)


def when_saved(out: Path, count: int, action: Any) -> threading.Thread:
    """Does something in a thread once so many more checkpoints were written."""

    def steps() -> set[str]:
        return {file.name for file in out.glob("sagemaker/j/checkpoints/*/*/checkpoints/step-*.pt")}

    seen = before = steps()

    def wait() -> None:
        nonlocal seen
        deadline = time.monotonic() + 120
        while len(seen - before) < count and time.monotonic() < deadline:
            time.sleep(0.01)
            seen = seen | steps()  # only the last two are kept
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_two_hosts_train_one_model_and_a_finished_job_stays_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(tmp_path, "--epochs", "1", instance_count=2, dialect="classic")
    assert (outcome.status, outcome.exit_code, outcome.failure_reason) == ("Completed", 0, "")
    folder = tmp_path / "sagemaker" / "j"
    assert outcome.folder == folder
    assert model(outcome, tmp_path / "unpacked").metrics == outcome.metrics
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    assert left == {"", "checkpoints", "job", "log", "model", "output"}  # "" is the lock; the tree is gone
    assert {"report.html", "result.json", "metrics.jsonl"} <= {p.name for p in (folder / "output").iterdir()}
    log = (folder / "log.txt").read_text()
    assert "[algo-1] accuracy " in log
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capfd.readouterr()
    again = fast_local.train(
        training_job("vision.train", ["--tiny", "--epochs", "1"], job(tmp_path, instance_count=2).place)
    )
    assert again == outcome
    assert capfd.readouterr().err == "The job j is finished already; nothing was changed.\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(UserError, match="The job j was started with another hyperparameter"):
        run(tmp_path, "--epochs", "2", instance_count=2)


def test_stopped_and_killed_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = execute(get("vision.train"), Options(tiny=True, out=str(tmp_path / "whole"), quiet=True), {"epochs": 3})
    words = ("--epochs", "3", "--checkpoint-seconds", "0")

    stop = when_saved(tmp_path, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = run(tmp_path, *words)
    stop.join()
    assert (stopped.status, stopped.exit_code) == ("Stopped", 143)
    assert not stopped.model.exists()

    own = ["--job-name", "j", "--out", str(tmp_path), "--", "--tiny", "--quiet"]
    command = ["sagemaker/run_training.py", *own, *words]
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment()) as launcher:
        when_saved(tmp_path, 3, launcher.kill).join()
    assert json.loads((tmp_path / "sagemaker" / "j" / "job.json").read_text())["status"] == "InProgress"

    resumed = run(tmp_path, *words)
    assert resumed.status == "Completed"
    assert "resume     " in (resumed.folder / "log.txt").read_text()
    assert resumed.metrics == whole["metrics"]
    weights = model(resumed, tmp_path / "unpacked").weights()
    assert same(weights, final_weights(Path(whole["run"])))


@pytest.mark.parametrize("spare", [False, True], ids=["new process", "spare"])
def test_the_staged_source_runs_alone_and_its_own_exception_is_the_reason(
    spare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = staging.stage

    def with_a_mistake(example: str, folder: Path) -> staging.Staged:
        staged = real(example, folder)
        with (folder / "vision" / "train.py").open("a") as file:
            file.write("\n\nimport rl  # is in this checkout, but not in the job\n")
        return staged

    monkeypatch.setattr(staging, "stage", with_a_mistake)
    made = job(tmp_path)
    with fast_local.spare_for(made.place) if spare else contextlib.nullcontext() as process:
        outcome = fast_local.train(made, process)
    assert outcome is not None
    assert (outcome.status, outcome.exit_code, outcome.model.exists()) == ("Failed", 1, False)
    assert outcome.failure_reason.startswith("ModuleNotFoundError: No module named 'rl'\n")
    assert "import rl  # is in this checkout" in outcome.failure_reason
    assert (outcome.folder / "failure").read_text() == outcome.failure_reason


def test_a_spare_process_ends_when_its_launcher_finds_a_mistake_or_goes() -> None:
    with pytest.raises(UserError), fast_local.spare_for(Place()) as spare:
        training_job("vision.train", ["--epochs", "-1"], Place())
    assert spare is not None
    assert spare.process.poll() == -signal.SIGKILL
    with fast_local.spare_for(Place()) as spare:
        assert spare is not None
        spare._ours.close()  # as the operating system does it for a launcher that was killed
        assert spare.process.wait(timeout=60) == 0
    for place in (Place(instance_count=2), Place(processes=2), Place(dry_run=True), Place(execution_mode="aws")):
        with fast_local.spare_for(place) as none:
            assert none is None


def test_a_mistake_of_the_user_is_the_reason_and_keeps_its_code(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    outcome = run(tmp_path, "--data", f"folder:{tmp_path / 'photos'}")
    assert (outcome.status, outcome.exit_code) == ("Failed", 2)
    assert "Traceback" not in outcome.failure_reason
    assert len(outcome.failure_reason.splitlines()) <= 2


def test_a_job_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    outcome = run(tmp_path, "--epochs", "100000", max_run=1)
    assert (outcome.status, outcome.exit_code) == ("Stopped", 143)
    assert "--max-run of 1 seconds is over" in (outcome.folder / "log.txt").read_text()


def test_one_job_of_a_name_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_local, "LET_GO", 0.0)
    folder = tmp_path / "sagemaker" / "j"
    folder.mkdir(parents=True)
    with fast_local._alone(folder, "j"), pytest.raises(UserError, match="The job j is running"):
        run(tmp_path)


# --- conformance: the same source under the real drivers --------------------------------------------------


def prepared(out: Path, example: str, **place: Any) -> tuple[Tree, Path, dict[str, str], TrainingJob]:
    """A container's tree with a job in it: the tree, its working directory, its environment."""
    made = training_job(example, ["--tiny", "--seed", "3"], Place(out=str(out), job_name="j", **place))
    tree = Tree(out / "ml" / "algo-1")
    staging.stage(made.example, tree.code)
    ((_, folder, variables),) = fast_local._prepare(made, [tree], out / "checkpoints", out / "ml")
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    return tree, folder, variables, made


def trained(tree: Tree) -> dict[str, Any]:
    """The config of what was trained, of a tree that has everything a job leaves."""
    assert (tree.output / "data" / "report.html").exists()
    assert not (tree.output / "failure").exists()
    return artifact.load(tree.model).config


@pytest.mark.conformance
@pytest.mark.parametrize(("driver", "processes"), [("basic_script_driver", 1), ("torchrun_driver", 2)])
def test_the_sdk_s_unmodified_drivers_run_our_code(driver: str, processes: int, tmp_path: Path) -> None:
    script = drivers() / "distributed_drivers" / f"{driver}.py"
    tree, folder, variables, _ = prepared(tmp_path, "vision.train", processes=processes)
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(tree)["seed"] == 3


@pytest.mark.conformance
@pytest.mark.parametrize("example", names())
def test_the_real_toolkit_runs_our_code(example: str, tmp_path: Path) -> None:
    place = toolkit()
    tree, _, variables, made = prepared(tmp_path, example, dialect="classic")
    (tree.code / "requirements.txt").unlink()  # all is installed, and pip would ask the network
    program = {
        "sagemaker_program": json.dumps(contract.ENTRY),
        "sagemaker_submit_directory": json.dumps(str(tree.code)),
    }
    resources = {**contract.Host().resources("ml.m5.large"), "current_host": "localhost", "hosts": ["localhost"]}
    contract.write_config(tree, fast_local.strings(made) | program, [], resources)
    outside = {
        name: value for name, value in variables.items() if not name.startswith("SM_") or name == "SM_CHECKPOINT_DIR"
    }
    outside |= {
        "SAGEMAKER_BASE_DIR": str(tree.root),
        "PYTHONPATH": os.pathsep.join([place, str(tmp_path / "ml" / "isolation")]),
    }
    code = "from sagemaker_training.cli.train import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=outside, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(tree)["seed"] == 3
