"""The AWS account that a job runs in: checked before anything is created, one clear line for what is missing."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.sagemaker.account import dry_run
from common.sagemaker.training.job import Where

PROJECT = "pytorch-use-cases"  # tag of all that this project creates
ROLE_VARIABLE = "SAGEMAKER_ROLE_ARN"
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")  # as CreateTrainingJob has it
_PLACEHOLDER_ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Account:
    """Where requests go, and in whose name.

    Attributes:
        boto: a boto3.Session; in a dry run one that writes requests down and sends nothing.
        region: such as "us-east-1".
        role: ARN of the role that SageMaker works under.
        bucket: name of the S3 bucket for code, data and results.
        dry_run: whether nothing is to be sent.
    """

    boto: Any
    region: str
    role: str
    bucket: str
    dry_run: bool = False

    def uri(self, *parts: str) -> str:
        """An S3 URI in the bucket, such as `uri("JOB", "checkpoints")`."""
        return "/".join([f"s3://{self.bucket}", *parts])

    def upload(self, path: Path, *parts: str) -> str:
        """Copies a file or all files of a folder to `uri(*parts)`; returns that URI, with the name for a file."""
        target = "/".join(parts)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        sent: list[Any] = []
        if self.dry_run:
            dry_run.say_upload(files, self.uri(target))
        else:
            from boto3.s3.transfer import TransferConfig, create_transfer_manager

            # One manager, so that many small files travel side by side.
            with create_transfer_manager(self.boto.client("s3"), TransferConfig()) as manager:
                for file in files:
                    inside = file.name if file == path else file.relative_to(path).as_posix()
                    sent.append(manager.upload(str(file), self.bucket, f"{target}/{inside}"))
            for future in sent:
                future.result()
        return self.uri(target, path.name) if path.is_file() else self.uri(target)


def tags(example: str) -> list[dict[str, str]]:
    """The tags by which a job or an endpoint is found again."""
    return [{"Key": "project", "Value": PROJECT}, {"Key": "example", "Value": example}]


def require_sdk() -> None:
    """Raises UserError where the SageMaker SDK is not installed.

    A bare `import sagemaker` proves nothing: without the SDK it finds this repository's folder of scripts.
    """
    try:
        installed = importlib.util.find_spec("sagemaker.core") and importlib.util.find_spec("boto3")
    except ModuleNotFoundError:
        installed = None
    if not installed:
        raise UserError("The SageMaker SDK is not installed.", "Install it with: pip install -e '.[sagemaker]'")


def session(place: Where) -> Account:
    """The account that a place names; reads only.

    Raises:
        UserError: the SDK, credentials, the region, the role or the bucket is missing; says what to set.
    """
    require_sdk()
    boto, region = connect(place.region, place.dry_run)
    if place.dry_run:
        role = place.role or os.environ.get(ROLE_VARIABLE) or "YOUR-SAGEMAKER-ROLE"
        if not _ROLE_ARN.fullmatch(role):
            role = f"arn:aws:iam::{_PLACEHOLDER_ACCOUNT}:role/{role}"
        return Account(boto, region, role, place.bucket or f"sagemaker-{region}-{_PLACEHOLDER_ACCOUNT}", dry_run=True)
    caller = identity(boto)
    bucket = place.bucket or f"sagemaker-{region}-{caller['Account']}"
    role = _role(boto, place.role or os.environ.get(ROLE_VARIABLE), caller)
    _check_bucket(boto, bucket, region)
    return Account(boto, region, role, bucket)


def connect(region: str | None, dry: bool = False) -> tuple[Any, str]:
    """A boto3 session and its region; UserError where there are no credentials or no region."""
    import boto3
    from botocore.exceptions import BotoCoreError, PartialCredentialsError, ProfileNotFound

    if dry:
        region = region or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return dry_run.session(region), region
    try:
        boto = boto3.Session(region_name=region)
        credentials = boto.get_credentials()
    except ProfileNotFound as error:
        raise UserError(f"{error}.", "Set AWS_PROFILE to a profile of ~/.aws/config.") from None
    except PartialCredentialsError as error:
        raise UserError(f"{error}.", "Run `aws configure`.") from None
    except BotoCoreError as error:
        raise UserError(
            f"Your AWS settings can't be read: {error}", "Put them right, or run `aws configure`."
        ) from None
    if credentials is None:
        hint = "Run `aws configure` or `aws sso login`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise UserError("There are no AWS credentials.", hint)
    if not boto.region_name:
        raise UserError("There is no AWS region.", "Give --region, such as us-east-1, or set AWS_DEFAULT_REGION.")
    return boto, str(boto.region_name)


def identity(boto: Any) -> dict[str, str]:
    """Whose credentials these are, as AWS says; UserError where it does not take them or can't be reached."""
    from botocore import exceptions

    try:
        answer: dict[str, str] = boto.client("sts").get_caller_identity()
    except exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        expired = "Expired" in code
        raise UserError(
            "Your AWS credentials have expired." if expired else f"AWS refuses your credentials: {code}.",
            "Run `aws sso login`, or get new ones." if expired else "Check them with: aws sts get-caller-identity",
        ) from None
    except (exceptions.SSOError, exceptions.TokenRetrievalError, exceptions.CredentialRetrievalError) as error:
        raise UserError(
            f"Your AWS credentials can't be had: {error}", "Run `aws sso login`, or get new ones."
        ) from None
    except exceptions.BotoCoreError as error:
        raise UserError(f"Can't reach AWS: {error}", "Check the network and the region.") from None
    return answer


