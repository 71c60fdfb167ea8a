"""Training jobs on AWS: the request that the SDK's ModelTrainer makes, sent under our name, watched, and fetched."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common.errors import UserError, nearest
from common.example import get
from common.sagemaker.account import dry_run, prices, watch
from common.sagemaker.account.session import Account, sdk_session, session, tags
from common.sagemaker.container import contract
from common.sagemaker.container.staging import stage
from common.sagemaker.training import results
from common.sagemaker.training.here import Outcome, strings
from common.sagemaker.training.job import Place, TrainingJob, metric_definitions

IMAGE = ("pytorch-amzn2023", "2.14")  # the newest training image that SDK 3.27 knows, and whose PyTorch we support
REQUIREMENTS = "requirements.txt"
CHECKPOINTS = "/opt/ml/checkpoints"
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
SPOT_PATIENCE = 2  # a spot job may take so many times its running time, waiting for capacity included


class _Captured(Exception):
    """Carries a request out of botocore before it is sent."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__()
        self.request = request


def train(job: TrainingJob) -> Outcome | None:
    """Runs a job on AWS and brings its results to OUT/sagemaker/JOB; None in a dry run.

    A job of this name that failed or was stopped is continued from its checkpoints, as a job named JOB-2 and so on.

    Raises:
        UserError: something is missing in the account, or AWS refuses the job.
    """
    account = session(job.place)
    check_machine(account, job.place.instance_type)
    name = job.name if account.dry_run else free_name(account, job.name)
    job.say(prices.estimate(job.place.instance_type, job.place.instance_count, job.place.max_run, job.place.spot))
    with tempfile.TemporaryDirectory(prefix="source-") as folder:
        staged = stage(job.example, Path(folder) / "code")
        job.say(f"source     {len(staged.files)} files, {staged.bytes / 1e3:.0f} kB")
        request = training_request(job, name, account, staged.folder)
    if account.dry_run:
        dry_run.show("CreateTrainingJob", request)
        return None
    create(account, request)
    job.say(f"started    {name}; watch it with: python sagemaker/jobs.py logs {name}")
    description = watch.follow(account.boto, name)
    return results.fetch(job, account.boto, description)


def check_machine(account: Account, instance_type: str) -> None:
    """Raises UserError for a machine that boto3 does not know; AWS would say so after the upload."""
    known = account.boto.client("sagemaker").meta.service_model.shape_for("TrainingInstanceType").enum
    if instance_type not in known:
        hint = f"{nearest(instance_type, prices.MACHINES)} If it is new: pip install -U boto3"
        raise UserError(f"--instance-type {instance_type}: no machine that SageMaker trains on.", hint)


def free_name(account: Account, name: str) -> str:
    """The name itself, or NAME-2, NAME-3 … after jobs of that name that did not finish.

    SageMaker never gives a name twice; what continues the job is the folder of its checkpoints, which stays.

    Raises:
        UserError: the last of them still runs, or has finished.
    """
    from botocore.exceptions import ClientError

    client = account.boto.client("sagemaker")
    for attempt in range(1, 100):
        candidate = name if attempt == 1 else f"{name[:60]}-{attempt}"
        try:
            status = client.describe_training_job(TrainingJobName=candidate)["TrainingJobStatus"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
                return candidate
            raise refused(error) from None
        if status == "Completed":
            raise UserError(f"The job {candidate} is finished.", "Choose another --job-name.")
        if status in ("InProgress", "Stopping"):
            hint = f"Watch it with: python sagemaker/jobs.py logs {candidate}"
            raise UserError(f"The job {candidate} is still running.", hint)
    raise UserError(f"The job {name} was continued 99 times.", "Choose another --job-name.")


def training_request(job: TrainingJob, name: str, account: Account, source: Path) -> dict[str, Any]:
    """The CreateTrainingJob of a job, exactly as it is to be sent; uploads the source and local data.

    ModelTrainer makes it. It is taken at botocore's hook, because the SDK would end the name with a time of its own,
    and because its `dry_run` shows nothing and uploads all the same.

    Args:
        name: of this attempt at the job.
        source: folder with the staged source.
    """
    trainer = model_trainer(job, sdk_session(account, f"{name}/input"), account, source)
    try:
        trainer.train(input_data_config=inputs(job.channels), wait=False)
    except _Captured as captured:
        return {**captured.request, "TrainingJobName": name}
    raise RuntimeError("the SDK did not call CreateTrainingJob")


def model_trainer(job: TrainingJob, sdk: Any, account: Account, source: Path) -> Any:
    """The SDK's ModelTrainer of a job on AWS, which can only be made to say its request."""
    from sagemaker.core.training.configs import CheckpointConfig, Compute, OutputDataConfig, StoppingCondition, Tag
    from sagemaker.train import ModelTrainer

    place = job.place
    account.boto.events.register_first("provide-client-params.sagemaker.CreateTrainingJob", _capture)
    wait = place.max_run * SPOT_PATIENCE if place.spot else None
    trainer = ModelTrainer(
        sagemaker_session=sdk,
        role=account.role,
        base_job_name=job.name,
        training_image=place.image or image_uri(place.instance_type, account.region),
        source_code=source_code(source),
        distributed=distributed(place),
        compute=Compute(
            instance_type=place.instance_type,
            instance_count=place.instance_count,
            enable_managed_spot_training=place.spot,
        ),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=place.max_run, max_wait_time_in_seconds=wait),
        output_data_config=OutputDataConfig(s3_output_path=account.uri(), compression_type="GZIP"),
        checkpoint_config=CheckpointConfig(s3_uri=account.uri(job.name, "checkpoints"), local_path=CHECKPOINTS),
        environment=dict(ENVIRONMENT),
        hyperparameters=strings(job),
        tags=[Tag(key=tag["Key"], value=tag["Value"]) for tag in tags(job.example)],
    )
    return trainer.with_metric_definitions(sdk_metrics(job))


