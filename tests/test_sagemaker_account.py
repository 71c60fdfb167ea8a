"""The AWS account: what is missing is said in one line, before anything is created; the SDK is optional."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.sagemaker import jobs
from common.sagemaker.account import prices
from common.sagemaker.account import session as account
from common.sagemaker.training import aws as training
from common.sagemaker.training import docker as local
from common.sagemaker.training import launch
from common.sagemaker.training.job import Place, training_job
from tests.helpers import ROOT, python
from tests.strict import problems

pytest.importorskip("sagemaker.core")

BUCKET = "sagemaker-us-east-1-123456789012"
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine where AWS was never set up, and where its metadata service is not asked for."""
    for name in (
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "SAGEMAKER_ROLE_ARN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A whole account in this process, with the role `trainer` and the default bucket."""
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        boto = boto3.Session(region_name="us-east-1")
        boto.client("iam").create_role(RoleName="trainer", Path="/service-role/", AssumeRolePolicyDocument=TRUST)
        boto.client("s3").create_bucket(Bucket=BUCKET)
        yield boto


def missing(**place: Any) -> str:
    with pytest.raises(UserError) as error:
        account.session(Place(execution_mode="aws", **place))
    text = str(error.value)
    assert len(text.splitlines()) <= 2, text
    return text


def test_nothing_set_up_asks_for_credentials() -> None:
    assert missing(region="us-east-1").startswith("There are no AWS credentials.\nRun `aws configure`")


def test_no_region_is_asked_for(aws: Any) -> None:
    assert "There is no AWS region.\nGive --region" in missing(role="trainer")


def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in missing(region="us-east-1")


def test_settings_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[default\n")
    assert missing(region="us-east-1").startswith("Your AWS settings can't be read: Unable to parse config file: ")


def test_expired_credentials_say_so(aws: Any) -> None:
    from botocore.exceptions import ClientError

    class Expired:
        def client(self, name: str) -> Any:
            raise ClientError({"Error": {"Code": "ExpiredToken", "Message": "…"}}, "GetCallerIdentity")

    with pytest.raises(UserError, match=r"have expired\.\nRun `aws sso login`"):
        account.identity(Expired())


def test_a_login_that_has_run_out_says_how_to_log_in() -> None:
    from botocore.exceptions import SSOTokenLoadError

    class LoggedOut:
        def client(self, name: str) -> Any:
            raise SSOTokenLoadError(error_msg="Token for work does not exist")

    with pytest.raises(UserError, match=r"credentials can't be had: .*Token for work.*\nRun `aws sso login`"):
        account.identity(LoggedOut())


@pytest.mark.parametrize("mode", ["aws", "local"])
def test_a_job_without_an_account_ends_before_anything_is_created(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(local, "docker_has", lambda image: False)  # so that it would have to be pulled
    with pytest.raises(SystemExit) as stop:
        launch.main("vision.train", ["--execution_mode", f"{mode}_mode", "--region", "us-east-1", "--", "--tiny"])
    assert stop.value.code == 2
    output = capfd.readouterr()
    assert output.err.startswith("error: There are no AWS credentials.\nRun `aws configure`")
    assert (len(output.err.splitlines()), output.out, list(Path.cwd().iterdir())) == (2, "", [])


def test_no_role_names_the_variable(aws: Any) -> None:
    assert "SAGEMAKER_ROLE_ARN" in missing(region="us-east-1")


def test_a_role_that_does_not_exist_is_found_before_anything_is_uploaded(aws: Any) -> None:
    assert "There is no IAM role treiner in account 123456789012." in missing(region="us-east-1", role="treiner")


def test_an_arn_of_something_else_is_no_role(aws: Any) -> None:
    assert "not the ARN of an IAM role" in missing(region="us-east-1", role="arn:aws:s3:::bucket")


@pytest.mark.parametrize("role", ["trainer", "arn:aws:iam::123456789012:role/service-role/trainer"])
def test_a_role_may_be_a_name_or_an_arn(aws: Any, role: str) -> None:
    found = account.session(Place(execution_mode="aws", region="us-east-1", role=role))
    assert found.role == "arn:aws:iam::123456789012:role/service-role/trainer"
    assert found.bucket == BUCKET


def test_the_role_comes_from_the_environment(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_ROLE_ARN", "trainer")
    assert account.session(Place(execution_mode="aws", region="us-east-1")).role.endswith("/trainer")


def test_a_missing_bucket_is_named_with_the_command_that_creates_it_and_is_not_created(aws: Any) -> None:
    text = missing(region="us-east-1", role="trainer", bucket="no-such-bucket-here")
    assert "There is no S3 bucket no-such-bucket-here.\nCreate it with `aws s3 mb s3://no-such-bucket-here" in text
    assert [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]] == [BUCKET]


def test_a_bucket_of_another_region_is_refused(aws: Any) -> None:
    there = {"LocationConstraint": "eu-west-1"}
    aws.client("s3", region_name="eu-west-1").create_bucket(Bucket="far-away", CreateBucketConfiguration=there)
    assert "is in eu-west-1, and jobs in us-east-1" in missing(region="us-east-1", role="trainer", bucket="far-away")


def test_the_sdk_never_creates_the_bucket(aws: Any) -> None:
    found = account.session(Place(execution_mode="aws", region="us-east-1", role="trainer"))
    aws.client("s3").delete_bucket(Bucket=BUCKET)
    assert account.sdk_session(found).default_bucket() == BUCKET
    assert aws.client("s3").list_buckets()["Buckets"] == []


def test_the_telemetry_of_the_sdk_is_off(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker.core.telemetry import telemetry_logging

    sent: list[Any] = []
    monkeypatch.setattr(telemetry_logging, "_send_telemetry_request", lambda *a, **k: sent.append(a))

    class Asked:
        def __init__(self, session: Any) -> None:
            self.sagemaker_session = session

        @telemetry_logging._telemetry_emitter(str(telemetry_logging.Feature.MODEL_TRAINER), "asked")
        def ask(self) -> str:
            return "done"

    found = account.session(Place(execution_mode="aws", region="us-east-1", role="trainer"))
    from sagemaker.core.helper.session_helper import Session

    assert Asked(Session(boto_session=found.boto, default_bucket=BUCKET)).ask() == "done"
    assert len(sent) == 1  # the SDK as it comes
    assert Asked(account.sdk_session(found)).ask() == "done"
    assert len(sent) == 1


def test_a_folder_is_uploaded_with_its_structure(aws: Any, tmp_path: Path) -> None:
    (tmp_path / "data" / "cats").mkdir(parents=True)
    (tmp_path / "data" / "cats" / "1.png").write_bytes(b"cat")
    found = account.session(Place(execution_mode="aws", region="us-east-1", role="trainer"))
    assert found.upload(tmp_path / "data", "job", "training") == f"s3://{BUCKET}/job/training"
    assert found.upload(tmp_path / "data" / "cats" / "1.png", "one") == f"s3://{BUCKET}/one/1.png"
    keys = [item["Key"] for item in aws.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert keys == ["job/training/cats/1.png", "one/1.png"]


def test_a_dry_run_needs_nothing_and_sends_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = account.session(Place(execution_mode="aws", dry_run=True))
    file = tmp_path / "model.tar.gz"
    file.write_bytes(b"x" * 2_000_000)
    assert found.upload(file, "job") == f"s3://{BUCKET}/job/model.tar.gz"
    model = {"ModelName": "m", "ExecutionRoleArn": found.role}
    found.boto.client("sagemaker").create_model(**model)
    found.boto.client("s3").head_bucket(Bucket=BUCKET)  # asks only: not shown
    output = capfd.readouterr()
    assert json.loads(output.out) == {"CreateModel": model}
    assert problems("CreateModel", model) == []
    assert "would upload 1 files, 2.0 MB, to s3://" in output.err


def test_strict_sees_what_boto3_lets_pass() -> None:
    request = {
        "TrainingJobName": "two words",
        "RoleArn": "arn:aws:iam::123456789012:role/r",
        "Tagz": [],
        "StoppingCondition": {"MaxRuntimeInSeconds": 0},
        "OutputDataConfig": {"S3OutputPath": "/local"},
        "ResourceConfig": {"InstanceType": "ml.m5.tiny", "InstanceCount": True},
    }
    found = "\n".join(problems("CreateTrainingJob", request))
    for part in (
        "TrainingJobName: 'two words'",
        "Tagz: unknown",
        "MaxRuntimeInSeconds: value 0 is below 1",
        "S3OutputPath: '/local'",
        "InstanceType: 'ml.m5.tiny'",
        "InstanceCount: bool",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ("ml.m5.xlarge", "at most $0.46: 2 × ml.m5.xlarge at $0.230 an hour for 1 h"),
        ("ml.new.xlarge", "no price known"),
    ],
)
def test_the_cost_is_an_estimate_or_said_to_be_unknown(machine: str, text: str) -> None:
    line = prices.estimate(machine, 2, 3600)
    assert text in line
    assert ("estimate: on demand, us-east-1, November 2026" in line) == ("$" in line)
    assert "spot" in prices.estimate("ml.m5.xlarge", 1, 3600, spot=True)


def test_gpus_are_known_or_left_to_the_container() -> None:
    found = [prices.gpus(t) for t in ("ml.m5.xlarge", "ml.g5.xlarge", "ml.g5.12xlarge", "ml.g9.xlarge")]
    assert found == [0, 1, 4, None]


def test_without_the_sdk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where the SDK is absent: a bare `import sagemaker` still works, because it finds our folder of scripts.
    for name in [m for m in sys.modules if m == "sagemaker" or m.startswith("sagemaker.")]:
        monkeypatch.delitem(sys.modules, name)
    without = [p for p in sys.path if not (Path(p) / "sagemaker" / "core").exists()]
    monkeypatch.setattr(sys, "path", [str(ROOT), *without])
    import sagemaker

    assert {Path(p).resolve() for p in sagemaker.__path__} == {ROOT / "sagemaker"}
    with pytest.raises(UserError, match=r"SDK is not installed\.\nInstall it with: pip install -e '\.\[sagemaker\]'"):
        account.session(dataclasses.replace(Place(), execution_mode="aws"))


def test_without_the_sdk_the_modes_that_need_it_say_so_and_start_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    job = training_job("vision.train", ["--tiny"], Place(execution_mode="aws", out=str(tmp_path / "runs")))
    for start in (lambda: training.train(job), lambda: local.train(job), jobs.main):
        with pytest.raises(UserError, match="SDK is not installed"):
            start()
    assert not list(tmp_path.iterdir())


def test_the_sdk_is_found_in_the_repository_root() -> None:
    process = python("-c", "import sagemaker.core; print(sagemaker.core.__file__)")
    assert process.returncode == 0, process.stderr
    assert "site-packages" in process.stdout


def test_the_sdk_is_found_after_an_editable_install(tmp_path: Path) -> None:
    installed = list(Path(sys.prefix).glob("lib/python3*/site-packages/__editable__*pytorch_use_cases*"))
    assert installed, "pip install -e '.[dev]'"
    code = "import common, importlib.util; print(common.__file__, importlib.util.find_spec('sagemaker.core').origin)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    ours, theirs = process.stdout.split()
    assert Path(ours) == ROOT / "common" / "__init__.py"
    assert "site-packages" in theirs


def test_the_sdk_is_found_in_pytest() -> None:
    import sagemaker.core

    assert not Path(str(sagemaker.core.__file__)).is_relative_to(ROOT / "sagemaker")


def test_no_file_beside_the_scripts_hides_a_module() -> None:
    """A script's folder is the first place that Python looks in, and ours is part of the SDK's package."""
    import sagemaker

    ours = {path.stem for path in (ROOT / "sagemaker").iterdir() if path.is_dir() or path.suffix == ".py"}
    ours.discard("__pycache__")
    assert "run_training" in ours
    theirs = [Path(place) for place in sagemaker.__path__ if Path(place).resolve() != ROOT / "sagemaker"]
    taken = {path.stem for place in theirs for path in place.iterdir()} | {"local", "pytorch", "estimator", "workflow"}
    assert "core" in taken
    assert not ours & taken
    assert not ours & set(sys.stdlib_module_names)


def test_the_sdk_is_only_imported_where_it_is_used_and_never_its_part_that_needs_a_region() -> None:
    for file in [*(ROOT / "common").rglob("*.py"), *(ROOT / "sagemaker").glob("*.py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.split(".")[0] in ("sagemaker", "boto3", "botocore"):
                    assert id(node) not in top, f"{file} imports {name} at its top"
                    assert not name.startswith("sagemaker.serve"), f"{file}: {name} fails without a region"
