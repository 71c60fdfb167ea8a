"""Runs in MLflow, beside TensorBoard: settings, metrics as they come, the report, and the model in the registry.

`--track mlflow` on any example. Where to is MLflow's own setting, the variable MLFLOW_TRACKING_URI; a file in the
current folder by default.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import artifact
from common.config import read_json
from common.errors import UserError
from common.example import get
from common.files import write_json
from common.machine import distributed
from common.training.run import Run

ROOT = Path(__file__).parents[2]
LONGEST = 500  # characters of a value that MLflow keeps whole
TAGS = ("command", "git_commit", "device", "device_name", "processes")
_ID = "mlflow.json"  # in a run's folder: a resumed run goes on in the same run of MLflow


def check() -> None:
    """Raises UserError if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "--track mlflow needs the package mlflow, which is not installed.", "pip install -e '.[mlflow]'"
        )


@contextlib.contextmanager
def tracked(run: Run) -> Iterator[None]:
    """Sends to MLflow what the run logs inside, and how it ended if it did not end well.

    Training goes on where MLflow can't be reached: one line says so, and metrics.jsonl has everything.
    """
    lost = distributed.rank() > 0

    def send(step: int, values: dict[str, float]) -> None:
        nonlocal lost
        if lost:
            return
        try:
            _log(run, values, step)
        except Exception as error:  # whatever lies behind MLflow, a database or a network; training must not end by it
            lost = True
            run.progress.say(f"warning: MLflow can't be reached, training goes on: {_line(error)}")

    run.listeners.append(send)
    try:
        yield
    except BaseException as stop:
        if not lost and (run.folder / _ID).exists():
            with contextlib.suppress(Exception):  # what ended the run is what is to be shown
                _client().set_terminated(_run_id(run), "FAILED" if isinstance(stop, Exception) else "KILLED")
        raise


def finish(run: Run, metrics: dict[str, float | int]) -> None:
    """Adds the metrics of the test, the report and the model, registered under the example's name.

    Raises:
        UserError: MLflow did not take it; the run itself is whole on the disk.
    """
    try:
        _log(run, {name: float(value) for name, value in metrics.items()}, run.step)
        for name in ("report.html", "result.json", "config.json", "metrics.jsonl"):
            _client().log_artifact(_run_id(run), str(run.folder / name))
        name = _log_model(run)
        _client().set_terminated(_run_id(run))
    except Exception as error:  # as above
        what = f"MLflow did not take the result: {_line(error)}"
        raise UserError(what, f"The run itself is whole: {run.folder}") from error
    run.progress.say(f"mlflow     run {_run_id(run)}, model {name}")


def _client() -> Any:
    import logging

    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it would talk on stderr
    return mlflow.MlflowClient()


def _log(run: Run, values: dict[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    _client().log_batch(_run_id(run), metrics=[Metric(name, value, now, step) for name, value in values.items()])


def _run_id(run: Run) -> str:
    """The run of MLflow that belongs to this one, made when it is asked for first."""
    path = run.folder / _ID
    if path.exists():
        return str(read_json(path)["run_id"])
    from mlflow.entities import Param, RunTag

    client = _client()
    experiment = client.get_experiment_by_name(run.example)
    number = experiment.experiment_id if experiment else client.create_experiment(run.example)
    identity: str = client.create_run(number, run_name=run.folder.name).info.run_id
    facts = read_json(run.folder / "config.json")
    settings = [Param(name, str(value)[:LONGEST]) for name, value in facts["config"].items()]
    client.log_batch(identity, params=settings, tags=[RunTag(name, str(facts[name])[:LONGEST]) for name in TAGS])
    write_json(path, {"run_id": identity})
    return identity


def _log_model(run: Run) -> str:
    """Logs the artifact with the code that loads it, so without a pickle, and returns its name in the registry."""
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    saved = artifact.load(run.folder)
    predictor = get(saved.example).load(saved)
    answer, *classes = predictor.answer.columns
    answers: list[Any] = [ColSpec(DataType.string, answer), *(ColSpec(DataType.double, name) for name in classes)]
    versions = read_json(run.folder / "config.json")["versions"]
    name = saved.example.replace(".", "-")
    # It says on stderr, past its own loggers, that it did what it was told.
    with contextlib.redirect_stderr(io.StringIO()), mlflow.start_run(run_id=_run_id(run)):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(ROOT / "common" / "mlflow" / "model.py"),
            artifacts={"model": str(saved.folder)},
            code_paths=[str(ROOT / "common"), str(ROOT / saved.example.partition(".")[0])],
            signature=ModelSignature(Schema([ColSpec(DataType.string, "input")]), Schema(answers)),
            input_example=pd.DataFrame({"input": [predictor.input.to_text(predictor.input.sample())]}),
            pip_requirements=[f"{package}=={version}" for package, version in versions.items() if package != "python"],
            registered_model_name=name,
        )
    return name


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
