"""Every example of the catalogue, found and not listed, through everything that a user expects of any."""

from __future__ import annotations

import json
import re
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from common import artifact, example
from common.command.arguments import Options
from common.command.execute import execute
from common.sagemaker.container import contract
from common.sagemaker.training import here as fast_local
from common.sagemaker.training import processes
from common.sagemaker.training.job import Place, TrainingJob, metric_definitions, training_job
from common.training.run import Run
from common.training.tracking import read_history
from tests import test_golden
from tests.helpers import final_weights, python, ranks, result, same, warm

EXAMPLES = example.names()


@pytest.fixture(scope="module", params=EXAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of one tiny training."""
    return result(warm("-m", name, "--tiny", "--json", "--out", tmp_path_factory.mktemp("whole")))


def await_checkpoints(out: Path, runs: str) -> None:
    """Waits for the second checkpoint of a run, whose folder matches a pattern."""
    deadline = time.monotonic() + 120
    while len(list(out.glob(f"{runs}/checkpoints/step-*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_catalogue_has_examples() -> None:
    assert "vision.train" in EXAMPLES


def test_tiny_training_ends_with_a_whole_run(name: str, trained: dict[str, Any]) -> None:
    declared = example.get(name)
    assert trained["example"] == name
    assert declared.headline in trained["metrics"]
    assert all(isinstance(v, (int, float)) for v in trained["metrics"].values())
    run = Path(trained["run"])
    assert json.loads((run / "result.json").read_text()) == trained
    report = (run / "report.html").read_text()
    assert report.startswith("<!doctype html>")
    assert "://" not in report.replace("http://www.w3.org/", "")  # self-contained
    titles = re.findall(r"<h2>(.*?)</h2>", report)
    assert len(set(titles)) == len(titles), titles
    facts = report[report.index('<dl class="facts">') :]
    assert not re.search(r"<dd>[\[{(]|<dd>(None|True|False)<", facts), facts  # no setting as Python prints it
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "metrics.jsonl").read_text().count("\n") >= 2
    saved = artifact.load(run)
    assert (saved.example, saved.metrics) == (name, trained["metrics"])


def test_the_first_losses_are_those_of_before(name: str, trained: dict[str, Any]) -> None:
    """What is not meant to change what an example learns does not: `tests/golden` was written before it."""
    assert test_golden.losses_are_kept(Path(trained["run"]), name)


def completed(job: TrainingJob, trained: dict[str, Any], tmp_path: Path) -> Path:
    """The folder of a job that ends with the very metrics and weights of a training on the command line."""
    outcome = fast_local.train(job)
    assert outcome is not None
    assert (outcome.status, outcome.metrics) == ("Completed", trained["metrics"]), outcome.failure_reason
    with tarfile.open(outcome.model) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    assert same(artifact.load(tmp_path / "model").weights(), final_weights(Path(trained["run"])))
    return outcome.folder


@pytest.mark.matrix
def test_a_killed_sagemaker_job_goes_on_to_the_same_bits_in_either_dialect(
    name: str, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun in one dialect, killed, and ended in the other."""
    words = ["--tiny", "--quiet", "--checkpoint-seconds", "0"]
    v3, classic = (
        training_job(name, words, Place(out=str(tmp_path), dialect=dialect, job_name="smoke"))
        for dialect in ("v3", "classic")
    )

    class Killed(processes.Hosts):
        def wait(self, seconds: float) -> int:
            await_checkpoints(tmp_path, "sagemaker/smoke/checkpoints/*/*")
            self._processes[0].kill()
            return super().wait(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(fast_local, "Hosts", Killed)
        outcome = fast_local.train(v3)
    assert outcome is not None
    assert (outcome.status, outcome.exit_code) == ("Failed", 128 + signal.SIGKILL)
    log = (completed(classic, trained, tmp_path) / "log.txt").read_text()
    assert re.search(r"resume .* at step [1-9]", log)
    for metric in metric_definitions(example.get(name))[:2]:  # the objective and the headline
        assert any(re.search(metric["Regex"], line) for line in log.splitlines()), metric["Name"]


@pytest.mark.parametrize("dialect", ["v3", "classic"])
def test_every_setting_reaches_the_job_in_either_dialect(name: str, dialect: str) -> None:
    config = example.get(name).config
    for made in (config.tiny(), config().resolve()):
        words = contract.arguments({k: contract.encode(v) for k, v in made.to_dict().items()}, dialect)
        assert contract.settings(contract.from_arguments(words), config) == made.to_dict()


class Seen(Exception):
    """Enough of a training."""


@pytest.mark.matrix
def test_another_seed_gives_another_run(
    name: str, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Run._after_step

    def stop(self: Run, last: bool) -> None:
        after_step(self, last)
        if len(read_history(self.folder)) >= test_golden.KEPT:
            raise Seen

    def began(seed: int) -> list[dict[str, float]]:
        with monkeypatch.context() as patch, pytest.raises(Seen):
            patch.setattr(Run, "_after_step", stop)
            execute(example.get(name), Options(tiny=True, quiet=True, out=str(tmp_path / str(seed))), {"seed": seed})
        (run,) = (tmp_path / str(seed) / name).iterdir()
        return test_golden.first_losses(run)

    assert began(1) != began(0) == test_golden.first_losses(Path(trained["run"]))


@pytest.mark.matrix
def test_the_saved_model_measures_the_same_in_a_fresh_process(trained: dict[str, Any]) -> None:
    measured = result(python("-m", "common.evaluate", trained["run"]))
    for metric, value in trained["metrics"].items():
        assert measured[metric] == pytest.approx(value, abs=1e-6), metric


@pytest.mark.matrix
def test_two_processes(name: str, trained: dict[str, Any], tmp_path: Path) -> None:
    together = result(ranks(2, "-m", name, "--tiny", "--json", "--out", tmp_path))
    assert together["metrics"].keys() == trained["metrics"].keys()
    assert together["metrics"].get("n") == trained["metrics"].get("n")  # no sample counted twice
    left, right = final_weights(Path(together["run"])), final_weights(Path(trained["run"]))
    assert {k: v.shape for k, v in left.items()} == {k: v.shape for k, v in right.items()}
    assert len(list((tmp_path / name).iterdir())) == 1  # only one of them writes
