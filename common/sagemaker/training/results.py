"""What a job left, brought to OUT/sagemaker/JOB as fast-local leaves it: model, report, metrics, reason of failure."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from common import archives
from common.errors import UserError
from common.files import explain_write_errors, write_whole
from common.sagemaker.account import watch
from common.sagemaker.training.here import MODEL, Outcome, conclude
from common.sagemaker.training.job import TrainingJob


def fetch(job: TrainingJob, boto: Any, description: dict[str, Any]) -> Outcome:
    """Downloads the results of a training job on AWS that has ended.

    Args:
        description: the answer of DescribeTrainingJob.
    """
    folder = _empty_folder(job)
    base = description["OutputDataConfig"]["S3OutputPath"].rstrip("/")
    output = f"{base}/{description['TrainingJobName']}/output"
    _download(boto, f"{output}/{MODEL}", folder / MODEL)
    if _download(boto, f"{output}/output.tar.gz", folder / "output.tar.gz"):
        archives.unpack(folder / "output.tar.gz", folder / "output")
        (folder / "output.tar.gz").unlink()
    reason = ""
    if description["TrainingJobStatus"] == "Failed":
        reason = watch.failure_reason(description.get("FailureReason", ""))
    status = description["TrainingJobStatus"]
    return conclude(job, folder, status, reason, int(status != "Completed"))


def collect_local(job: TrainingJob, root: Path, log: Path, error: str) -> Outcome:
    """Takes over the results of local mode.

    Args:
        root: the SDK's `local_container_root`.
        log: what the containers printed.
        error: what the SDK said when a container failed, else "".
    """
    folder = _empty_folder(job)
    left = root / "artifacts"
    if any((left / "model").glob("*")):
        shutil.copyfile(root / "compressed_artifacts" / MODEL, folder / MODEL)
    if (left / "output" / "data").is_dir():
        shutil.copytree(left / "output" / "data", folder / "output", dirs_exist_ok=True)
    shutil.copyfile(log, folder / "log.txt")
    lines = log.read_text(encoding="utf-8").splitlines()
    failure = left / "output" / "failure"
    said = failure.read_text(encoding="utf-8") if failure.exists() else ""
    reason = watch.failure_reason(said or error, lines) if error else ""
    return conclude(job, folder, "Failed" if error else "Completed", reason, int(bool(error)))


def _empty_folder(job: TrainingJob) -> Path:
    """OUT/sagemaker/JOB without what an earlier attempt left."""
    folder = (Path(job.place.out) / "sagemaker" / job.name).resolve()
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
        for stale in (MODEL, "failure"):
            (folder / stale).unlink(missing_ok=True)
    return folder


def _download(boto: Any, uri: str, target: Path) -> bool:
    from botocore.exceptions import ClientError

    place = urlparse(uri)
    try:
        with write_whole(target) as file:
            boto.client("s3").download_fileobj(place.netloc, place.path.lstrip("/"), file)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):  # a job that failed early left none
            return False
        raise UserError(f"Can't download {uri}: {error.response['Error']['Message']}") from None
    return True
