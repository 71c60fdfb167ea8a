"""Batch transform on SageMaker: the requests, the wait, and the answers brought back and joined."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.command.exits import say
from common.errors import UserError
from common.sagemaker.account import watch
from common.sagemaker.account.dry_run import show
from common.sagemaker.account.session import PROJECT, Account, tags
from common.sagemaker.hosting.models import ARCHIVE, TrainedModel, create_model, explain_refusals, list_uris, split_uri
from common.sagemaker.transform.files import LINE, ROWS, File
from common.sagemaker.transform.here import Result, TransformJob, join, layout_of, parse_answers, write_tables

POLL = 15.0  # seconds between two looks at a job


def create_transform_job(job: TransformJob, uri: str, target: str) -> dict[str, Any]:
    """The request CreateTransformJob; its model has the job's name.

    Args:
        uri: prefix of the input in S3.
        target: prefix of the output in S3.
    """
    form, settings = job.form, job.settings
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}
    request: dict[str, Any] = {
        "TransformJobName": job.name,
        "ModelName": job.name,
        "MaxConcurrentTransforms": settings.concurrent,
        "MaxPayloadInMB": settings.max_payload,
        "TransformInput": {"DataSource": source, "ContentType": form.content_type, "SplitType": form.split},
        "TransformOutput": {"S3OutputPath": target, "Accept": ROWS, "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": settings.instance_type, "InstanceCount": settings.instances},
        "Tags": tags(job.model.example),
    }
    return request | ({"BatchStrategy": settings.strategy} if form.split == LINE else {})


def run_on_aws(account: Account, job: TransformJob, image: str) -> Result | None:
    """Runs a job on SageMaker and joins its answers to their inputs; None in a dry run.

    Args:
        image: that holds the server, built from sagemaker/Dockerfile.

    Raises:
        UserError: AWS refuses, or nothing came of the job; with SageMaker's reason.
    """
    target = account.uri(PROJECT, "batch", job.name, "output")
    environment = job.model.trust()
    uri = job.model.upload(account)
    model = create_model(job.name, image, uri, account.role, tags(job.model.example), environment)
    request = create_transform_job(job, job.source or _upload(account, job), target)
    if account.dry_run:
        show("CreateModel", model)
        show("CreateTransformJob", request)
        return None
    sagemaker = account.boto.client("sagemaker")
    with explain_refusals():
        sagemaker.create_model(**model)
        try:
            sagemaker.create_transform_job(**request)
            state = _wait(sagemaker, job.name)
        finally:
            sagemaker.delete_model(ModelName=job.name)
        return _collect(account, job, target, state)


def _upload(account: Account, job: TransformJob) -> str:
    parts = (PROJECT, "batch", job.name, "input")
    with tempfile.TemporaryDirectory() as temporary:  # the job's files and no others, such as hidden ones
        for file in job.files:
            link = Path(temporary) / file.key
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.path.resolve())
        return account.upload(Path(temporary), *parts) + "/"  # a prefix: without the slash input-2 would match too


def _wait(sagemaker: Any, name: str) -> dict[str, Any]:
    """Looks until the job has ended. Ctrl-C stops it, so that it costs no more."""
    try:
        return watch.until(
            lambda: sagemaker.describe_transform_job(TransformJobName=name),
            lambda state: state["TransformJobStatus"] in watch.ENDED,
            lambda state, seconds: f"{name}  {state['TransformJobStatus']}  {seconds:.0f} s",
            POLL,
        )
    except KeyboardInterrupt:
        sagemaker.stop_transform_job(TransformJobName=name)
        say(f"{name} is being stopped.")
        raise


def _collect(account: Account, job: TransformJob, target: str, state: dict[str, Any]) -> Result:
    """Downloads the answers and joins them; a file without a KEY.out has SageMaker's reason as its error."""
    outputs = {uri.removeprefix(f"{target}/"): uri for uri in list_uris(account.boto, f"{target}/")}
    reason = state.get("FailureReason") or state["TransformJobStatus"]
    if not outputs:
        raise UserError(f"The job {job.name} gave no answers: {reason}", _LOG.format(name=job.name))
    with tempfile.TemporaryDirectory() as temporary:
        files = job.files or _download_inputs(account, job, Path(temporary) / "input")
        layout = layout_of(_local(account, job.model, Path(temporary)).unpack(Path(temporary) / "model"), job.form)

        def rows() -> Iterator[list[dict[str, Any]]]:
            for file in files:
                name = find_output(file.key, list(outputs))
                if name is None:
                    yield [{"file": file.name, "error": f"no answer: {reason}"}]
                    continue
                path = job.folder / "output" / f"{file.key}.out"
                _download(account, outputs[name], path)
                yield join(file, job.form, parse_answers(path.read_bytes()))

        return write_tables(job.folder, layout, rows())


_LOG = "See what its container said: python sagemaker/jobs.py logs {name}"


def find_output(key: str, outputs: Sequence[str]) -> str | None:
    """The answers to an input among the names below the output prefix; None if there are none.

    KEY.out lies at the input's place below the prefix. The documentation's own example has it elsewhere, so that a
    name which is there once only counts too.
    """
    wanted = f"{key}.out"
    if wanted in outputs:
        return wanted
    alike = [name for name in outputs if name.rpartition("/")[2] == wanted.rpartition("/")[2]]
    return alike[0] if len(alike) == 1 else None


def _download_inputs(account: Account, job: TransformJob, folder: Path) -> list[File]:
    """The objects of an input in S3; those that were cut into lines are fetched, since rows repeat their line."""
    base = job.source if job.source.endswith("/") else job.source.rpartition("/")[0] + "/"
    files = [
        File(uri, uri.removeprefix(base), folder / uri.removeprefix(base)) for uri in list_inputs(account, job.source)
    ]
    for file in files:
        if job.form.split == LINE:
            _download(account, file.name, file.path)
    return files


def list_inputs(account: Account, prefix: str) -> list[str]:
    """The objects that a prefix means as a job's input; the empty ones that stand for folders are none."""
    return [uri for uri in list_uris(account.boto, prefix) if not uri.endswith("/")]


def _local(account: Account, model: TrainedModel, folder: Path) -> TrainedModel:
    if model.uri is None:
        return model
    _download(account, model.uri, folder / ARCHIVE)
    return TrainedModel(model.example, archive=folder / ARCHIVE)


def _download(account: Account, uri: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    account.boto.client("s3").download_file(*split_uri(uri), str(path))
