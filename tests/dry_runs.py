"""Dry runs of training and tuning on AWS: an account that is only named, and the one request that each shows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common.sagemaker.account import dry_run
from common.sagemaker.training.job import Place
from tests.strict import problems

BUCKET = "sagemaker-us-east-1-123456789012"
ROLE = "arn:aws:iam::123456789012:role/trainer"
DRY = Place(execution_mode="aws", dry_run=True, region="us-east-1", role=ROLE, bucket=BUCKET)


def only_request(capfd: pytest.CaptureFixture[str], operation: str, action: Callable[[], Any]) -> dict[str, Any]:
    """The request that a dry run shows; nothing else is on stdout, it gives nothing, and the request is valid."""
    capfd.readouterr()
    assert action() is None
    shown = json.loads(capfd.readouterr().out)
    assert list(shown) == [operation]
    request: dict[str, Any] = shown[operation]
    assert problems(operation, request) == []
    return request


def unchecked(self: Any, config: Any = None) -> None:
    """In the place of a check of the SDK's."""


@pytest.fixture(autouse=True, scope="module")
def one_session() -> Iterator[None]:
    """One session for all dry runs; and the SDK does not check its settings' schema ten times a job. Both are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dry_run, "session", functools.cache(dry_run.session))
        patch.setattr("sagemaker.core.config.config_manager.SageMakerConfig.validate_sagemaker_config", unchecked)
        yield
