"""`--track mlflow`: what a user finds in MLflow afterwards, and that training does not depend on it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from common import artifact, example
from common.command.arguments import Options
from common.command.execute import execute
from common.mlflow import tracking as mlflow_tracking
from common.training.tracking import read_history
from tests.helpers import mistake, warm

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A local store; every test of this file has the same, since making its database takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # artifacts go beside the database
        yield folder
    mlflow.set_tracking_uri(before)


def trained(out: Path, name: str, **options: Any) -> dict[str, Any]:
    return execute(example.get(name), Options(tiny=True, quiet=True, out=str(out), track="mlflow", **options), {})


@pytest.mark.parametrize("name", ["vision.train", "nlp.classify"])
def test_a_run_is_there_with_all_it_logged_and_its_model_predicts(name: str, store: Path, tmp_path: Path) -> None:
    run = Path(trained(tmp_path, name)["run"])
    client = mlflow.MlflowClient()
    found = client.get_run(json.loads((run / "mlflow.json").read_text())["run_id"])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == run.name
    config = json.loads((run / "config.json").read_text())["config"]
    assert found.data.params == {key: str(value) for key, value in config.items()}
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"].items() <= found.data.metrics.items()
    logged = [(line["step"], line["val_accuracy"]) for line in read_history(run) if "val_accuracy" in line]
    kept = client.get_metric_history(found.info.run_id, "val_accuracy")
    assert [(metric.step, metric.value) for metric in kept] == logged
    assert {"report.html", "result.json"} <= {file.path for file in client.list_artifacts(found.info.run_id)}

    registered = name.replace(".", "-")
    (version,) = client.search_model_versions(f"name='{registered}'")
    model = mlflow.pyfunc.load_model(f"models:/{registered}/{version.version}")
    assert [column.name for column in model.metadata.signature.inputs] == ["input"]
    saved = artifact.load(run)
    predictor = example.get(name).load(saved)
    answers = model.predict(model.input_example)
    (row,) = predictor.predict([predictor.input.decode(predictor.input.sample())])
    assert list(answers.columns) == ["class", *saved.classes]
    assert answers["class"][0] == row["class"]
    assert answers[saved.classes].iloc[0].to_dict() == pytest.approx(row["probabilities"])
    if predictor.input.kind == "image":
        with pytest.raises(ValueError, match="is not an image"):
            model.predict(pd.DataFrame({"input": [base64.b64encode(b"no picture").decode()]}))


def test_training_goes_on_where_mlflow_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(mlflow_tracking, "_run_id", broken)
    options = Options(tiny=True, out=str(tmp_path), track="mlflow")
    with pytest.raises(mlflow_tracking.UserError, match="no route to host"):
        execute(example.get("research.ladder"), options, {})
    assert capfd.readouterr().err.count("warning: MLflow can't be reached") == 1
    (run,) = (tmp_path / "research.ladder").iterdir()
    assert (run / "result.json").exists()


def test_a_wrong_name_and_a_missing_package_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = warm("-m", "research.ladder", "--track", "wandb", "--out", tmp_path)
    assert "error: --track wandb: unknown." in mistake(process)
    monkeypatch.setattr(mlflow_tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mlflow_tracking.UserError, match="not installed"):
        mlflow_tracking.check()
    assert not list(tmp_path.iterdir())
