"""Training on AWS: the exact request of every example, the whole flow against an account in this process."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import archives
from common.errors import UserError
from common.example import names
from common.sagemaker.account import watch
from common.sagemaker.account.session import Account, session
from common.sagemaker.container import staging
from common.sagemaker.training import aws as training
from common.sagemaker.training import results
from common.sagemaker.training.job import Place, TrainingJob, training_job
from tests.dry_runs import BUCKET, DRY, ROLE, one_session, only_request  # noqa: F401  a fixture of this module

pytest.importorskip("sagemaker.core")


def requested(capfd: pytest.CaptureFixture[str], example: str, *arguments: str, **place: Any) -> dict[str, Any]:
    """The CreateTrainingJob that a dry run shows; nothing else is on stdout, and it is valid."""
    job = training_job(example, arguments, dataclasses.replace(DRY, **place))
    return only_request(capfd, "CreateTrainingJob", lambda: training.train(job))


def members(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


# --- requests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", names())
def test_the_request_of_each_example(example: str, capfd: pytest.CaptureFixture[str]) -> None:
    name = f"golden-{example.replace('.', '-')}"
    request = requested(capfd, example, "--tiny", "--seed", "3", job_name=name)
    assert request["TrainingJobName"] == name  # no time of the SDK's at its end
    assert request["RoleArn"] == ROLE
    hyperparameters = request["HyperParameters"]
    assert (hyperparameters["example"], hyperparameters["tiny"], hyperparameters["seed"]) == (example, "true", "3")
    algorithm = request["AlgorithmSpecification"]
    assert algorithm["TrainingImage"].endswith(".us-east-1.amazonaws.com/pytorch:2.14-cpu-amzn2023-sagemaker")
    assert algorithm["TrainingInputMode"] == "File"
    assert algorithm["MetricDefinitions"]
    for metric in algorithm["MetricDefinitions"]:
        re.compile(metric["Regex"])
    assert request["ResourceConfig"] == {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert request["OutputDataConfig"] == {"S3OutputPath": f"s3://{BUCKET}", "CompressionType": "GZIP"}
    assert request["CheckpointConfig"] == {
        "S3Uri": f"s3://{BUCKET}/{name}/checkpoints", "LocalPath": "/opt/ml/checkpoints",
    }  # fmt: skip
    assert request["Tags"] == [
        {"Key": "project", "Value": "pytorch-use-cases"}, {"Key": "example", "Value": example},
    ]  # fmt: skip
    channels = {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"] for c in request["InputDataConfig"]}
    assert channels == {c: f"s3://{BUCKET}/{name}/input/{c}" for c in ("code", "sm_drivers")}


def test_spot_waits_for_capacity_and_says_that_it_costs_less(capfd: pytest.CaptureFixture[str]) -> None:
    job = training_job("vision.train", ["--tiny"], dataclasses.replace(DRY, spot=True, max_run=600))
    assert training.train(job) is None
    output = capfd.readouterr()
    request = json.loads(output.out)["CreateTrainingJob"]
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 1200}
    assert "CheckpointConfig" in request
    assert "cost       at most $0.04" in output.err
    assert "spot capacity costs less" in output.err


def test_a_dry_run_opens_no_connection(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREALKEY")
    request = requested(capfd, "vision.train", "--tiny", role=None, bucket=None)
    assert "YOUR-SAGEMAKER-ROLE" in request["RoleArn"]  # neither was needed
    assert "AKIAREALKEY" not in json.dumps(request)


def test_a_gpu_machine_gets_the_image_with_cuda() -> None:
    assert training.image_uri("ml.g5.xlarge", "eu-west-1").endswith(
        "eu-west-1.amazonaws.com/pytorch:2.14-cu133-amzn2023-sagemaker"
    )
    with pytest.raises(UserError, match=r"No PyTorch image.*\nName one with --image"):
        training.image_uri("ml.m5.xlarge", "moon-east-1")


def test_a_machine_that_does_not_exist_is_refused_before_anything_is_uploaded(
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = training_job("vision.train", ["--tiny"], dataclasses.replace(DRY, instance_type="ml.g5.xlrage"))
    with pytest.raises(UserError, match=r"--instance-type ml\.g5\.xlrage: no machine.*\nDid you mean ml\.g5\.xlarge\?"):
        training.train(job)
    assert capfd.readouterr() == ("", "")


def test_an_image_of_the_users_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    request = requested(capfd, "vision.train", "--tiny", image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/own:1")
    assert request["AlgorithmSpecification"]["TrainingImage"].endswith("/own:1")


@pytest.mark.parametrize(
    ("machine", "count", "processes", "torchrun"),
    [
        ("ml.m5.xlarge", 1, 1, None), ("ml.m5.xlarge", 1, 2, 2), ("ml.m5.xlarge", 2, 1, 1),
        ("ml.g5.xlarge", 1, 1, None), ("ml.g5.xlarge", 2, 1, "all"), ("ml.g5.12xlarge", 1, 1, "all"),
        ("ml.g5.12xlarge", 1, 2, 2), ("ml.g9.xlarge", 1, 0, "all"),
    ],
)  # fmt: skip
def test_torchrun_where_more_than_one_process_trains(
    machine: str, count: int, processes: int, torchrun: int | str | None
) -> None:
    found = training.distributed(Place(instance_type=machine, instance_count=count, processes=processes))
    assert (found and (found.process_count_per_node or "all")) == torchrun


def test_two_machines_get_the_torchrun_driver(tmp_path: Path) -> None:
    drivers = uploaded(tmp_path, instance_count=2, processes=2) / "sm_drivers"
    assert "torchrun_driver.py" in (drivers / "sm_train.sh").read_text()
    assert json.loads((drivers / "distributed.json").read_text())["process_count_per_node"] == 2


def test_the_script_gets_its_hyperparameters_as_arguments(tmp_path: Path) -> None:
    source = uploaded(tmp_path)
    # The SDK's `command` would start another script, to which no hyperparameter is passed.
    script = (source / "sm_drivers" / "sm_train.sh").read_text()
    assert "basic_script_driver.py" in script
    said = json.loads((source / "sm_drivers" / "sourcecode.json").read_text())
    assert (said["entry_script"], said["command"], said["requirements"]) == (
        "train_models.py",
        None,
        "requirements.txt",
    )
    assert (source / "code" / "common" / "sagemaker" / "container" / "entry.py").exists()


def uploaded(folder: Path, **place: Any) -> Path:
    """What a job would upload, copied into a folder in place of S3; one folder each channel."""
    job = training_job("vision.train", ["--tiny"], dataclasses.replace(DRY, **place))
    account = session(job.place)

    class Copying(Account):
        def upload(self, path: Path, *parts: str) -> str:
            shutil.copytree(path, folder / parts[-1])
            return self.uri(*parts)

    staged = training.stage(job.example, folder / "staged")
    training.training_request(job, job.name, Copying(**vars(account)), staged.folder)
    return folder


def test_local_data_is_uploaded_and_never_sent_as_a_uri(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"png")
    request = requested(capfd, "vision.train", "--tiny", data=str(tmp_path / "photos"), job_name="with-data")
    uri = {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"] for c in request["InputDataConfig"]}["training"]
    assert uri == f"s3://{BUCKET}/with-data/input/training"
    with pytest.raises(UserError, match="There is no data at"):
        training.inputs({"training": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="can't be the name of a channel"):
        training.inputs({"my-data": "s3://bucket/data"})


def test_data_on_s3_stays_there(capfd: pytest.CaptureFixture[str]) -> None:
    request = requested(capfd, "vision.train", "--tiny", data="s3://elsewhere/photos")
    assert request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://elsewhere/photos"


def test_names_do_not_collide_within_a_minute() -> None:
    made = {training_job("vision.train", ["--tiny"], DRY).name for _ in range(3)}
    assert len(made) == 3


# --- the whole flow -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boto() -> Iterator[Any]:
    """An account with a role and a bucket."""
    import boto3
    from moto import mock_aws

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setattr(watch, "SECONDS", 0.0)
        made = boto3.Session(region_name="us-east-1")
        made.client("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument='{"Version": "2012-10-17"}')
        made.client("s3").create_bucket(Bucket=BUCKET)
        yield made


def aws_job(tmp_path: Path, name: str, **place: Any) -> TrainingJob:
    asked = Place(execution_mode="aws", region="us-east-1", role="trainer", out=str(tmp_path), job_name=name, **place)
    return training_job("vision.train", ["--tiny"], asked)


def put_archive(boto: Any, key: str, files: dict[str, bytes]) -> None:
    """A .tar.gz on S3."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    boto.client("s3").put_object(Bucket=BUCKET, Key=key, Body=buffer.getvalue())


