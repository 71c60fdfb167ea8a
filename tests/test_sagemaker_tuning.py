"""Tuning as SageMaker does: the exact request of every example, the flow on AWS, and the same on this machine."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from common.config import Range
from common.errors import UserError
from common.example import get, names
from common.sagemaker.account import dry_run
from common.sagemaker.container import contract
from common.sagemaker.training.job import Place
from common.sagemaker.tuning import aws as tuning_aws
from common.sagemaker.tuning import main as tuning
from tests.dry_runs import BUCKET, DRY, ROLE, one_session, only_request  # noqa: F401  a fixture of this module

pytest.importorskip("sagemaker.core")
pytest.importorskip("optuna")


def requested(capfd: Any, example: str, *words: str, strategy: str = "bayesian", **place: Any) -> dict[str, Any]:
    """The CreateHyperParameterTuningJob as it passes botocore's hook in a dry run; valid, and alone on stdout."""
    plan = tuning.tuning(example, words, dataclasses.replace(DRY, **place), strategy=strategy, jobs=20, parallel=4)
    return only_request(capfd, "CreateHyperParameterTuningJob", lambda: tuning.tune(plan))


# --- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", names())
def test_the_request_of_each_example(example: str, capfd: Any) -> None:
    declared = get(example)
    request = requested(capfd, example, "--seed", "3")
    name = request["HyperParameterTuningJobName"]
    assert len(name) <= 32
    config = request["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Bayesian"
    assert config["RandomSeed"] == 3
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 4}
    assert config["TrainingJobEarlyStoppingType"] == "Auto"
    assert config["HyperParameterTuningJobObjective"] == {
        "Type": declared.goal.capitalize(),
        "MetricName": declared.objective,
    }

    definition = request["TrainingJobDefinition"]
    searched = {r["Name"] for kind in config["ParameterRanges"].values() for r in kind}
    assert searched == set(declared.config.ranges())
    assert definition["StaticHyperParameters"] == {
        "example": example,
        "seed": "3",
        "sagemaker_program": "train_models.py",
        "sagemaker_region": "us-east-1",
        "sagemaker_submit_directory": f"s3://{BUCKET}/{name}/source/source.tar.gz",
    }
    algorithm = definition["AlgorithmSpecification"]
    assert declared.objective in {metric["Name"] for metric in algorithm["MetricDefinitions"]}
    assert "InputDataConfig" not in definition, "there is no channel, and the API takes no empty list"
    assert definition["CheckpointConfig"]["S3Uri"] == f"s3://{BUCKET}/{name}/checkpoints"
    assert definition["Environment"]["TUNING_TRIAL"] == "1", "trials must not continue each other's runs"


@pytest.mark.parametrize("example", names())
def test_every_value_of_a_range_arrives_as_it_was(example: str, capfd: Any) -> None:
    """From the request through the classic toolkit's arguments to the settings of the training."""
    config = get(example).config
    found = requested(capfd, example)["HyperParameterTuningJobConfig"]["ParameterRanges"]
    for name, where in config.ranges().items():
        fields = next(r for kind in found.values() for r in kind if r["Name"] == name)
        sent = fields["Values"] if isinstance(where, tuple) else [fields["MinValue"], fields["MaxValue"]]
        meant = list(where) if isinstance(where, tuple) else [where.low, where.high]
        for text, value in zip(sent, meant, strict=True):
            words = contract.arguments({name: text, "_tuning_objective_metric": "x"}, "classic")
            assert contract.settings(contract.from_arguments(words), config) == {name: value}
        if isinstance(where, Range):
            assert fields["ScalingType"] == ("Logarithmic" if where.log else "Linear")


def test_hyperband_says_how_often_a_training_validates(capfd: Any) -> None:
    config = requested(capfd, "vision.train", "--epochs", "9", strategy="hyperband")["HyperParameterTuningJobConfig"]
    assert config["StrategyConfig"] == {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 9}}
    assert config["TrainingJobEarlyStoppingType"] == "Off"
    config = requested(capfd, "rl.dqn", strategy="hyperband")["HyperParameterTuningJobConfig"]
    assert config["StrategyConfig"]["HyperbandStrategyConfig"]["MaxResource"] == 17  # 50,000 steps, every 3,072