def source_code(source: Path) -> Any:
    """How the SDK is told of the staged source. Never by `command`, which drops the hyperparameters."""
    from sagemaker.core.training.configs import SourceCode

    return SourceCode(
        source_dir=str(source), entry_script=contract.ENTRY, requirements=REQUIREMENTS, ignore_patterns=[]
    )  # staged: nothing in it is to be left out


def sdk_metrics(job: TrainingJob) -> list[Any]:
    """The metrics that SageMaker reads from the log, as the SDK's objects."""
    from sagemaker.core.shapes import MetricDefinition

    return [MetricDefinition(name=m["Name"], regex=m["Regex"]) for m in metric_definitions(get(job.example))]


def inputs(channels: dict[str, str]) -> list[Any]:
    """The SDK's InputData of each channel; what is on this machine must exist, so that it is uploaded.

    A path that does not exist would otherwise travel on to AWS in the place of an S3 URI.
    """
    from sagemaker.core.training.configs import InputData

    for name, source in channels.items():
        if not contract.CHANNEL.fullmatch(name):
            raise UserError(f"{name!r} can't be the name of a channel.", "Letters, digits and underscores.")
        if not source.startswith("s3://") and not Path(source).exists():
            raise UserError(f"There is no data at {source}.", "Give a folder of this machine or s3://BUCKET/PREFIX.")
    return [InputData(channel_name=name, data_source=source) for name, source in channels.items()]


def distributed(place: Place) -> Any:
    """Torchrun where more than one process trains, else None; one process a GPU where the place says no number."""
    from sagemaker.train.distributed import Torchrun

    gpus = prices.gpus(place.instance_type)
    if gpus != 0 and place.processes <= 1:
        return Torchrun() if gpus != 1 or place.instance_count > 1 else None  # the driver counts the GPUs
    processes = max(place.processes, 1)
    return Torchrun(process_count_per_node=processes) if processes * place.instance_count > 1 else None


def image_uri(instance_type: str, region: str) -> str:
    """AWS's training image for a machine: with CUDA for one with GPUs."""
    from sagemaker.core import image_uris

    framework, version = IMAGE
    try:
        return str(image_uris.retrieve(framework, region, version=version, instance_type=instance_type))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"No PyTorch image for {instance_type} in {region}: {error}", "Name one with --image."
        ) from None


def create(account: Account, request: dict[str, Any]) -> None:
    """Sends a CreateTrainingJob; what AWS says against it becomes a UserError."""
    from botocore.exceptions import ClientError

    account.boto.events.unregister("provide-client-params.sagemaker.CreateTrainingJob", _capture)
    try:
        account.boto.client("sagemaker").create_training_job(**request)
    except ClientError as error:
        raise refused(error) from None


def refused(error: Any) -> UserError:
    """What AWS said against a request, and what helps."""
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    hints = {
        "ResourceLimitExceeded": "Ask for a higher quota in the Service Quotas console, or choose another machine.",
        "AccessDeniedException": "sagemaker/iam-policy.json has what your user and the role must be allowed.",
        "ThrottlingException": "Wait a minute and try again.",
    }
    return UserError(f"AWS refuses: {message}", hints.get(code, f"({code})"))


def _capture(params: dict[str, Any], **_: Any) -> None:
    raise _Captured(params)
