"""Batch transform from its command line: what is asked for, checked, and run where it is to run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.command.exits import say
from common.errors import UserError
from common.sagemaker.account import prices
from common.sagemaker.account.session import session
from common.sagemaker.hosting import models
from common.sagemaker.training.job import Where, job_name
from common.sagemaker.transform import aws as transform_jobs
from common.sagemaker.transform import here as transform
from common.sagemaker.transform.files import FORMATS, LINE, NONE, Format, find_files, format_of
from common.sagemaker.transform.here import Result, TransformJob, TransformSettings
from common.training.folders import check_writable

FAILED = 1  # exit code: some inputs have an error in place of an answer
SHOWN = 5  # failures on the screen; the tables have them all


def run(
    source: str,
    data: str,
    content_type: str | None,
    split_lines: bool | None,
    settings: TransformSettings,
    where: Where,
) -> int:
    """Predicts everything under `data`; returns the exit code.

    Args:
        source: of the model, as `models.find` takes it.
        data: a file, a folder or an s3:// prefix.
        content_type: of the input; by the files' suffix if None.
        split_lines: cut files into lines, or send them whole; by the content type if None.
    """
    settings.check_together()
    if where.mode == "local":
        raise UserError("Batch transform has no local mode.", "fast-local runs the same server without Docker.")
    if where.mode == "fast-local" and (where.dry_run or data.startswith("s3://")):
        what = "--dry-run shows requests to AWS" if where.dry_run else f"{data} is on AWS"
        raise UserError(f"{what}, and fast-local sends none.", "Add --execution-mode aws.")
    model = models.find(source, where.out)
    name = job_name(f"batch-{model.name}")
    folder = Path(where.out) / "sagemaker" / name
    check_writable(folder)
    in_s3 = data.startswith("s3://")
    files = [] if in_s3 else find_files(data)
    form = _format([data] if in_s3 else [file.name for file in files], content_type, split_lines)
    job = TransformJob(name, model, data if in_s3 else "", files, form, settings, folder)
    if where.mode == "fast-local":
        return _show(transform.run_here(job))
    image = models.required_image(where.image)
    account = session(where)
    say(_cost(settings))
    result = transform_jobs.run_on_aws(account, job, image)
    return _show(result) if result else 0


def _format(names: list[str], content_type: str | None, split_lines: bool | None) -> Format:
    if content_type is None:
        form = format_of(names)
    else:
        known = {form.content_type: form for form in FORMATS.values()}
        form = known.get(content_type, Format(content_type))
    if split_lines is None:
        return form
    return dataclasses.replace(form, split=LINE if split_lines else NONE)


def _show(result: Result) -> int:
    for name, reason in result.failures[:SHOWN]:
        say(f"failed     {name}: {reason}")
    if len(result.failures) > SHOWN:
        say(f"failed     … and {len(result.failures) - SHOWN} more")
    say(f"{result.rows} inputs, {len(result.failures)} failed: {result.folder / 'predictions.jsonl'}")
    return FAILED if result.failures else 0


def _cost(settings: TransformSettings) -> str:
    hourly = prices.cost(settings.instance_type, settings.instances, 3600)
    if hourly is None:
        return f"cost       no price known for {settings.instance_type}; see {prices.PRICE_PAGE}"
    return f"cost       about ${hourly:.2f} for each hour that the job takes (estimate: us-east-1, {prices.AS_OF})"
