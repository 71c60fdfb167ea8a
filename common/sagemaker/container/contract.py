"""The contract between SageMaker and a training script: hyperparameters, environment variables, folders.

Two dialects are spoken. "v3" is what the drivers of SageMaker's SDK 3 do inside a container
(sagemaker/train/container_drivers); "classic" is the sagemaker-training toolkit, which tuning jobs still use.
Hyperparameters travel as strings; both dialects read them as JSON where they can and hand them on as arguments, in
different spellings. What would be changed on the way is escaped by us, so that every value arrives as it was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from common.config import TYPES, Config, field_types, flag, path_prefixes
from common.errors import UserError, nearest
from common.files import write_json

ENTRY = "train_models.py"  # what runs in the container
ESCAPE = "text:"  # before a string that is percent-encoded
CHANNEL = re.compile(r"[A-Za-z0-9_]{1,64}")  # SageMaker would allow dashes, but the shell no variable with one
_NOTHING = ("", "null", "None")  # how the dialects spell None
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,+=@{}\[\]() -]+")  # what no shell, no JSON and no locale changes
_RESERVED = ("sagemaker_", "_")  # hyperparameters of the service's own


# --- values ---------------------------------------------------------------------------------------------


def encode(value: Any) -> str:
    """A setting as the string that CreateTrainingJob takes; readable wherever that is safe."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = _PLAIN.fullmatch(value) and value == value.strip() and not value.startswith(("-", ESCAPE))
    return value if plain and value not in _NOTHING and not _is_json(value) else ESCAPE + quote(value, safe=" /:,")


def decode(value: Any, kind: type, optional: bool) -> Any:
    """A setting as its field's type, from whatever a dialect made of its string.

    Raises:
        ValueError: it can't be that type.
    """
    if optional and (value is None or value in _NOTHING):
        return None
    if kind is str:
        text = value if isinstance(value, str) else json.dumps(value)
        return unquote(text.removeprefix(ESCAPE)) if text.startswith(ESCAPE) else text
    if kind is bool:
        return _boolean(value)
    number = float(value)
    if kind is int:
        # Not through float where it can be avoided: it would round beyond 2**53.
        return int(value) if not isinstance(value, float) and re.fullmatch(r"[+-]?\d+", str(value)) else _whole(number)
    return number


def settings(hyperparameters: Mapping[str, Any], config: type[Config]) -> dict[str, Any]:
    """The settings among the hyperparameters of a job, by field name and typed.

    Raises:
        UserError: one of them has an unknown name or can't be of its type.
    """
    types = field_types(config)
    found: dict[str, Any] = {}
    for key, value in hyperparameters.items():
        name = key.replace("-", "_")
        if name.startswith(_RESERVED):
            continue
        if name not in types:
            raise UserError(f"Unknown hyperparameter {key!r}.", nearest(name, types))
        try:
            found[name] = decode(value, *types[name])
        except (ValueError, TypeError):
            raise UserError(f"{flag(name)} is {value!r}; it must be {TYPES[types[name][0]]}.") from None
    return found


def fill(settings: Mapping[str, Any], channels: Mapping[str, str], config: type[Config]) -> dict[str, Any]:
    """The settings with `{CHANNEL}`, in those that may name a path, replaced by the folder of the channel.

    Raises:
        UserError: there is no such channel.
    """

    def folder(match: re.Match[str]) -> str:
        if match[1] not in channels:
            raise UserError(f"The job has no channel {match[1]!r}.", nearest(match[1], channels))
        return channels[match[1]]

    filled = dict(settings)
    for name in path_prefixes(config).keys() & settings.keys():
        if isinstance(settings[name], str):
            filled[name] = _PLACEHOLDER.sub(folder, settings[name], count=1)
    return filled


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _boolean(value: Any) -> bool:
    known = {"true": True, "false": False}
    text = str(value).lower()
    if text not in known:
        raise ValueError(text)
    return known[text]


def _whole(number: float) -> int:
    if not number.is_integer():
        raise ValueError(number)
    return int(number)


# --- arguments ------------------------------------------------------------------------------------------


def arguments(hyperparameters: Mapping[str, str], dialect: str) -> list[str]:
    """How a dialect passes hyperparameters to the script.

    Args:
        hyperparameters: strings, as CreateTrainingJob got them.
        dialect: "v3" or "classic".
    """
    values = {name: _parsed(text) for name, text in hyperparameters.items()}
    if dialect == "v3":  # container_drivers/common/utils.py: hyperparameters_to_cli_args
        return [word for name, value in values.items() for word in (f"--{name}", _v3_text(value))]
    words = []  # sagemaker_training/mapping.py: to_cmd_args
    for name in sorted(values):
        if not name.startswith(_RESERVED):
            words += [f"-{name}" if len(name) == 1 else f"--{name}", _classic_text(values[name])]
    return words


