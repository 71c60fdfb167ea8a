"""What was started is found again: list, show, stop, logs; and what a failed job says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from common.errors import UserError
from common.sagemaker import jobs
from common.sagemaker.account import watch
from common.sagemaker.account.session import tags

pytest.importorskip("sagemaker.core")

ROLE = "arn:aws:iam::123456789012:role/trainer"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.14-cpu-amzn2023-sagemaker"
MACHINES = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}


@pytest.fixture(scope="module")
def boto() -> Iterator[Any]:
    """An account with a job of each kind and an endpoint of ours, and a training job of somebody else."""
    import boto3
    from moto import mock_aws

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        session = boto3.Session()
        _start(session.client("sagemaker"))
        logs = session.client("logs")
        logs.create_log_group(logGroupName=watch.GROUP)
        logs.create_log_stream(logGroupName=watch.GROUP, logStreamName="ours/algo-1-1")
        yield session


def _start(client: Any) -> None:
    def training(name: str, tags_: list[dict[str, str]]) -> None:
        client.create_training_job(
            TrainingJobName=name,
            RoleArn=ROLE,
            ResourceConfig=MACHINES,
            Tags=tags_,
            AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
            OutputDataConfig={"S3OutputPath": "s3://bucket"},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
            HyperParameters={"example": "vision.train"},
        )

    training("ours", tags("vision.train"))
    training("theirs", [{"Key": "project", "Value": "another"}])
    client.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="ours-tuning",
        Tags=tags("nlp.classify"),
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "ResourceLimits": {"MaxParallelTrainingJobs": 1, "MaxNumberOfTrainingJobs": 1},
        },
    )
    client.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})
    client.create_transform_job(
        TransformJobName="ours-batch",
        ModelName="m",
        Tags=tags("vision.train"),
        TransformInput={"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in"}}},
        TransformOutput={"S3OutputPath": "s3://bucket/out"},
        TransformResources={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
    )
    variant = {"VariantName": "all", "ModelName": "m", "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="ours-endpoint", EndpointConfigName="c", Tags=tags("vision.train"))


def test_only_what_this_project_started_is_listed(boto: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.main("list", json=True) == 0
    found = {item["name"]: (item["kind"], item["example"]) for item in json.loads(capfd.readouterr().out)}
    assert found == {
        "ours": ("training", "vision.train"),
        "ours-tuning": ("tuning", "nlp.classify"),
        "ours-batch": ("transform", "vision.train"),
        "ours-endpoint": ("endpoint", "vision.train"),
    }
    jobs.main()
    table = capfd.readouterr().out.splitlines()
    assert len(table) == 4
    assert table[0].split()[:2] == ["training", "ours"]


def test_an_empty_region_says_so(boto: Any, capfd: pytest.CaptureFixture[str]) -> None:
    jobs.main("list", region="eu-west-1")
    assert capfd.readouterr() == ("", "this project has started nothing in this region\n")


def test_show_says_what_matters_of_a_training_job(boto: Any, capfd: pytest.CaptureFixture[str]) -> None:
    jobs.main("show", "ours")
    lines = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines())
    assert lines["kind"] == "training"
    assert lines["example"] == "vision.train"
    assert lines["machine"] == "1 × ml.m5.xlarge"
    assert lines["model"].startswith("s3://bucket")
    jobs.main("show", "ours-batch", json=True)
    assert json.loads(capfd.readouterr().out)["TransformJobName"] == "ours-batch"


def test_a_misspelt_name_gets_the_nearest(boto: Any) -> None:
    with pytest.raises(UserError, match=r"no job or endpoint ours-bach in us-east-1\.\nDid you mean ours-batch\?"):
        jobs.main("show", "ours-bach")


def test_an_unknown_action_and_a_missing_name_are_mistakes(boto: Any) -> None:
    with pytest.raises(UserError, match="Did you mean list"):
        jobs.main("lst")
    with pytest.raises(UserError, match="stop what"):
        jobs.main("stop")


@pytest.mark.parametrize("name", ["ours", "ours-tuning", "ours-batch"])
def test_stop_sends_the_request_of_its_kind(boto: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Answer:
        status_code = 200

    def take(model: Any, context: Any, params: dict[str, Any], **_: Any) -> Any:
        sent[model.name] = json.loads(params["body"])
        return Answer(), {}

    session = boto.__class__()
    for kind in ("Training", "HyperParameterTuning", "Transform"):  # moto knows none of the three
        session.events.register(f"before-call.sagemaker.Stop{kind}Job", take)
    monkeypatch.setattr(jobs, "connect", lambda region: (session, "us-east-1"))
    jobs.main("stop", name)
    ((operation, request),) = sent.items()
    assert operation.startswith("Stop")
    assert list(request.values()) == [name]


def test_an_endpoint_is_deleted_not_stopped(boto: Any) -> None:
    with pytest.raises(UserError, match=r"deploy\.py delete ours-endpoint"):
        jobs.main("stop", "ours-endpoint")


def test_logs_follow_a_training_job_to_its_end(boto: Any, capfd: pytest.CaptureFixture[str]) -> None:
    now = int(datetime.now(timezone.utc).timestamp() * 1000)
    events = [{"timestamp": now + i, "message": f"epoch {i}"} for i in range(3)]
    boto.client("logs").put_log_events(logGroupName=watch.GROUP, logStreamName="ours/algo-1-1", logEvents=events)
    assert jobs.main("logs", "ours") == 0  # moto's jobs are completed
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch")] == [
        "epoch 0",
        "epoch 1",
        "epoch 2",
    ]


def test_a_log_gives_each_line_once(boto: Any) -> None:
    logs = boto.client("logs")
    logs.create_log_stream(logGroupName=watch.GROUP, logStreamName="two/algo-1-99")
    logs.create_log_stream(logGroupName=watch.GROUP, logStreamName="two/algo-2-99")
    log = watch.Log(boto, "two/")
    seen = []
    for i in range(2):
        stamp = int(datetime.now(timezone.utc).timestamp() * 1000)
        for host in ("algo-1", "algo-2"):
            event = {"timestamp": stamp + i, "message": f"{host} {i}"}
            logs.put_log_events(logGroupName=watch.GROUP, logStreamName=f"two/{host}-99", logEvents=[event])
        seen.append(sorted(log.new()))
    assert seen == [[f"[algo-1] algo-1 {i}", f"[algo-2] algo-2 {i}"] for i in range(2)]
    assert log.tail == ["algo-1 0", "algo-2 0", "algo-1 1", "algo-2 1"]


OURS = 'Traceback (most recent call last):\n  File "run.py", line 3\nRuntimeError: loss is NaN at step 7'


@pytest.mark.parametrize(
    ("reason", "log", "expected"),
    [
        (f"AlgorithmError: {OURS}, exit code: 1", [], "RuntimeError: loss is NaN at step 7"),
        ("AlgorithmError: error: There is no data at x., exit code: 2", [], "error: There is no data at x."),
        (
            "AlgorithmError: Training Execution failed. For more details, see CloudWatch logs at …, exit code: 1",
            ["epoch 1", *OURS.splitlines(), "subprocess.CalledProcessError: Command '[…]' exited with code 1"],
            "RuntimeError: loss is NaN at step 7",
        ),
        ("ClientError: Data download failed: no such key", [], "ClientError: Data download failed: no such key"),
        ("CapacityError: Unable to provision requested ML compute capacity.", [], "CapacityError: Unable to provision"),
        ("", [], "AWS gives no reason"),
    ],
)
def test_the_reason_of_a_failure_is_our_exception(reason: str, log: list[str], expected: str) -> None:
    assert watch.failure_reason(reason, log).startswith(expected)


def test_progress_names_the_stage_the_time_and_the_cost() -> None:
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    description = {
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Training",
        "TrainingStartTime": began,
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2},
    }
    assert watch.progress_line(description, began + timedelta(seconds=630)) == "Training · 10 min 30 s · about $0.49"
    assert watch.progress_line({"TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting"}) == "Starting"


def test_what_aws_refuses_is_one_line(boto: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    def refuse(boto: Any) -> Iterator[jobs.Found]:
        error = {"Code": "AccessDeniedException", "Message": "not authorized to perform sagemaker:ListTrainingJobs"}
        raise ClientError({"Error": error}, "ListTrainingJobs")

    monkeypatch.setattr(jobs, "find", refuse)
    with pytest.raises(UserError, match=r"AWS refuses: not authorized .*\nsagemaker/iam-policy\.json"):
        jobs.main("list")


def test_ctrl_c_leaves_the_job_running_and_says_so(
    boto: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Any) -> Iterator[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.Log, "new", interrupt)
    with pytest.raises(watch.Interrupted) as stop:
        watch.follow(boto, "ours")
    assert stop.value.code == 130
    assert "ours runs on" in capfd.readouterr().err
