"""The SDK's local mode: the job in the real container of this machine's Docker, results as from fast-local."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from common.command.exits import say
from common.errors import UserError
from common.sagemaker.account.session import Account, connect, identity, require_sdk, sdk_session
from common.sagemaker.container.staging import stage
from common.sagemaker.hosting.models import explain_refusals
from common.sagemaker.training import results
from common.sagemaker.training.aws import ENVIRONMENT, distributed, image_uri, inputs, sdk_metrics, source_code
from common.sagemaker.training.here import Outcome, strings
from common.sagemaker.training.job import Place, TrainingJob

_INSTEAD = "--execution-mode fast-local needs none"
IMAGE_REGION = "us-east-1"  # of AWS's registry, where nobody says another


def train(job: TrainingJob) -> Outcome | None:
    """Runs a job under the SDK's local mode and puts its results into OUT/sagemaker/JOB.

    There is no volume for checkpoints in local mode: a job that is started again starts anew.

    Raises:
        UserError: the SDK, Docker or compose is missing, or the image can't be had.
    """
    require_sdk()
    place = job.place
    image = place.image or image_uri("ml.g5.xlarge" if has_gpu() else "ml.m5.xlarge", place.region or IMAGE_REGION)
    if place.dry_run:
        say(f"would run {job.name} in {image} by docker compose on this machine")
        return None
    here = docker_has(image)
    account = _account(place, needed=not here or any(c.startswith("s3://") for c in job.channels.values()))
    # Always a fresh root: the SDK deletes folders named input and shared in it, by default in the current folder.
    with tempfile.TemporaryDirectory(prefix="sagemaker-local-", ignore_cleanup_errors=True) as root:
        staged = stage(job.example, Path(root) / "source")
        log = Path(root) / "log.txt"
        error = _run(job, image, account, staged.folder, Path(root) / "container", log)
        return results.collect_local(job, Path(root) / "container", log, error)


def docker_has(image: str) -> bool:
    """Whether an image is on this machine already; UserError where Docker or compose is missing or not running."""
    if not shutil.which("docker"):
        raise UserError("Local mode needs Docker, which is not installed.", f"Install it; or {_INSTEAD}.")
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if compose.returncode and not shutil.which("docker-compose"):
        raise UserError("Local mode needs Docker Compose, which is not installed.", f"Install it; or {_INSTEAD}.")
    images = subprocess.run(["docker", "images", "-q", image], capture_output=True, text=True, check=False)
    if images.returncode:
        raise UserError("Docker is installed, but does not answer.", f"Start it; or {_INSTEAD}.")
    return bool(images.stdout.strip())


def has_gpu() -> bool:
    """Whether this machine has a GPU that containers could use."""
    import torch

    return torch.cuda.is_available()


def _run(job: TrainingJob, image: str, account: Account, source: Path, root: Path, log: Path) -> str:
    """Trains in containers under `root`; returns what the SDK said when it failed, else ""."""
    from sagemaker.core.training.configs import Compute
    from sagemaker.train import ModelTrainer
    from sagemaker.train.model_trainer import Mode

    root.mkdir()
    place = dataclasses.replace(job.place, instance_type="local_gpu" if has_gpu() else "local_cpu")
    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        sagemaker_session=sdk_session(account),
        base_job_name=job.name,
        training_image=image,
        source_code=source_code(source),
        distributed=distributed(place),
        compute=Compute(instance_type=place.instance_type, instance_count=place.instance_count),
        environment=dict(ENVIRONMENT),
        hyperparameters=strings(job),
        local_container_root=str(root),
    ).with_metric_definitions(sdk_metrics(job))
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(_Both(sys.stderr, file)):
        try:
            with explain_refusals():
                trainer.train(input_data_config=inputs(job.channels))
        except subprocess.CalledProcessError as error:
            raise UserError(f"`{' '.join(error.cmd)}` failed.", "Name another image with --image.") from None
        except RuntimeError as error:  # a container ended with another code than 0
            return str(error)
    return ""


def _account(place: Place, needed: bool) -> Account:
    """The account for pulling the image and reading S3; one without keys where neither is to be done."""
    if needed:
        found, region = connect(place.region)
        identity(found)
        return Account(found, region, role="", bucket=place.bucket or "none")
    import boto3

    region = place.region or os.environ.get("AWS_DEFAULT_REGION") or IMAGE_REGION
    boto: Any = boto3.Session(region_name=region)
    boto.get_credentials = lambda: None  # else the SDK writes your keys into the container's compose file
    return Account(boto, region, role="", bucket=place.bucket or "none")


class _Both:
    """A text file that writes to two."""

    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        for file in self._files:
            file.flush()