def _role(boto: Any, given: str | None, caller: dict[str, str]) -> str:
    from botocore.exceptions import ClientError

    hint = f"Give --role or set {ROLE_VARIABLE}: the name or ARN of a role that SageMaker may assume."
    if not given:
        raise UserError("There is no IAM role for SageMaker.", hint)
    if given.startswith("arn:") and not _ROLE_ARN.fullmatch(given):
        raise UserError(f"--role {given}: that is not the ARN of an IAM role.", hint)
    try:
        return str(boto.client("iam").get_role(RoleName=given.rpartition("/")[2])["Role"]["Arn"])
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchEntity":
            raise UserError(f"There is no IAM role {given} in account {caller['Account']}.", hint) from None
        # Not allowed to look: SageMaker itself will say whether the role exists.
        partition = caller["Arn"].split(":")[1]
        return given if given.startswith("arn:") else f"arn:{partition}:iam::{caller['Account']}:role/{given}"


def _check_bucket(boto: Any, bucket: str, region: str) -> None:
    from botocore.exceptions import ClientError, ParamValidationError

    try:
        answer = boto.client("s3").head_bucket(Bucket=bucket)
    except ParamValidationError:
        raise UserError(f"--bucket {bucket}: that is no name of a bucket.", "Give the name alone, no s3://.") from None
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
            raise UserError(
                f"There is no S3 bucket {bucket}.",
                f"Create it with `aws s3 mb s3://{bucket} --region {region}`, or name yours with --bucket.",
            ) from None
        raise UserError(f"You may not use the S3 bucket {bucket}.", "Name one of yours with --bucket.") from None
    where = answer.get("BucketRegion") or region
    if where != region:
        raise UserError(f"The S3 bucket {bucket} is in {where}, and jobs in {region}.", "Give --region or --bucket.")


def sdk_session(account: Account, prefix: str = "") -> Any:
    """The SDK's session of an account, with its telemetry off; organisation defaults of its config file stay.

    Args:
        prefix: in the bucket, under which a channel's files are uploaded; the SDK's own would hold the time.
    """
    import logging

    from sagemaker.core.config.config import load_sagemaker_config
    from sagemaker.core.helper.session_helper import Session

    logging.getLogger("sagemaker").setLevel(logging.WARNING)
    # The SDK would simulate the role's policy, which needs more rights than training; _role has looked already.
    os.environ["SAGEMAKER_VALIDATE_ROLE"] = "false"
    config = load_sagemaker_config() or {"SchemaVersion": "1.0"}
    modules = config.setdefault("SageMaker", {}).setdefault("PythonSDK", {}).setdefault("Modules", {})
    modules["TelemetryOptOut"] = True
    made: Any = Session(boto_session=account.boto, default_bucket=account.bucket, sagemaker_config=config)
    # Known to exist, or not to be touched. Left unset, the SDK would create the bucket where it is missing.
    made._default_bucket = account.bucket
    made.upload_data = lambda path, bucket, key_prefix, **_: account.upload(
        Path(path), prefix, key_prefix.rpartition("/")[2]
    )
    return made