def test_from_source_to_results(boto: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put_archive(boto, "flow/output/model.tar.gz", {"model.json": b"{}"})
    put_archive(boto, "flow/output/output.tar.gz", {"result.json": b'{"metrics": {"accuracy": 0.5}}'})
    outcome = training.train(aws_job(tmp_path, "flow"))
    assert outcome is not None
    assert (outcome.status, outcome.exit_code, outcome.metrics) == ("Completed", 0, {"accuracy": 0.5})
    assert outcome.folder == tmp_path / "sagemaker" / "flow"
    assert members(outcome.model) == ["model.json"]
    keys = [o["Key"] for o in boto.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="flow/input/")["Contents"]]
    assert "flow/input/code/train_models.py" in keys
    assert not [key for key in keys if ".git/" in key or key.endswith((".npz", ".env", ".pt"))]
    error = capfd.readouterr().err
    assert "cost       at most $0.23" in error
    assert "python sagemaker/jobs.py logs flow" in error
    description = boto.client("sagemaker").describe_training_job(TrainingJobName="flow")
    assert description["HyperParameters"]["example"] == "vision.train"


def test_a_name_continues_what_failed_and_refuses_what_runs_or_is_done(
    boto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.sagemaker.models import sagemaker_backends

    def short(example: str, folder: Path) -> staging.Staged:
        folder.mkdir()
        for name in ("train_models.py", "requirements.txt"):
            (folder / name).touch()
        return staging.Staged(folder, (), 0)

    monkeypatch.setattr(training, "stage", short)
    training.train(aws_job(tmp_path, "again"))
    account = session(aws_job(tmp_path, "again").place)
    backend = sagemaker_backends["123456789012"]["us-east-1"]
    with pytest.raises(UserError, match="The job again is finished"):
        training.free_name(account, "again")
    backend.training_jobs["again"].training_job_status = "InProgress"
    with pytest.raises(UserError, match="The job again is still running"):
        training.free_name(account, "again")
    backend.training_jobs["again"].training_job_status = "Failed"
    training.train(aws_job(tmp_path, "again"))
    second = boto.client("sagemaker").describe_training_job(TrainingJobName="again-2")
    assert second["CheckpointConfig"]["S3Uri"] == f"s3://{BUCKET}/again/checkpoints"


def test_a_failed_job_gives_the_exception_of_our_code(boto: Any, tmp_path: Path) -> None:
    description = {
        "TrainingJobName": "broken", "TrainingJobStatus": "Failed",
        "FailureReason": "AlgorithmError: Traceback (most recent call last):\nValueError: ours, exit code: 1",
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}"},
    }  # fmt: skip
    outcome = results.fetch(aws_job(tmp_path, "broken"), boto, description)
    assert (outcome.status, outcome.failure_reason, outcome.exit_code) == ("Failed", "ValueError: ours", 1)
    assert not outcome.model.exists()
    assert (outcome.folder / "failure").read_text() == "ValueError: ours"


