"""Endpoints: the requests to SageMaker, what is undone when they fail, and the real server on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import example as catalogue
from common.errors import UserError
from common.sagemaker.account.session import Account
from common.sagemaker.hosting import aws as hosting
from common.sagemaker.hosting import here as local_endpoints
from common.sagemaker.hosting import main as endpoints
from common.sagemaker.hosting import models, server
from common.sagemaker.hosting.aws import Hosting
from common.sagemaker.training.job import NAME, Where
from tests.helpers import ROOT, environment
from tests.sagemaker_helpers import BUCKET, IMAGE, REGION, ROLE, Requests, account, artifact_of

pytest.importorskip("sagemaker.core")


@pytest.fixture
def boto() -> Iterator[Any]:
    with account() as session:
        yield session


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "POLL", 0)


def on_aws(**more: Any) -> Where:
    return Where("aws", **{"image": IMAGE, "role": "SageMaker", "bucket": BUCKET, "region": REGION, **more})


def deployment(boto: Any, tmp_path: Path, endpoint: str = "digits", **settings: Any) -> hosting.Deployment:
    model = models.find(str(artifact_of("vision.train", tmp_path / "model")))
    uri = model.upload(Account(boto, REGION, ROLE, BUCKET))
    return hosting.plan(endpoint, model, uri, IMAGE, ROLE, Hosting(**settings))


def what_is_there(boto: Any) -> dict[str, int]:
    """How many models, configs, endpoints and scaling targets the account holds."""
    sagemaker = boto.client("sagemaker")
    targets = boto.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
    return {
        "models": len(sagemaker.list_models()["Models"]),
        "configs": len(sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        "endpoints": len(sagemaker.list_endpoints()["Endpoints"]),
        "targets": len(targets["ScalableTargets"]),
    }


NOTHING = {"models": 0, "configs": 0, "endpoints": 0, "targets": 0}


# -- golden requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue.names())
def test_the_requests_of_every_example(boto: Any, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """As they leave botocore; a dry run prints the same, but for the names, which are new each time."""
    requests = Requests(boto)
    folder = artifact_of(name, tmp_path / "model")
    slug = name.replace(".", "-")
    for endpoint, settings in (("by-instance", Hosting(max_instances=3)), ("by-request", Hosting(serverless=True))):
        requests.sent.clear()
        model = models.find(str(folder))
        uri = model.upload(Account(boto, REGION, ROLE, BUCKET))
        hosting.create(boto, hosting.plan(endpoint, model, uri, IMAGE, ROLE, settings))
        made = requests["CreateModel"]["ModelName"]
        tags = [{"Key": "project", "Value": "pytorch-use-cases"}, {"Key": "example", "Value": name}]
        variant = {"VariantName": "AllTraffic", "ModelName": made}
        if settings.serverless:
            variant["ServerlessConfig"] = {"MemorySizeInMB": 4096, "MaxConcurrency": 5}
        else:
            variant |= {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        assert made.startswith(f"{endpoint}-")
        assert uri.startswith(f"s3://{BUCKET}/pytorch-use-cases/models/{slug}-")
        expected = {
            "CreateModel": {
                "ModelName": made,
                "ExecutionRoleArn": ROLE,
                "Tags": tags,
                "PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": uri},
            },
            "CreateEndpointConfig": {"EndpointConfigName": made, "ProductionVariants": [variant], "Tags": tags},
            "CreateEndpoint": {"EndpointName": endpoint, "EndpointConfigName": made, "Tags": tags},
        }
        assert {name: requests[name] for name in expected} == expected
        capfd.readouterr()
        endpoints.create(str(folder), endpoint, settings, on_aws(dry_run=True))
        shown = capfd.readouterr().out
        assert requests.operations == list(_printed(shown))
        assert _printed(shown)["CreateModel"]["PrimaryContainer"] == expected["CreateModel"]["PrimaryContainer"]


def _printed(text: str) -> dict[str, Any]:
    """The requests that a dry run prints one after the other."""
    found: dict[str, Any] = {}
    while text.strip():
        value, end = json.JSONDecoder().raw_decode(text)
        found |= value
        text = text[end:].lstrip()
    return found


def test_scaling_follows_the_requests_of_each_instance(boto: Any, tmp_path: Path) -> None:
    requests = Requests(boto)
    hosting.create(boto, deployment(boto, tmp_path, instances=2, max_instances=6, invocations=300))
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/digits/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    assert requests["RegisterScalableTarget"] == {**target, "MinCapacity": 2, "MaxCapacity": 6}
    policy = requests["PutScalingPolicy"]
    assert {key: policy[key] for key in target} == target
    assert policy["PolicyType"] == "TargetTrackingScaling"
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == 300
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    assert tracking["PredefinedMetricSpecification"] == metric


# -- the whole way -----------------------------------------------------------------------------------------


def test_from_model_to_answer_and_nothing_is_left(boto: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = artifact_of("vision.train", tmp_path / "model")
    endpoints.create(str(folder), "digits", Hosting(max_instances=4), on_aws())
    assert what_is_there(boto) == {"models": 1, "configs": 1, "endpoints": 1, "targets": 1}
    said = capfd.readouterr().err
    assert "cost       about $0.12 an hour until it is deleted, up to $0.46 when scaled" in said
    assert "digits  InService" in said
    uri = boto.client("sagemaker").describe_model(
        ModelName=boto.client("sagemaker").list_models()["Models"][0]["ModelName"]
    )["PrimaryContainer"]["ModelDataUrl"]
    boto.client("s3").download_file(BUCKET, uri.removeprefix(f"s3://{BUCKET}/"), str(tmp_path / "model.tar.gz"))
    unpacked = models.find(str(tmp_path / "model.tar.gz")).unpack(tmp_path / "unpacked")
    assert unpacked.file("model.safetensors") == b"weights of vision.train"
    assert endpoints.invoke("digits", b"7", "application/json", "application/json", on_aws()) == b"body"  # moto's
    with pytest.raises(UserError, match=r"There is an endpoint digits already\.\nUse update"):
        endpoints.create(str(folder), "digits", Hosting(), on_aws())
    endpoints.delete("digits", on_aws())
    assert what_is_there(boto) == NOTHING
    assert capfd.readouterr().err.count("deleted    ") == 4
    with pytest.raises(UserError, match=r"There is no endpoint digits\.\nThere is none\."):
        endpoints.delete("digits", on_aws())


def test_an_update_puts_the_new_in_and_takes_the_old_away(
    boto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto has no UpdateEndpoint: the request is caught, and the endpoint is set to what it asks for."""
    before = deployment(boto, tmp_path, max_instances=4)
    hosting.create(boto, before)
    after = deployment(boto, tmp_path, instance_type="ml.c5.large")
    requests = Requests(boto)
    _answer_update(boto, "digits", monkeypatch, accept=True)
    hosting.update(boto, after)
    assert requests["UpdateEndpoint"] == {
        "EndpointName": "digits",
        "EndpointConfigName": after.config["EndpointConfigName"],
        "RetainAllVariantProperties": True,  # scaling has chosen the number of instances
    }
    assert requests["DeleteEndpointConfig"] == {"EndpointConfigName": before.config["EndpointConfigName"]}
    assert requests["DeleteModel"] == {"ModelName": before.model["ModelName"]}


