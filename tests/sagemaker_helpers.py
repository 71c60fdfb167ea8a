"""An AWS account in this process, the requests that reach it, and models to host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.strict import problems

REGION = "us-east-1"
BUCKET = "bucket-of-the-tests"
ROLE = "arn:aws:iam::123456789012:role/SageMaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/pytorch-use-cases:latest"
WHERE = ("--execution-mode", "aws", "--image", IMAGE, "--role", "SageMaker", "--bucket", BUCKET, "--region", REGION)


@contextmanager
def account() -> Iterator[Any]:
    """A boto3 session of an empty account with a role and a bucket; nothing leaves this process."""
    import boto3
    from moto import mock_aws

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.delenv("AWS_PROFILE", raising=False)
        session = boto3.Session(region_name=REGION)
        session.client("s3").create_bucket(Bucket=BUCKET)
        session.client("iam").create_role(RoleName="SageMaker", AssumeRolePolicyDocument="{}")
        yield session


class Requests:
    """Every request of a boto3 session that changes something, as botocore is about to send it, and checked."""

    def __init__(self, boto: Any) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        boto.events.register("provide-client-params", self._note)

    def _note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        service = {"SageMaker": "sagemaker", "Application Auto Scaling": "application-autoscaling"}
        if model.service_model.service_id in service and not model.name.startswith(("Describe", "List")):
            assert problems(model.name, params, service[model.service_model.service_id]) == []
            self.sent.append((model.name, params))

    def __getitem__(self, operation: str) -> dict[str, Any]:
        (found,) = [request for name, request in self.sent if name == operation]
        return found

    @property
    def operations(self) -> list[str]:
        return [name for name, _ in self.sent]


def artifact_of(example: str, folder: Path) -> Path:
    """A folder that looks like an artifact; enough for everything that doesn't predict."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {"format": 1, "example": example, "config": {}, "inputs": {}, "classes": [], "metrics": {}}
    (folder / "model.json").write_text(json.dumps(description))
    (folder / "model.safetensors").write_bytes(b"weights of " + example.encode())
    return folder