def test_an_archive_that_would_write_elsewhere_is_refused(boto: Any, tmp_path: Path) -> None:
    put_archive(boto, "evil/output/output.tar.gz", {"../../escaped": b"x"})
    boto.client("s3").download_file(BUCKET, "evil/output/output.tar.gz", str(tmp_path / "evil.tar.gz"))
    with pytest.raises(UserError, match=r"Can't unpack .* would lie outside"):
        archives.unpack(tmp_path / "evil.tar.gz", tmp_path / "a" / "b")
    assert not (tmp_path / "escaped").exists()


def test_what_aws_refuses_is_one_line_and_what_helps() -> None:
    from botocore.exceptions import ClientError

    message = "The account-level service limit 'ml.g5.xlarge for training job usage' is 0 Instances"
    error = ClientError({"Error": {"Code": "ResourceLimitExceeded", "Message": message}}, "CreateTrainingJob")
    assert str(training.refused(error)).splitlines()[1].startswith("Ask for a higher quota")

    class Refusing:
        events = SimpleNamespace(unregister=lambda *_: None)

        def client(self, name: str) -> Any:
            return self

        def create_training_job(self, **_: Any) -> None:
            raise error

    with pytest.raises(UserError, match=f"AWS refuses: {message}"):
        training.create(Account(Refusing(), "us-east-1", ROLE, BUCKET), {})