def test_an_update_that_sagemaker_rolls_back_leaves_nothing_new(
    boto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = deployment(boto, tmp_path)
    hosting.create(boto, before)
    requests = Requests(boto)
    _answer_update(boto, "digits", monkeypatch, accept=False)
    with pytest.raises(UserError, match="The update failed, and the endpoint serves what it did before"):
        hosting.update(boto, deployment(boto, tmp_path))
    assert requests["DeleteModel"] == {"ModelName": requests["CreateModel"]["ModelName"]}
    assert what_is_there(boto) == {"models": 1, "configs": 1, "endpoints": 1, "targets": 0}
    assert (
        hosting.describe(boto.client("sagemaker"), "digits")["EndpointConfigName"]
        == before.create["EndpointConfigName"]
    )


def _answer_update(boto: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch, accept: bool) -> None:
    from moto.sagemaker.models import sagemaker_backends

    state = sagemaker_backends["123456789012"][REGION].endpoints[endpoint]

    class Accepted:
        status_code = 200

    def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        if accept:
            state.endpoint_config_name = json.loads(params["body"])["EndpointConfigName"]
        return Accepted(), {"EndpointArn": "arn"}

    boto.events.register("before-call.sagemaker.UpdateEndpoint", answer)


# -- failures ----------------------------------------------------------------------------------------------


def test_an_endpoint_that_fails_says_why_and_is_removed(boto: Any, tmp_path: Path) -> None:
    def fail(parsed: dict[str, Any], **_: Any) -> None:
        parsed.update(EndpointStatus="Failed", FailureReason="The primary container did not pass the ping check.")

    boto.events.register("after-call.sagemaker.DescribeEndpoint", fail)
    with pytest.raises(UserError, match=r"The endpoint failed: The primary container did not pass the ping check\."):
        hosting.create(boto, deployment(boto, tmp_path, max_instances=2))
    assert what_is_there(boto) == NOTHING


@pytest.mark.parametrize("step", ["CreateEndpointConfig", "CreateEndpoint", "PutScalingPolicy"])
def test_a_refusal_at_any_step_leaves_nothing(boto: Any, tmp_path: Path, step: str) -> None:
    from botocore.exceptions import ClientError

    def refuse(model: Any, **_: Any) -> None:
        if model.name == step:
            error = {"Code": "ResourceLimitExceeded", "Message": "The limit for ml.m5.large is 0."}
            raise ClientError({"Error": error}, step)

    boto.events.register("before-call", refuse)
    with pytest.raises(UserError, match=r"The limit for ml\.m5\.large is 0\.\nAsk for a higher quota"):
        hosting.create(boto, deployment(boto, tmp_path, max_instances=2))
    assert what_is_there(boto) == NOTHING


def test_mistakes_are_named_before_anything_is_created(boto: Any, tmp_path: Path) -> None:
    folder = str(artifact_of("vision.train", tmp_path / "model"))
    (tmp_path / "model.tar.gz").write_bytes(b"not an archive")
    mistakes: list[tuple[str, dict[str, Any], Where, str]] = [
        (folder, {}, on_aws(image=None), "needs an image with our server.\nRun `docker build -f sagemaker/Dockerfile"),
        (folder, {"serverless": True, "max_instances": 2}, on_aws(), "--serverless scales by itself"),
        (folder, {"instances": 3, "max_instances": 2}, on_aws(), "--max-instances 2 is below --instances 3"),
        (folder, {"memory": 1500}, on_aws(), "--memory 1500 is no multiple of 1024"),
        (folder, {}, Where("local"), "An endpoint has no local mode.\nfast-local runs"),
        (folder, {}, Where(dry_run=True), "--dry-run shows requests to AWS"),
        (folder, {}, on_aws(role="nobody"), "There is no IAM role nobody"),
        (str(tmp_path / "nowhere"), {}, on_aws(), "There is no model"),
        (str(tmp_path / "model.tar.gz"), {}, on_aws(), "is no model.tar.gz of this project"),
        ("s3://bucket/model", {}, on_aws(), "s3://bucket/model is no model.tar.gz"),
    ]
    for source, settings, where, text in mistakes:
        with pytest.raises(UserError) as error:
            endpoints.create(source, "digits", Hosting(**settings), where)
        assert text in str(error.value)
    with pytest.raises(UserError, match="can't name an endpoint"):
        endpoints.create(folder, "no_underscores", Hosting(), on_aws())
    assert what_is_there(boto) == NOTHING


def test_a_model_is_found_by_run_archive_job_and_uri(tmp_path: Path) -> None:
    folder = artifact_of("nlp.classify", tmp_path / "run" / "model")
    job = tmp_path / "sagemaker" / "my-job"
    job.mkdir(parents=True)
    models.pack(folder, job / "model.tar.gz")
    for source in (tmp_path / "run", folder, job, job / "model.tar.gz", "my-job"):
        found = models.find(str(source), out=str(tmp_path))
        assert found.example == "nlp.classify"
        assert NAME.fullmatch(found.name)
    assert models.find("s3://b/jobs/nlp-classify-1/output/model.tar.gz").name == "nlp-classify-1"


# -- on this machine ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a text classifier."""
    from common.command.arguments import Options
    from common.command.execute import execute
    from nlp.classify.__main__ import example

    out = tmp_path_factory.mktemp("hosting")
    return Path(execute(example, Options(out=str(out), tiny=True, quiet=True), {})["run"])


def deploy(*arguments: object, out: Path) -> subprocess.Popen[str]:
    """`python deploy.py ARGUMENTS` from inside the folder."""
    command = [sys.executable, "deploy.py", *map(str, arguments), "--out", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT / "sagemaker", env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_an_endpoint_here_is_created_asked_and_deleted_by_name(run: Path, tmp_path: Path) -> None:
    """By the real server in a process of its own, which another process finds."""
    models.pack(run / "model", tmp_path / "model.tar.gz")
    where = Where(out=str(tmp_path))
    with deploy(
        "create", tmp_path / "model.tar.gz", "--name", "texts", "--execution_mode", "fast_local_mode", out=tmp_path
    ) as process:
        state = tmp_path / "sagemaker" / "endpoints" / "texts.json"
        deadline = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state.exists(), process.communicate()
        body, kind = endpoints.request_body(None, '"what a film"', None)
        row = json.loads(endpoints.invoke("texts", body, kind, "application/json", where))
        assert row["probabilities"][row["class"]] == max(row["probabilities"].values())
        with pytest.raises(UserError, match=r"The endpoint texts refused the request: .*not valid application/json"):
            endpoints.invoke("texts", b"{", "application/json", "application/json", where)
        with pytest.raises(UserError, match="There is an endpoint texts already"):
            endpoints.create(str(run), "texts", Hosting(), where)
        with pytest.raises(UserError, match=r"no endpoint text in .*\nDid you mean texts\?"):
            endpoints.invoke("text", body, kind, "application/json", where)
        client = local_endpoints.find("texts", str(tmp_path))
        endpoints.delete("texts", where)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, client.ping(), state.exists()) == (0, False, False)
    assert "invoke texts FILE --out" in said


def test_what_a_crash_left_is_cleared_away(tmp_path: Path) -> None:
    state = tmp_path / "sagemaker" / "endpoints" / "old.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"name": "old", "port": 9, "pid": 1, "model": "gone"}))  # nothing listens at port 9
    with pytest.raises(UserError, match=r"The endpoint old is no longer running; it is off the list now\."):
        endpoints.invoke("old", b"", "application/json", "application/json", Where(out=str(tmp_path)))
    assert not state.exists()


def test_a_server_that_ends_at_once_is_said_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve").write_text("import sys\nsys.exit('error: The weights are damaged.\\nTrain again.')")
    monkeypatch.setattr(server, "SERVE", tmp_path / "serve")
    folder = artifact_of("vision.train", tmp_path / "model")
    with pytest.raises(UserError, match=r"ended with code 1\.\nIt said: The weights are damaged\. Train again\.$"):
        endpoints.create(str(folder), "broken", Hosting(), Where(out=str(tmp_path)))
    assert [path.name for path in tmp_path.rglob("*.json")] == ["model.json"]
