"""The jobs and endpoints that this project started, found by their tag: list, show, stop, logs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from common.command.exits import print_json, say
from common.errors import UserError, nearest
from common.sagemaker.account import watch
from common.sagemaker.account.session import PROJECT, connect, identity, require_sdk
from common.sagemaker.hosting.models import explain_refusals

ACTIONS = ("list", "show", "stop", "logs")
MOST = 50  # of each kind are looked at, newest first: each costs a request for its tags


@dataclass(frozen=True)
class JobKind:
    """How the API calls one kind of thing: `describe_training_job`, `TrainingJobName` and so on."""

    label: str
    snake: str
    pascal: str
    status: str
    log_group: str  # {name} stands for the thing's own

    @property
    def name_key(self) -> str:
        return f"{self.pascal}Name"


KINDS = (
    JobKind("training", "training_job", "TrainingJob", "TrainingJobStatus", watch.GROUP),
    JobKind("tuning", "hyper_parameter_tuning_job", "HyperParameterTuningJob", "HyperParameterTuningJobStatus", ""),
    JobKind("transform", "transform_job", "TransformJob", "TransformJobStatus", "/aws/sagemaker/TransformJobs"),
    JobKind("endpoint", "endpoint", "Endpoint", "EndpointStatus", "/aws/sagemaker/Endpoints/{name}"),
)


@dataclass(frozen=True)
class Found:
    """One job or endpoint of this project."""

    kind: str
    name: str
    example: str
    status: str
    created: datetime


def main(
    action: Annotated[str, typer.Argument(help="list, show, stop or logs")] = "list",
    name: Annotated[str | None, typer.Argument(help="of a job or an endpoint")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region (default: that of your AWS settings)")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON on stdout")] = False,
) -> int:
    """Finds again what this project started on SageMaker: training, tuning and transform jobs, and endpoints."""
    if action not in ACTIONS:
        raise UserError(f"There is no action {action!r}.", nearest(action, ACTIONS))
    if action != "list" and not name:
        raise UserError(f"{action} what?", "Give a name; see them with: python sagemaker/jobs.py list")
    require_sdk()
    boto, _ = connect(region)
    identity(boto)
    with explain_refusals():
        if action == "list":
            show_list(list(find(boto)), json)
            return 0
        kind, description = describe(boto, str(name))
        if action == "show":
            show(kind, description, json)
        elif action == "stop":
            stop(boto, kind, str(name))
        else:
            return logs(boto, kind, str(name))
    return 0


def find(boto: Any) -> Iterator[Found]:
    """The things with this project's tag, the newest of each kind first."""
    client = boto.client("sagemaker")
    for kind in KINDS:
        listed = getattr(client, f"list_{kind.snake}s")(SortBy="CreationTime", SortOrder="Descending", MaxResults=MOST)
        for summary in next(value for value in listed.values() if isinstance(value, list)):
            tags = tags_of(client, summary[f"{kind.pascal}Arn"])
            if tags.get("project") == PROJECT:
                yield Found(
                    kind.label,
                    summary[kind.name_key],
                    tags.get("example", ""),
                    summary[kind.status],
                    summary["CreationTime"],
                )


def tags_of(client: Any, arn: str) -> dict[str, str]:
    """The tags of a resource."""
    return {tag["Key"]: tag["Value"] for tag in client.list_tags(ResourceArn=arn)["Tags"]}


def describe(boto: Any, name: str) -> tuple[JobKind, dict[str, Any]]:
    """What AWS knows of the job or endpoint of a name; UserError where there is none."""
    from botocore.exceptions import ClientError

    client = boto.client("sagemaker")
    for kind in KINDS:
        try:
            return kind, getattr(client, f"describe_{kind.snake}")(**{kind.name_key: name})
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFound"):
                raise
    known = [found.name for found in find(boto)]
    hint = nearest(name, known) if known else "This project has started nothing in this region."
    raise UserError(f"There is no job or endpoint {name} in {boto.region_name}.", hint)


def show_list(found: list[Found], as_json: bool) -> None:
    """A table on stdout, or a list of objects."""
    if as_json:
        print_json([{**vars(item), "created": item.created.isoformat()} for item in found])
        return
    if not found:
        say("this project has started nothing in this region")
    width = max((len(item.name) for item in found), default=0)
    for item in found:
        when = item.created.strftime("%Y-%m-%d %H:%M")
        sys.stdout.write(f"{item.kind:<9}  {item.name:<{width}}  {item.status:<10}  {when}  {item.example}\n")


def show(kind: JobKind, description: dict[str, Any], as_json: bool) -> None:
    """What matters of a description, one line each, or all of it as JSON."""
    if as_json:
        import json

        print_json(json.loads(json.dumps(description, default=str)))
        return
    lines = {"name": description[kind.name_key], "kind": kind.label, "status": description[kind.status]}
    if kind.label == "training":
        lines |= _training_lines(description)
    elif description.get("FailureReason"):
        lines["failed"] = description["FailureReason"]
    for key, value in lines.items():
        sys.stdout.write(f"{key:<9}  {value}\n")


def _training_lines(description: dict[str, Any]) -> dict[str, str]:
    machines = description["ResourceConfig"]
    lines = {
        "example": description.get("HyperParameters", {}).get("example", ""),
        "machine": f"{machines.get('InstanceCount')} × {machines.get('InstanceType')}",
        "progress": watch.progress_line(description),
        "model": description.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""),
        "saved": description.get("CheckpointConfig", {}).get("S3Uri", ""),
    }
    for metric in description.get("FinalMetricDataList", []):
        lines[metric["MetricName"]] = f"{metric['Value']:.4f}"
    if description.get("FailureReason"):
        lines["failed"] = watch.failure_reason(description["FailureReason"])
    whole, billed = description.get("TrainingTimeInSeconds"), description.get("BillableTimeInSeconds")
    if whole and billed and billed < whole:
        lines["saving"] = f"{1 - billed / whole:.0%} by spot capacity"
    return {key: value for key, value in lines.items() if value}


def stop(boto: Any, kind: JobKind, name: str) -> None:
    """Ends a job that runs; its checkpoints stay."""
    from botocore.exceptions import ClientError

    if kind.label == "endpoint":
        raise UserError(
            f"{name} is an endpoint.", f"Delete it with: python sagemaker/deploy.py delete {name} --execution-mode aws"
        )
    try:
        getattr(boto.client("sagemaker"), f"stop_{kind.snake}")(**{kind.name_key: name})
    except ClientError as error:
        raise UserError(f"{name} was not stopped: {error.response['Error']['Message']}") from None
    say(f"{name} is being stopped")


def logs(boto: Any, kind: JobKind, name: str) -> int:
    """Shows what a job or endpoint printed; follows a training job to its end, and exits with 1 if it failed."""
    if kind.label == "training":
        return int(watch.follow(boto, name)["TrainingJobStatus"] == "Failed")
    if not kind.log_group:
        raise UserError(f"{name} is a tuning job, which prints nothing.", "Ask for the logs of its training jobs.")
    prefix = "" if kind.label == "endpoint" else f"{name}/"
    for line in watch.Log(boto, prefix, kind.log_group.format(name=name)).new():
        sys.stdout.write(line + "\n")
    return 0
