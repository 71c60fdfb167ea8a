"""A training job: what is trained, with which settings and data, and where."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command import arguments
from common.command.arguments import Options
from common.command.exits import say
from common.config import Config, check_fields, flag, option, path_prefixes
from common.errors import UserError, nearest
from common.example import get
from common.sagemaker.container.contract import encode

if TYPE_CHECKING:
    from common.example import Example

MODES = ("fast-local", "local", "aws")
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # as CreateTrainingJob has it
LONGEST_VALUE = 2500  # characters of a hyperparameter, as CreateTrainingJob has it
_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_GROUP = "SageMaker"


@dataclass(frozen=True)
class Where:
    """Where something runs, and in whose name."""

    execution_mode: str = option("fast-local", f"where to run: {', '.join(MODES)}", group=_GROUP)
    role: str | None = option(None, "IAM role (aws)", group=_GROUP, unset="$SAGEMAKER_ROLE_ARN")
    bucket: str | None = option(
        None, "S3 bucket for all that is sent and made (aws)", group=_GROUP, unset="the account's"
    )
    region: str | None = option(None, "AWS region", group=_GROUP, unset="that of your AWS settings")
    image: str | None = option(
        None, "container image; to serve, the one with our server", group=_GROUP, unset="AWS's, to train"
    )
    dry_run: bool = option(False, "show what would be done, and do nothing", group=_GROUP)
    out: str = option("runs", "folder for results; a job's are in sagemaker/JOB", group=_GROUP)

    @property
    def mode(self) -> str:
        """One of MODES; UserError for another word."""
        return normal_mode(self.execution_mode)


@dataclass(frozen=True)
class Place(Where):
    """Where a training job runs, and on what: all that `--execution-mode` brings with it."""

    instance_type: str = option("ml.m5.xlarge", "machine that trains (aws)", group=_GROUP)
    instance_count: int = option(1, "how many of them", group=_GROUP, at_least=1, at_most=64)
    processes: int = option(1, "processes on each; 0 for one a GPU", group=_GROUP, at_least=0, at_most=64)
    spot: bool = option(False, "spare capacity: cheaper, interrupted and resumed at times (aws)", group=_GROUP)
    max_run: int = option(3600, "seconds after which the job is stopped", group=_GROUP, at_least=1, at_most=2_419_200)
    job_name: str | None = option(None, "name of the job; say it again to continue it", group=_GROUP, unset="the time")
    dialect: str = option(
        "v3", "how hyperparameters arrive: by SDK 3, or as tuning passes them", group=_GROUP, choices=("v3", "classic")
    )
    data: str | None = option(
        None, "folder, file or s3:// prefix with the data set", group=_GROUP, unset="as the example has it"
    )


@dataclass(frozen=True)
class TrainingJob:
    """One training, checked and ready to start.

    Attributes:
        name: unique to the second.
        example: such as "vision.train".
        arguments: what the example's command line would be given on a laptop.
        hyperparameters: "example" and every setting that was asked for, typed.
        channels: local path or S3 URI by name; names without dashes.
        place: where it runs.
        quiet: say nothing on stderr but errors.
    """

    name: str
    example: str
    arguments: tuple[str, ...]
    hyperparameters: dict[str, Any]
    channels: dict[str, str]
    place: Place
    quiet: bool = False

    def say(self, line: str) -> None:
        """One line on stderr, if the job is not to be quiet."""
        if not self.quiet:
            say(line)


def normal_mode(text: str) -> str:
    """`fast_local_mode`, `Local` and the like as one of MODES; UserError for anything else."""
    mode = text.lower().replace("_", "-").removesuffix("-mode")
    if mode not in MODES:
        raise UserError(f"--execution-mode {text}: unknown.", nearest(mode, MODES))
    return mode


def job_name(example: str, longest: int = 63) -> str:
    """A new name such as `vision-train-260131-142501-3f`, unique to the second and nearly so within it."""
    suffix = f"-{datetime.now():%y%m%d-%H%M%S}-{secrets.token_hex(1)}"
    return re.sub(r"[^a-zA-Z0-9]+", "-", example)[: longest - len(suffix)].strip("-") + suffix


def training_job(example: str, words: Sequence[str], place: Place) -> TrainingJob:
    """Checks everything that can be checked before something is created.

    Args:
        example: its name in the catalogue.
        words: the arguments of its command line, as on a laptop.

    Raises:
        UserError: a mistake in any of them.
    """
    chosen = get(example)
    return job_of(chosen, *arguments.parse(chosen, words), place)


def job_of(example: Example, options: Options, settings: dict[str, Any], place: Place) -> TrainingJob:
    """The same from a command line that is parsed already.

    Args:
        settings: given as flags, by field name.
    """
    from common.command.execute import asked_config  # here: it loads torch, as the example has done by now

    place = replace(place, execution_mode=place.mode)
    check_fields(place)
    name = place.job_name or job_name(example.name)
    if not NAME.fullmatch(name):
        raise UserError(f"--job-name {name}: not allowed.", "Up to 63 letters, digits and single dashes between them.")
    if options.seeds:
        raise UserError("--seeds trains several models; a job trains one.", "Start a job for each --seed.")
    if options.resume:
        raise UserError("--resume does not go with --execution-mode.", "Give the --job-name of the job again.")
    if options.track:
        hint = "Its metrics.jsonl and TensorBoard files come back with the results."
        raise UserError("--track does not go with --execution-mode.", hint)
    values = asked_config(example, options, settings)
    base = example.config.tiny() if options.tiny else example.config()
    base.with_values(values).resolve().check()
    values, channels = shipped(values, example.config, place.data)
    hyperparameters = {"example": example.name, **({"tiny": True} if options.tiny else {}), **values}
    for key, value in hyperparameters.items():
        if len(encode(value)) > LONGEST_VALUE:
            raise UserError(f"{flag(key)} is too long: SageMaker takes {LONGEST_VALUE} characters.")
    return TrainingJob(
        name, example.name, tuple(arguments.words(options, settings)), hyperparameters, channels, place, options.quiet
    )


def shipped(
    values: dict[str, Any], config: type[Config], data: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Takes the user's paths out of the settings: what they name travels in a channel.

    Args:
        values: settings by field name.
        config: of the example; it knows which settings may name a path.
        data: what the launcher's own `--data` says: the example's data_dir, or its data as `folder:PATH`.

    Returns:
        the settings with `{CHANNEL}` for a path, and the channels.

    Raises:
        UserError: there is nothing at a path.
    """
    values, channels = dict(values), dict[str, str]()
    paths = path_prefixes(config)
    kinds = {prefix.rstrip(":") for prefix in paths.pop("data", ())}
    paths.pop("data_dir")
    if data and data.partition(":")[0] in kinds:
        values["data"], data = data, None
    data_dir: str | None = values.pop("data_dir", None) or data
    kind, _, path = str(values.get("data") or "").partition(":")
    if path and kind in kinds and data_dir is None:
        data_dir, values["data"] = path, f"{kind}:{'.' if _is_folder(path) else _last(path)}"
    elif (
        path
        and kind in kinds
        and data_dir
        and not _remote(data_dir)
        and not (Path(data_dir).expanduser() / path).exists()
    ):
        raise UserError(f"--data {kind}:{path} is not in {data_dir}.", "Give --data alone, or a path in that folder.")
    if data_dir:
        channels["training"], values["data_dir"] = _existing(data_dir), "{training}"
    for name, prefixes in paths.items():
        value = str(values.get(name) or "")
        prefix = next((prefix for prefix in prefixes if value.startswith(prefix)), None)
        path = "" if prefix is None else value.removeprefix(prefix)
        if path and Path(path).expanduser().exists():
            inside = "" if _is_folder(path) else f"/{_last(path)}"
            channels[name], values[name] = _existing(path), f"{prefix}{{{name}}}{inside}"
    return values, channels


def metric_definitions(example: Example) -> list[dict[str, str]]:
    """The name of each metric and the regular expression by which SageMaker finds its value in our log.

    Of training the measures of validation, of the end the headline: lines such as
    `epoch   3  step     75  val_loss 0.8378  val_accuracy 0.9`.
    """
    names = dict.fromkeys([example.objective, example.headline, "val_loss"])
    return [{"Name": name, "Regex": rf"(?:^|\s){name}\s+({_NUMBER})(?:\s|$)"} for name in names]


def _remote(path: str) -> bool:
    return path.startswith("s3://")


def _is_folder(path: str) -> bool:
    """Whether a path is a folder's; a file has a name in its channel. In S3 what has a suffix is taken for a file."""
    return not Path(path).suffix if _remote(path) else Path(path).expanduser().is_dir()


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _existing(path: str) -> str:
    if _remote(path):
        return path
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"There is no data at {path}.", "Give a folder or file of this machine, or s3://BUCKET/PREFIX.")
    return str(place.resolve())
