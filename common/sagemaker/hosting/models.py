"""Trained models on their way to SageMaker: where one is found, its model.tar.gz, its place in S3."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import archives, artifact, trust
from common.errors import UserError
from common.sagemaker.account.session import PROJECT, Account
from common.sagemaker.container.staging import pack
from common.sagemaker.training.aws import refused

ARCHIVE = "model.tar.gz"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: a folder or an archive on this machine, or an archive in S3.

    Attributes:
        example: that made it, such as "vision.train"; for one in S3 what its place tells.
        folder: of an artifact, with model.json.
        archive: a model.tar.gz.
        uri: s3://…/model.tar.gz.
    """

    example: str
    folder: Path | None = None
    archive: Path | None = None
    uri: str | None = None

    @property
    def name(self) -> str:
        """What the names of everything made from it begin with; letters, digits and dashes."""
        return re.sub(r"[^a-zA-Z0-9]+", "-", self.example).strip("-") or "model"

    def unpack(self, into: Path) -> artifact.Artifact:
        """The artifact as a folder on this machine; an archive is unpacked below `into`.

        Raises:
            UserError: the archive is damaged or holds no model, or the model lies in S3.
        """
        if self.folder is not None:
            return artifact.load(self.folder)
        if self.archive is None:
            raise UserError(f"{self.uri} is not on this machine.", f"Download it first: aws s3 cp {self.uri} {ARCHIVE}")
        archives.unpack(self.archive, into)
        return artifact.load(into)

    def trust(self) -> dict[str, str]:
        """What a container must be told to load this model: of an export that can run code, that it is trusted.

        Raises:
            UserError: it is such an export, and neither this machine nor --trust-export vouches for it.
        """
        if trust.allows_everything():
            return {trust.VARIABLE: trust.ANY}
        if self.uri is not None:  # the container looks itself, and trusts nobody
            return {}
        with tempfile.TemporaryDirectory() as temporary:
            digest = self.unpack(Path(temporary)).check_trust()
        return {trust.VARIABLE: digest} if digest else {}

    def upload(self, account: Account) -> str:
        """The archive's URI in S3; it is uploaded unless the same bytes are there already."""
        if self.uri is not None:
            return self.uri
        with tempfile.TemporaryDirectory() as temporary:
            archive = self.archive
            if archive is None:
                archive = Path(temporary) / ARCHIVE
                pack(artifact.load(self.folder or Path()).folder, archive)
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
            parts = (PROJECT, "models", f"{self.name}-{digest}")
            uri = account.uri(*parts, archive.name)
            if not account.dry_run and uri in list_uris(account.boto, uri):
                return uri
            return account.upload(archive, *parts)


def find(source: str, out: str = "runs") -> TrainedModel:
    """The model that a run's folder, a model.tar.gz, a job under OUT/sagemaker or an S3 URI means.

    Raises:
        UserError: there is none.
    """
    if source.startswith("s3://"):
        if not source.endswith(".tar.gz"):
            raise UserError(f"{source} is no model.tar.gz.", f"Give s3://BUCKET/…/{ARCHIVE}.")
        folders = [part for part in split_uri(source)[1].split("/")[:-1] if part != "output"]
        return TrainedModel(
            folders[-1] if folders else "model", uri=source
        )  # of a training job: …/JOB/output/model.tar.gz
    job = Path(out) / "sagemaker" / source
    for path in (Path(source), job):
        archive = path / ARCHIVE if path.is_dir() else path
        if archive.is_file():
            return TrainedModel(_example_in(archive), archive=archive)
        if path.is_dir():
            return TrainedModel(artifact.load(path).example, folder=path)
    raise UserError(
        f"There is no model {source}.",
        f"Give a run's folder, a model.tar.gz, a job under {job.parent}, or s3://BUCKET/…/{ARCHIVE}.",
    )


def _example_in(archive: Path) -> str:
    """The example that an archive's model.json names; a wrong file is said to be one before anything is created."""
    try:
        with archives.opened(archive) as tar:
            file = tar.extractfile(next(m for m in tar if m.isfile() and m.name.removeprefix("./") == "model.json"))
            assert file is not None
            return str(json.loads(file.read(archives.AT_ONCE))["example"])
    except (UserError, StopIteration, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{archive} is no model.tar.gz of this project.", "Give one that a job here has made."
        ) from error


def required_image(image: str | None) -> str:
    """The image that was given, or a UserError that says how to make one: AWS has none for PyTorch after 2.6."""
    if image:
        return image
    raise UserError(
        "Hosting on SageMaker needs an image with our server.",
        "Run `docker build -f sagemaker/Dockerfile -t ACCOUNT.dkr.ecr.REGION.amazonaws.com/pytorch-use-cases .`, "
        "`docker push` it, and give it as --image.",
    )


def create_model(
    name: str, image: str, uri: str, role: str, tags: list[dict[str, str]], environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """The request CreateModel.

    Args:
        environment: of its container, as `TrainedModel.trust` says it.
    """
    container: dict[str, Any] = {"Image": image, "ModelDataUrl": uri}
    container |= {"Environment": environment} if environment else {}
    return {"ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container, "Tags": tags}


@contextmanager
def explain_refusals() -> Iterator[None]:
    """Turns what AWS says against a request into a UserError."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        raise refused(error) from None


def list_uris(boto: Any, prefix: str) -> list[str]:
    """Every object whose URI begins like that, in order."""
    bucket, key = split_uri(prefix)
    pages = boto.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
    return [f"s3://{bucket}/{item['Key']}" for page in pages for item in page.get("Contents", [])]


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI; the key may be empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
