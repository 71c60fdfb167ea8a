"""A tuning job on AWS: its request, made by us and sent by boto3, watched, and its results.

The SDK's tuner is not used: it packs what `ignore_patterns` excludes, writes booleans as "True" and loses the entry
point. Its training jobs speak the classic dialect, which finds the source by `sagemaker_submit_directory`.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

from common.command import arguments
from common.command.execute import asked_config
from common.command.exits import say
from common.config import Range
from common.errors import Interrupted, UserError
from common.sagemaker.account import prices, watch
from common.sagemaker.account.session import Account, session, tags
from common.sagemaker.container import contract
from common.sagemaker.container.entry import TRIAL
from common.sagemaker.container.staging import pack, stage
from common.sagemaker.training.aws import CHECKPOINTS, SPOT_PATIENCE, image_uri, refused
from common.sagemaker.training.here import strings
from common.sagemaker.training.job import TrainingJob, metric_definitions, training_job
from common.sagemaker.tuning.plan import Tuning
from common.tune.found import Found
from common.tune.space import Where, fitted
from common.tune.study import TrialRow

USUAL_EPOCHS = 30  # where they are chosen by data that only the jobs have
SECONDS = 15.0  # between two questions to AWS
DISK = 30  # GB of each machine
STATES = {"Completed": "complete", "Stopped": "pruned", "Failed": "failed", "InProgress": "running"}


def tune(plan: Tuning) -> Found | None:
    """Starts the tuning job, or goes on watching the one of this name; None in a dry run.

    Raises:
        UserError: something is missing in the account, AWS refuses the job, or no training was completed.
    """
    account = session(plan.place)
    machines = plan.place.instance_count * plan.jobs
    say(prices.estimate(plan.place.instance_type, machines, plan.place.max_run, plan.place.spot))
    client = account.boto.client("sagemaker")
    if account.dry_run or not _exists(client, plan.name):
        create(plan, account, client)
    if account.dry_run:
        return None
    description = follow(client, plan.name)
    rows = trials(client, plan)
    complete = [row for row in rows if row.state == "complete" and row.score is not None]
    if not complete:
        reasons = [str(row.notes["reason"]) for row in rows if "reason" in row.notes]
        reason = description.get("FailureReason") or next(iter(reasons), "AWS gives no reason.")
        raise UserError(f"None of the jobs of {plan.name} was completed.", reason)
    pick = max if plan.example.goal == "maximize" else min
    best = pick(complete, key=lambda row: float(row.score or 0))
    return Found(
        example=plan.example,
        strategy=plan.strategy,
        fixed=plan.settings,
        ranges=plan.space.ranges,
        rows=rows,
        best=best,
        defaults=None,
        score=float(best.score or 0),
        metrics={},
        model=account.uri(str(best.notes["job"]), "output", "model.tar.gz"),
        note=f"the model is that of the training job {best.notes['job']}",
        importance={},
    )


def create(plan: Tuning, account: Account, client: Any) -> None:
    """Uploads source and local data and sends the request; in a dry run both are only shown."""
    from botocore.exceptions import ClientError

    words = arguments.words(plan.options, plan.settings)
    job = training_job(plan.example.name, words, dataclasses.replace(plan.place, job_name=plan.name))
    with tempfile.TemporaryDirectory(prefix="source-") as folder:
        staged = stage(job.example, Path(folder) / "code")
        say(f"source     {len(staged.files)} files, {staged.bytes / 1e3:.0f} kB")
        archive = Path(folder) / "source.tar.gz"
        pack(staged.folder, archive)
        source = account.upload(archive, plan.name, "source")
    channels = {
        name: place if place.startswith("s3://") else account.upload(Path(place), plan.name, "input", name)
        for name, place in job.channels.items()
    }
    try:
        client.create_hyper_parameter_tuning_job(**request(plan, job, account, source, channels))
    except ClientError as error:
        raise refused(error) from None
    if not account.dry_run:
        say(f"tuning     {plan.name}: {plan.jobs} jobs, {plan.parallel} at a time")


def request(plan: Tuning, job: TrainingJob, account: Account, source: str, channels: dict[str, str]) -> dict[str, Any]:
    """The CreateHyperParameterTuningJob.

    Args:
        job: a training with what is fixed.
        source: S3 URI of the packed source.
        channels: S3 URI by name.
    """
    objective = {"Type": plan.example.goal.capitalize(), "MetricName": plan.example.objective}
    config: dict[str, Any] = {
        "Strategy": plan.strategy.capitalize(),
        "HyperParameterTuningJobObjective": objective,
        "ResourceLimits": {"MaxNumberOfTrainingJobs": plan.jobs, "MaxParallelTrainingJobs": plan.parallel},
        "ParameterRanges": ranges(plan),
        # Hyperband stops trainings itself.
        "TrainingJobEarlyStoppingType": "Off" if plan.strategy == "hyperband" else "Auto",
        "RandomSeed": plan.seed,
    }
    if plan.strategy == "hyperband":
        limits = {"MinResource": 1, "MaxResource": validations(plan)}
        config["StrategyConfig"] = {"HyperbandStrategyConfig": limits}
    return {
        "HyperParameterTuningJobName": plan.name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": _definition(plan, job, account, source, channels),
        "Tags": tags(plan.example.name),
    }


def _definition(
    plan: Tuning, job: TrainingJob, account: Account, source: str, channels: dict[str, str]
) -> dict[str, Any]:
    place = plan.place
    limits = {"MaxRuntimeInSeconds": place.max_run}
    definition: dict[str, Any] = {
        "StaticHyperParameters": {
            **strings(job),
            "sagemaker_program": contract.ENTRY,
            "sagemaker_submit_directory": source,
            "sagemaker_region": account.region,
        },
        "AlgorithmSpecification": {
            "TrainingImage": place.image or image_uri(place.instance_type, account.region),
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(plan.example),
        },
        "RoleArn": account.role,
        "OutputDataConfig": {"S3OutputPath": account.uri()},
        "ResourceConfig": {
            "InstanceType": place.instance_type,
            "InstanceCount": place.instance_count,
            "VolumeSizeInGB": DISK,
        },
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": place.spot,
        "CheckpointConfig": {"S3Uri": account.uri(plan.name, "checkpoints"), "LocalPath": CHECKPOINTS},
        "Environment": {TRIAL: "1", "PYTHONUNBUFFERED": "1"},
    }
    if place.spot:
        limits["MaxWaitTimeInSeconds"] = place.max_run * SPOT_PATIENCE
    if channels:
        definition["InputDataConfig"] = [
            {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}}
            for name, uri in channels.items()
        ]
    return definition


def ranges(plan: Tuning) -> dict[str, Any]:
    """The ParameterRanges: numbers as strings, and choices as the strings that hyperparameters travel as."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, where in plan.space.ranges.items():
        kind, fields = _range(where, name in plan.space.integers)
        found.setdefault(kind, []).append({"Name": name, **fields})
    return found