def test_what_is_said_is_static_and_not_searched(capfd: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("x")
    request = requested(
        capfd,
        "vision.train",
        "--lr",
        "0.01",
        "--flip",
        "--data",
        f"folder:{tmp_path / 'photos'}",
        spot=True,
        max_run=600,
    )
    definition = request["TrainingJobDefinition"]
    static = definition["StaticHyperParameters"]
    assert (static["lr"], static["flip"]) == ("0.01", "true"), "not True, which is no JSON"
    searched = request["HyperParameterTuningJobConfig"]["ParameterRanges"]
    assert "lr" not in {r["Name"] for kind in searched.values() for r in kind}
    assert definition["EnableManagedSpotTraining"]
    assert definition["StoppingCondition"] == {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 1200}
    (channel,) = definition["InputDataConfig"]
    uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
    assert uri.startswith(f"s3://{BUCKET}/"), "never a path of this machine"


def test_a_dry_run_uploads_and_creates_nothing(capfd: Any, tmp_path: Path) -> None:
    requested(capfd, "research.ladder", out=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    plan = tuning.tuning("research.ladder", [], Place(dry_run=True, out=str(tmp_path / "runs")))
    assert tuning.tune(plan) is None
    assert '"objective": "val_loss"' in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


# --- the flow on AWS ---------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An account in this process. Its tuning jobs are over at once and have no trainings; those are made up here."""
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto = boto3.Session(region_name="us-east-1")
        boto.client("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument="{}")
        boto.client("s3").create_bucket(Bucket=BUCKET)
        yield boto


def summaries(name: str) -> list[dict[str, Any]]:
    began = datetime(2026, 1, 31, tzinfo=timezone.utc)

    def one(number: int, lr: str, size: str, status: str, value: float | None) -> dict[str, Any]:
        final = {"MetricName": "val_loss", "Value": value}
        return {
            "TrainingJobName": f"{name}-{number:03}-abcd",
            "TrainingJobStatus": status,
            "CreationTime": began,
            "TrainingStartTime": began,
            "TrainingEndTime": began + timedelta(seconds=90),
            "TunedHyperParameters": {"lr": lr, "batch_size": size},
            **({"FinalHyperParameterTuningJobObjectiveMetric": final} if value is not None else {}),
            **({"FailureReason": "AlgorithmError: loss became nan"} if status == "Failed" else {}),
        }

    return [
        one(1, "0.1", '"64"', "Completed", 0.4),
        one(2, "2.9", '"16"', "Failed", None),
        one(3, "0.7", '"32"', "Completed", 0.1),
        one(4, "0.01", '"128"', "Stopped", 0.9),
    ]


def answered(monkeypatch: pytest.MonkeyPatch, found: list[dict[str, Any]]) -> None:
    """moto has no ListTrainingJobsForHyperParameterTuningJob: this answers in its place, in two pages."""
    real = tuning_aws.session

    def pages(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        second = "NextToken" in json.loads(params["body"])
        part = found[2:] if second else found[:2]
        return dry_run._Answer(), {"TrainingJobSummaries": part, **({} if second else {"NextToken": "more"})}

    def session(place: Place) -> Any:
        account = real(place)
        account.boto.events.register("before-call.sagemaker.ListTrainingJobsForHyperParameterTuningJob", pages)
        return account

    monkeypatch.setattr(tuning_aws, "session", session)


def test_the_whole_flow(aws: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any, tmp_path: Path) -> None:
    place = Place(execution_mode="aws", region="us-east-1", role="trainer", job_name="tune-ladder", out=str(tmp_path))
    plan = tuning.tuning("research.ladder", ["--epochs", "5"], place, jobs=4, parallel=2)
    answered(monkeypatch, summaries("tune-ladder"))
    result = tuning.tune(plan)
    assert result is not None
    keys = [item["Key"] for item in aws.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert keys == ["tune-ladder/source/source.tar.gz"]
    created = aws.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="tune-ladder")
    assert created["TrainingJobDefinition"]["StaticHyperParameters"]["epochs"] == "5"
    tags = aws.client("sagemaker").list_tags(ResourceArn=created["HyperParameterTuningJobArn"])["Tags"]
    assert {"Key": "project", "Value": "pytorch-use-cases"} in tags, "jobs.py finds it again"

    assert result["best"] == {"trial": 2, "values": {"lr": 0.7, "batch_size": 32}, "score": 0.1}
    assert result["trials"] == {"complete": 2, "pruned": 1, "failed": 1}
    page = (plan.folder / "tune.html").read_text()
    assert "loss became nan" in page
    model = f"s3://{BUCKET}/tune-ladder-003-abcd/output/model.tar.gz"
    error = capfd.readouterr().err
    assert f"deploy.py create {model} --execution-mode aws" in error
    assert "cost" in error

    tuning.tune(plan)  # the same name again: its results, and no second job
    assert len(aws.client("sagemaker").list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]) == 1


def test_no_training_was_completed(aws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = Place(execution_mode="aws", region="us-east-1", role="trainer", job_name="tune-bad", out=str(tmp_path))
    failed = [s for s in summaries("tune-bad") if s["TrainingJobStatus"] == "Failed"]
    answered(monkeypatch, failed * 2)
    with pytest.raises(UserError, match="None of the jobs of tune-bad was completed") as error:
        tuning.tune(tuning.tuning("research.ladder", [], place, jobs=2))
    assert "loss became nan" in str(error.value)


def test_progress() -> None:
    line = tuning_aws.progress_line(
        {
            "HyperParameterTuningJobStatus": "InProgress",
            "TrainingJobStatusCounters": {"Completed": 5, "InProgress": 2, "Stopped": 0},
            "BestTrainingJob": {"FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "x", "Value": 0.981}},
        }
    )
    assert line == "InProgress · 5 complete, 2 running · best 0.981"


# --- on this machine ---------------------------------------------------------------------------------------


def test_fast_local_tunes_by_the_log_and_continues(tmp_path: Path, capfd: Any) -> None:
    place = Place(job_name="tune-here", out=str(tmp_path))

    def run(jobs: int) -> dict[str, Any]:
        result = tuning.tune(tuning.tuning("research.ladder", ["--tiny"], place, jobs=jobs, parallel=2))
        assert result is not None
        return result

    first = run(2)
    assert first["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert first["best"]["score"] <= first["defaults"]["score"]
    jobs = [json.loads((tmp_path / "sagemaker" / f"tune-here-00{i}" / "job.json").read_text()) for i in (0, 1)]
    assert {job["dialect"] for job in jobs} == {"classic"}
    assert Path(first["final"]["model"]).name == "model.tar.gz"
    assert Path(first["final"]["model"]).exists()
    history = (tmp_path / "sagemaker" / "tune-here-000" / "output" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["val_loss"] for line in history if "val_loss" in line]
    assert first["defaults"]["score"] == pytest.approx(logged[-1], rel=1e-3), "the log rounds to four digits"

    again = run(2)  # nothing is left to do
    assert again["best"] == first["best"]
    assert "deploy.py create" in capfd.readouterr().err
    assert not (tmp_path / "sagemaker" / "tune-here-002").exists()
    with pytest.raises(UserError, match="made with other arguments"):
        tuning.tune(tuning.tuning("research.ladder", ["--tiny", "--epochs", "3"], place, jobs=2))


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vision.trian"], "There is no example 'vision.trian'."),
        (["--jobs", "0"], "--jobs 0: it must be at least 1."),
        (["--strategy", "grid"], "--strategy grid: unknown."),
        (["--job-name", "a" * 33], "tuning jobs have names of up to 32 characters."),
        (["--execution_mode", "local_mode"], "The SDK's local mode knows no tuning."),
        (["--", "--seeds", "0,1"], "--seeds does not go with tuning."),
    ],
)
def test_mistakes(words: list[str], text: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    own = [] if words[0] == "vision.trian" else ["vision.train"]
    split = words.index("--") if "--" in words else len(words)
    monkeypatch.setattr(sys, "argv", ["tune.py"])
    with pytest.raises(SystemExit) as stop:
        tuning.main("vision.train", [*own, *words[:split], "--out", str(tmp_path / "runs"), *words[split:]])
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert text in error
    assert len(error[error.index("error: ") :].splitlines()) <= 2
    assert not (tmp_path / "runs").exists()
