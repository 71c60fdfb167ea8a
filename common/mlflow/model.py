"""What MLflow runs to load a logged model and to predict with it; MLflow reads this file, nobody imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from common import artifact, example
from common.errors import UserError
from common.kinds.base import decoded


class Model(PythonModel):
    """Any artifact: a column `input` of texts, numbers as JSON, or pictures in base64 to a column per answer."""

    def load_context(self, context: Any) -> None:
        self.saved = artifact.load(Path(context.artifacts["model"]))
        self.predictor = example.predictor_of(self.saved)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow would act on types
        """A frame with a row for each input; ValueError for one that can't be read."""
        import pandas as pd

        answer = self.predictor.answer
        rows = self.predictor.predict([self._decoded(str(value)) for value in model_input["input"]])
        return pd.DataFrame([answer.cells(row) for row in rows], columns=answer.columns)

    def _decoded(self, value: str) -> Any:
        try:
            return decoded(self.predictor.input, self.predictor.input.from_text(value), "The input")
        except (UserError, ValueError) as error:
            raise ValueError(str(error)) from error


set_model(Model())
