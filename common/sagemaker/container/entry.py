"""What runs in the container: hyperparameters and channels in, one training, model and report out.

Only the standard library and light modules are imported before the guard of `main`, so that whatever fails
afterwards, a missing package included, is told in the failure file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common.errors import Interrupted, UserError
from common.sagemaker.container import contract

if TYPE_CHECKING:
    from common.command.arguments import Options

CHECKPOINTS = "SM_CHECKPOINT_DIR"  # ours: no dialect has a variable for that folder
TRIAL = "TUNING_TRIAL"  # ours: set in the trainings of a tuning job, which share one folder for checkpoints
REPORT = ("report.html", "result.json", "metrics.jsonl", "config.json", "events.out.tfevents.*")
REASON = 1000  # characters of the failure file that the console shows


def main(default: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Trains as the container says, `default` where no example is named; exits as its own command line does."""
    from common.command.exits import exit_with

    exit_with(lambda: train(sys.argv[1:] if arguments is None else arguments, default))


def train(arguments: Sequence[str], default: str = "") -> int:
    """Trains, or continues, or finds it done; writes the artifact, the report, or the reason why it failed.

    Args:
        arguments: hyperparameters as the driver passes them; where there are none, SM_HPS has them.
    """
    tree = contract.Tree(Path("/opt/ml"))
    output = Path(os.environ.get("SM_OUTPUT_DIR", tree.output))
    try:
        from common.command.execute import execute
        from common.example import get
        from common.machine import distributed

        hyperparameters = contract.from_arguments(arguments) or json.loads(os.environ.get("SM_HPS", "{}"))
        example = get(str(hyperparameters.pop("example", default)))
        options = _options(hyperparameters, _checkpoints(tree))
        settings = contract.fill(contract.settings(hyperparameters, example.config), channels(), example.config)
        result = execute(example, options, settings)
        if distributed.rank() == 0:
            run = Path(result["run"])
            _copy(run / "model", ("*",), Path(os.environ.get("SM_MODEL_DIR", tree.model)))
            _copy(run, REPORT, Path(os.environ.get("SM_OUTPUT_DATA_DIR", output / "data")))
    except Exception as error:
        if not isinstance(error, Interrupted):
            write_failure(output / "failure", error)
        raise
    return 0


def channels() -> dict[str, str]:
    """The folder of each channel of data, by its name."""
    names = json.loads(os.environ.get("SM_CHANNELS", "[]"))
    return {name: os.environ[f"SM_CHANNEL_{name.upper()}"] for name in names}


def write_failure(path: Path, error: BaseException) -> None:
    """The reason that the console shows: the exception first, then where it was raised. The first of them stays."""
    if isinstance(error, UserError):
        reason = f"{error}\n"
    else:
        last = traceback.format_exception_only(type(error), error)[-1]
        frames = "".join(traceback.format_tb(error.__traceback__))
        reason = last + frames[-max(REASON - len(last), 0) :]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(reason)
    except FileExistsError:  # another rank failed earlier; what follows from that is no reason
        pass


def _checkpoints(tree: contract.Tree) -> Path:
    place = Path(os.environ.get(CHECKPOINTS, tree.checkpoints))
    return place / os.environ["TRAINING_JOB_NAME"] if TRIAL in os.environ else place


def _options(hyperparameters: dict[str, Any], out: Path) -> Options:
    """The options among the hyperparameters, taken out of them; runs lie where checkpoints are kept."""
    from common.command.arguments import Options

    tiny = contract.decode(hyperparameters.pop("tiny", False), bool, False)
    return Options(tiny=tiny, out=str(out), resume="latest")


def _copy(source: Path, patterns: Sequence[str], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for file in source.glob(pattern):
            shutil.copy2(file, target / file.name)
