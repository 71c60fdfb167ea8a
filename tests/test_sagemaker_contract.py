"""The contract with the container: every setting arrives as it was said, by the way that the real drivers take."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common import example
from common.command.arguments import Options
from common.command.execute import execute
from common.config import Config, option
from common.errors import UserError
from common.sagemaker.container import contract, entry
from common.sagemaker.container.contract import Host, Tree
from common.sagemaker.training.job import NAME, job_name, metric_definitions
from tests import toy
from vision.train import TrainConfig

DIALECTS = ("v3", "classic")
HARD = [
    "it's", "1e-3", "3", "null", "None", "true", "True", "[1, 2]", '{"a": 1}', '"quoted"', "a b", " a", "a ", "",
    "--flag", "-x", "naïve 日本", "line\nbreak", "$HOME `id` $(id)", "back\\slash", "text:abc", "100%", "NaN",
    "Infinity", "s3://bucket/prefix", "folder:.", "128,128", "ALE/Pong-v5", "{training}/a file.csv",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(Config):
    name: str = option("x", "text")
    maybe: str | None = option(None, "text or nothing")
    count: int | None = option(None, "whole number")
    rate: float | None = option(None, "number")
    on: bool | None = option(None, "switch")


def arrive(values: dict[str, Any], dialect: str, way: str) -> dict[str, Any]:
    """What the script makes of settings that were sent: by its arguments, or from the variable SM_HPS."""
    strings = {name: contract.encode(value) for name, value in values.items()}
    if way == "arguments":
        return contract.settings(contract.from_arguments(contract.arguments(strings, dialect)), Settings)
    variables = contract.environment(Tree(Path("/opt/ml")), strings, [], Host(), "ml.m5.large", "job", dialect)
    return contract.settings(json.loads(variables["SM_HPS"]), Settings)


@pytest.mark.parametrize("way", ["arguments", "variable"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_value_arrives_as_it_was_sent(dialect: str, way: str) -> None:
    cases: list[dict[str, Any]] = [{"name": text, "maybe": text} for text in HARD]
    cases += [{"on": True}, {"on": False}, {"maybe": None, "rate": None, "count": None, "on": None}]
    cases += [{"rate": rate} for rate in (1e-3, 3.0, 0.1 + 0.2, 1e300, -5e-324, 0.0)]
    cases += [{"count": count} for count in (0, -7, 3, 2**53 + 1)]
    drawn = random.Random(0)
    alphabet = [*map(chr, range(1, 256)), "☃", "😀", "'", '"', "%", ":"]
    cases += [{"name": "".join(drawn.choices(alphabet, k=drawn.randint(0, 12)))} for _ in range(500)]
    cases += [{"rate": drawn.uniform(-1, 1) * 10.0 ** drawn.randint(-300, 300)} for _ in range(500)]
    for case in cases:
        arrived = arrive(case, dialect, way)
        assert arrived == case
        assert {name: type(value) for name, value in arrived.items()} == {n: type(v) for n, v in case.items()}


def test_what_is_harmless_stays_readable_in_the_console() -> None:
    values = [3, 0.001, True, None, "adamw", "folder:.", "128,128", "{training}/rows.csv", "hf:org/model", "[1, 2] a"]
    shown = ["3", "0.001", "true", "null", "adamw", "folder:.", "128,128", "{training}/rows.csv", "hf:org/model"]
    assert [contract.encode(value) for value in values] == [*shown, "[1, 2] a"]
    for text in HARD:  # an apostrophe would end the shell's quotes, a line break the API's pattern
        assert not set(contract.encode(text)) & set("'\n$`\\\"")


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ({"on": "True"}, True),
        ({"on": "false"}, False),
        ({"count": 3.0}, 3),
        ({"rate": "5e-2"}, 0.05),
        ({"rate": 1}, 1.0),
    ],
)
def test_values_as_tuning_sends_them_are_understood(sent: dict[str, Any], value: Any) -> None:
    (arrived,) = contract.settings(
        {**sent, "sagemaker_program": "x.py", "_tuning_objective_metric": "y"}, Settings
    ).values()
    assert (arrived, type(arrived)) == (value, type(value))


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ({"cuont": 3}, "Unknown hyperparameter 'cuont'.\nDid you mean count?"),
        ({"count": 2.5}, "--count is 2.5; it must be a whole number."),
        ({"on": "yes"}, "--on is 'yes'; it must be true or false."),
        ({"rate": "fast"}, "--rate is 'fast'; it must be a number."),
    ],
)
def test_a_wrong_hyperparameter_is_one_clear_line(sent: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        contract.settings(sent, Settings)


def test_arguments_that_are_no_pairs_are_refused() -> None:
    assert contract.from_arguments(["--a", "--b", "--c=d=e"]) == {"a": "--b", "c": "d=e"}
    for words in (["a"], ["--a", "1", "--b"], ["--", "x"]):
        with pytest.raises(UserError, match="Unexpected argument"):
            contract.from_arguments(words)


def test_a_placeholder_names_its_channel() -> None:
    settings = {"data_dir": "{training}", "weights": "{weights}/a{b}.pt", "model": None, "text_column": "{training}"}
    filled = contract.fill(settings, {"training": "/data/it's here", "weights": "/w"}, TrainConfig)
    assert filled == {**settings, "data_dir": "/data/it's here", "weights": "/w/a{b}.pt"}
    with pytest.raises(UserError, match="no channel 'trainig'"):
        contract.fill({"data_dir": "{trainig}"}, {"training": "/data"}, TrainConfig)


# --- beside the real thing -------------------------------------------------------------------------------


def drivers() -> Path:
    """The container drivers that the SDK ships; the extra dev brings it."""
    spec = importlib.util.find_spec("sagemaker")  # no submodule: that would import the whole SDK
    places = [Path(place) / "train" / "container_drivers" for place in (spec and spec.submodule_search_locations) or ()]
    return next(place for place in places if place.is_dir())


def toolkit() -> str:
    """The folder in which the sagemaker-training toolkit lies; skips the test where it does not."""
    place = Path(sys.prefix) / "sagemaker-training"
    return str(place) if place.is_dir() else pytest.skip("sagemaker-training is not there: make conformance")


def from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arguments_are_those_of_the_sdk_s_own_driver() -> None:
    utils = from_file(drivers() / "common" / "utils.py")
    strings = {f"h{i}": contract.encode(v) for i, v in enumerate([*HARD, 3, 0.1, True, None, [1, "a"], {"b": None}])}
    strings |= {f"raw{i}": text for i, text in enumerate(HARD)}  # what others send is not escaped
    read = {name: utils.safe_deserialize(text) for name, text in strings.items()}
    assert contract.arguments(strings, "v3") == utils.hyperparameters_to_cli_args(json.loads(json.dumps(read)))


@pytest.mark.conformance
def test_arguments_are_those_of_the_toolkit(tmp_path: Path) -> None:
    strings = {
        "h" if i == 0 else f"h{i}": contract.encode(v) for i, v in enumerate([*HARD, 3, 0.1, True, None, [1, "a"]])
    }
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps(strings))
    code = (
        "import json; from sagemaker_training import environment, mapping\n"
        "print(json.dumps(mapping.to_cmd_args(environment.read_hyperparameters())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": toolkit(), "SAGEMAKER_BASE_DIR": str(tmp_path)},
    )
    assert contract.arguments(strings, "classic") == json.loads(done.stdout)


def test_variables_are_those_of_the_sdk_s_own_script(tmp_path: Path) -> None:
    strings = {f"h{i}": contract.encode(v) for i, v in enumerate([*HARD, 3, True, None])}
    tree, host = Tree(Path("/opt/ml")), Host(rank=1, count=2, processes=2)
    resources, channels = host.resources("ml.m5.large"), ["training", "code", "sm_drivers"]
    kind = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    code = (
        "import json,sys; sys.path.insert(0, sys.argv[1]); import environment as e\n"
        "e.read_source_code_json = lambda: {'entry_script': 'train_models.py'}\n"
        "e.read_distributed_json = lambda: {'process_count_per_node': 2}\n"
        "e.num_gpus = e.num_neurons = lambda: 0\n"
        "e.set_env(*json.load(sys.stdin), sys.argv[2])"
    )
    written = tmp_path / "sm_training.env"
    subprocess.run(
        [sys.executable, "-c", code, str(drivers() / "scripts"), str(written)],
        input=json.dumps([resources, dict.fromkeys(channels, kind), strings]),
        capture_output=True,
        text=True,
        check=True,
        env={"TRAINING_JOB_NAME": "job", "PATH": os.environ["PATH"]},
    )
    # As bash reads the file: an apostrophe that got through would break here.
    dump = shlex.join([sys.executable, "-c", "import os,json; print(json.dumps(dict(os.environ)))"])
    shell = f"set -a; . {shlex.quote(str(written))}; exec {dump}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, env={})
    real = {name: value for name, value in json.loads(done.stdout).items() if name.startswith("SM_")}
    ours = contract.environment(tree, strings, ["training"], host, "ml.m5.large", "job", "v3")
    ours = {name: value for name, value in ours.items() if name.startswith("SM_")}
    loose = ("SM_TRAINING_ENV",)  # also has the master's address
    assert {n: v for n, v in ours.items() if n not in loose} == {n: v for n, v in real.items() if n not in loose}


# --- names and metrics ----------------------------------------------------------------------------------


def test_job_names_are_allowed_even_for_tuning() -> None:
    for name in example.names():
        made = job_name(name, longest=32)
        assert NAME.fullmatch(made)
        assert len(made) <= 32
        assert made.startswith(name.split(".")[0])
    assert len({job_name("vision.train") for _ in range(5)}) > 1


def found(log: str, declared: Any) -> dict[str, list[str]]:
    """What SageMaker would read from a log, line by line."""
    patterns = {m["Name"]: re.compile(m["Regex"]) for m in metric_definitions(declared)}
    lines = log.splitlines()
    return {name: [m[1] for line in lines if (m := pattern.search(line))] for name, pattern in patterns.items()}


def test_metrics_are_found_in_what_a_training_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = execute(toy.example, Options(tiny=True, out=str(tmp_path)), {})
    values = found(capfd.readouterr().err, toy.example)
    history = [json.loads(line) for line in Path(result["run"], "metrics.jsonl").read_text().splitlines()]
    validated = [row["val_accuracy"] for row in history if "val_accuracy" in row]
    *each, kept = [float(v) for v in values["val_accuracy"]]  # tuning judges by the last
    assert each == pytest.approx(validated, rel=1e-3)
    assert kept == pytest.approx(max(validated), rel=1e-3)
    assert [float(v) for v in values["accuracy"]] == pytest.approx([result["metrics"]["accuracy"]], abs=1e-4)
    assert len(values["val_loss"]) >= len(validated)


def test_a_metric_is_not_taken_for_one_whose_name_ends_alike() -> None:
    log = "epoch   1  step     25  val_loss 2e-05  val_accuracy 0.9\naccuracy      -1.5\naccuracy_low  0.1"
    assert found(log, toy.example) == {"val_accuracy": ["0.9"], "accuracy": ["-1.5"], "val_loss": ["2e-05"]}


# --- the reason of a failure ----------------------------------------------------------------------------


def test_the_reason_is_the_exception_then_where_and_the_first_one_stays(tmp_path: Path) -> None:
    def deep(depth: int) -> None:
        if depth == 0:
            raise ValueError("the heart of the matter")
        deep(depth - 1)

    try:
        deep(40)
    except ValueError as error:
        entry.write_failure(tmp_path / "failure", error)
    entry.write_failure(tmp_path / "failure", RuntimeError("connection closed by peer"))
    text = (tmp_path / "failure").read_text()
    assert text.startswith("ValueError: the heart of the matter\n")
    assert text.rstrip().endswith('raise ValueError("the heart of the matter")')
    assert len(text) <= entry.REASON


@pytest.mark.parametrize("name", example.names())
def test_each_example_that_fails_leaves_its_own_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Any, run: Any) -> Any:
        raise RuntimeError(f"loss is NaN in {name}")

    failing = dataclasses.replace(example.get(name), train=broken)
    monkeypatch.setattr(example, "get", {name: failing}.__getitem__)
    for variable, folder in (("SM_OUTPUT_DIR", "output"), ("SM_MODEL_DIR", "model"), (entry.CHECKPOINTS, "saved")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    with pytest.raises(RuntimeError):
        entry.train(["--example", name, "--tiny", "true"])
    reason = (tmp_path / "output" / "failure").read_text()
    assert reason.startswith(f"RuntimeError: loss is NaN in {name}\n")
    assert "in broken" in reason
    assert not (tmp_path / "model").exists()


def test_a_mistake_is_its_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_OUTPUT_DIR", str(tmp_path))
    monkeypatch.setenv(entry.CHECKPOINTS, str(tmp_path / "checkpoints"))
    with pytest.raises(UserError):
        entry.train(["--example", "vision.train", "--epochs", "0"])
    assert (tmp_path / "failure").read_text() == "--epochs is 0; it must be at least 1.\n"