def from_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Hyperparameters from a script's arguments: pairs of `--name value`, or `--name=value`.

    Raises:
        UserError: something else stands among them.
    """
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not name or not (equals or rest):
            raise UserError(f"Unexpected argument {word!r}.", "Hyperparameters come as --name value.")
        found[name] = value if equals else rest.pop(0)
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _v3_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _classic_text(value: Any) -> str:
    return "" if value is None else str(value)


# --- folders and environment ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """The folders of a container, under `/opt/ml` there and under any root here."""

    root: Path

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def code(self) -> Path:
        return self.channel("code")

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        """Of which `data/` becomes output.tar.gz, and `failure` the reason that the console shows."""
        return self.root / "output"

    def channel(self, name: str) -> Path:
        return self.input / "data" / name


@dataclass(frozen=True)
class Host:
    """One of a job's machines.

    Attributes:
        rank: its number, from 0.
        count: of machines.
        processes: on each of them.
        gpus: on each of them.
    """

    rank: int = 0
    count: int = 1
    processes: int = 1
    gpus: int = 0

    def resources(self, instance_type: str) -> dict[str, Any]:
        """What `resourceconfig.json` says."""
        hosts = [f"algo-{number + 1}" for number in range(self.count)]
        return {
            "current_host": hosts[self.rank],
            "current_instance_type": instance_type,
            "current_group_name": "group",
            "hosts": hosts,
            "network_interface_name": "lo",
            "instance_groups": [{"instance_group_name": "group", "instance_type": instance_type, "hosts": hosts}],
        }


def write_config(tree: Tree, hyperparameters: Mapping[str, str], channels: Sequence[str], resources: Any) -> None:
    """Writes the three files of `input/config`, as the service does."""
    kind = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    files = {
        "hyperparameters": hyperparameters,
        "inputdataconfig": dict.fromkeys(channels, kind),
        "resourceconfig": resources,
    }
    for name, content in files.items():
        write_json(tree.input / "config" / f"{name}.json", content)


def environment(
    tree: Tree,
    hyperparameters: Mapping[str, str],
    channels: Sequence[str],
    host: Host,
    instance_type: str,
    job_name: str,
    dialect: str,
) -> dict[str, str]:
    """The variables that a dialect sets for the script.

    Args:
        hyperparameters: strings, as CreateTrainingJob got them.
        channels: names of the data channels; those of the code come by themselves.
    """
    values = {name: _parsed(text) for name, text in hyperparameters.items()}
    resources = host.resources(instance_type)
    v3 = dialect == "v3"
    all_channels = [*channels, *(("code", "sm_drivers") if v3 else ())]
    kind = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    common: dict[str, Any] = {
        "MODEL_DIR": str(tree.model),
        "INPUT_DIR": str(tree.input),
        "INPUT_CONFIG_DIR": str(tree.input / "config"),
        "OUTPUT_DIR": str(tree.output),
        "OUTPUT_DATA_DIR": str(tree.output / "data"),
        "LOG_LEVEL": 20,
        "CURRENT_HOST": resources["current_host"],
        "CURRENT_INSTANCE_TYPE": instance_type,
        "HOSTS": resources["hosts"],
        "NETWORK_INTERFACE_NAME": resources["network_interface_name"],
        "NUM_CPUS": os.cpu_count(),
        "NUM_GPUS": host.gpus,
        "NUM_NEURONS": 0,
        "CHANNELS": all_channels,
        "RESOURCE_CONFIG": resources,
        "INPUT_DATA_CONFIG": dict.fromkeys(all_channels, kind),
        "HPS": values,
    }
    common |= {f"CHANNEL_{name.upper()}": str(tree.channel(name)) for name in all_channels}
    common |= {f"HP_{name.upper()}": value for name, value in values.items()}
    common |= _v3(tree, host) if v3 else _classic(tree, hyperparameters)
    folders = {name: str(tree.channel(name)) for name in all_channels}
    common["TRAINING_ENV"] = {
        "channel_input_dirs": folders,
        "hyperparameters": values,
        "job_name": job_name,
        **{key: common[key.upper()] for key in _IN_TRAINING_ENV},
    }
    text = _v3_text if v3 else _classic_variable
    result = {f"SM_{name}": text(value) for name, value in common.items()} | {"TRAINING_JOB_NAME": job_name}
    return result if v3 else result | {"PYTHONPATH": str(tree.code)}


_IN_TRAINING_ENV = """current_host current_instance_type hosts input_data_config input_config_dir input_dir log_level
model_dir network_interface_name num_cpus num_gpus num_neurons output_data_dir resource_config""".split()  # noqa: SIM905


def _v3(tree: Tree, host: Host) -> dict[str, Any]:
    """What only container_drivers/scripts/environment.py sets."""
    drivers = tree.channel("sm_drivers")
    return {
        "INPUT_DATA_DIR": str(tree.input / "data"),
        "OUTPUT_FAILURE": str(tree.output / "failure"),
        "MASTER_ADDR": "algo-1",
        "MASTER_PORT": 7777,
        "SOURCE_DIR": str(tree.code),
        "ENTRY_SCRIPT": ENTRY,
        "DISTRIBUTED_DRIVER_DIR": str(drivers / "distributed_drivers"),
        "DISTRIBUTED_CONFIG": {"process_count_per_node": host.processes},
        "HOST_COUNT": host.count,
        "CURRENT_HOST_RANK": host.rank,
    }


def _classic(tree: Tree, hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """What only sagemaker_training/environment.py sets."""
    return {
        "USER_ENTRY_POINT": ENTRY,
        "MODULE_NAME": ENTRY.removesuffix(".py"),
        "MODULE_DIR": str(tree.code),
        "FRAMEWORK_MODULE": "",
        "FRAMEWORK_PARAMS": {},
        "USER_ARGS": arguments(hyperparameters, "classic"),
        "OUTPUT_INTERMEDIATE_DIR": str(tree.output / "intermediate"),
    }


def _classic_variable(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