def _range(where: Where, integer: bool) -> tuple[str, dict[str, Any]]:
    if not isinstance(where, Range):
        return "CategoricalParameterRanges", {"Values": [contract.encode(value) for value in where]}
    low, high = (str(int(end)) if integer else repr(float(end)) for end in (where.low, where.high))
    scaling = {"MinValue": low, "MaxValue": high, "ScalingType": "Logarithmic" if where.log else "Linear"}
    return "IntegerParameterRanges" if integer else "ContinuousParameterRanges", scaling


def validations(plan: Tuning) -> int:
    """How often a training validates: the resource that Hyperband deals out."""
    base = plan.example.config.tiny() if plan.options.tiny else plan.example.config()
    resolved = base.with_values(asked_config(plan.example, plan.options, plan.settings)).resolve()
    config = fitted(plan.example, resolved).to_dict()
    if "epochs" in config:
        return int(config["epochs"] or USUAL_EPOCHS)
    return max(1, math.ceil(config["steps"] / config["validate_every"]))


def follow(client: Any, name: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Says how far a tuning job is until it ends; returns its description.

    Raises:
        Interrupted: Ctrl-C. The job runs on, and is said to.
    """
    try:
        return watch.until(
            lambda: client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name),
            lambda state: state["HyperParameterTuningJobStatus"] in watch.ENDED,
            lambda state, _: progress_line(state),
            seconds,
        )
    except KeyboardInterrupt:
        say(
            f"{name} runs on. See its results: the same command with --job-name {name}; end it: "
            f"python sagemaker/jobs.py stop {name}"
        )
        raise Interrupted(2) from None


def progress_line(description: dict[str, Any]) -> str:
    """Such as `InProgress · 5 complete, 2 running · best 0.981`."""
    counts = description.get("TrainingJobStatusCounters", {})
    words = {"Completed": "complete", "InProgress": "running", "Stopped": "stopped", "NonRetryableError": "failed"}
    parts = [str(description["HyperParameterTuningJobStatus"])]
    parts += [", ".join(f"{counts[key]} {word}" for key, word in words.items() if counts.get(key))]
    best = description.get("BestTrainingJob", {}).get("FinalHyperParameterTuningJobObjectiveMetric")
    return " · ".join([part for part in parts if part] + ([f"best {best['Value']:.6g}"] if best else []))


def trials(client: Any, plan: Tuning) -> list[TrialRow]:
    """The trainings of a tuning job in the order in which they began."""
    summaries: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        answer = client.list_training_jobs_for_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=plan.name, SortBy="CreationTime", SortOrder="Ascending", MaxResults=100, **more
        )
        summaries += answer["TrainingJobSummaries"]
        if not answer.get("NextToken"):
            return [_row(number, summary, plan) for number, summary in enumerate(summaries)]
        more = {"NextToken": answer["NextToken"]}


def _row(number: int, summary: dict[str, Any], plan: Tuning) -> TrialRow:
    final = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
    notes: dict[str, Any] = {"job": summary["TrainingJobName"]}
    if summary.get("FailureReason"):
        notes["reason"] = summary["FailureReason"]
    if summary.get("TrainingStartTime") and summary.get("TrainingEndTime"):
        notes["seconds"] = (summary["TrainingEndTime"] - summary["TrainingStartTime"]).total_seconds()
    values = {}
    for name, text in summary["TunedHyperParameters"].items():
        where = plan.space.ranges.get(name)
        values[name] = _value(text.strip('"'), where, name in plan.space.integers)
    state = STATES.get(summary["TrainingJobStatus"], "running")
    return TrialRow(number, state, values, final["Value"] if final else None, [], notes)


def _value(text: str, where: Where | None, integer: bool) -> Any:
    """A hyperparameter of a training as the typed setting it stands for."""
    if isinstance(where, tuple):
        return next((value for value in where if contract.encode(value) == text), text)
    return int(float(text)) if integer else float(text)


def _exists(client: Any, name: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ResourceNotFound", "ResourceNotFoundException", "ValidationException"):
            return False
        raise refused(error) from None
    return True
