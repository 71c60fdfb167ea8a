"""The classic handlers, for those who run one of Amazon's inference images with the sagemaker-inference toolkit.

Formats and answers are those of the server in this project (common/serve/formats.py). Amazon's inference images end
at PyTorch 2.6, for which this project is not made: prefer the image of sagemaker/Dockerfile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from common import artifact, example
from common.kinds.answer import Predictor
from common.serve import formats
from common.serve.container import ANY_NUMBER
from common.serve.formats import Problem


class Answered(NamedTuple):
    """Rows, the form of their JSON, and the model that gave them."""

    rows: list[dict[str, Any]]
    form: str
    model: Predictor


def model_fn(model_dir: str) -> Predictor:
    """The model in a folder."""
    return example.predictor_of(artifact.load(Path(model_dir)))


def input_fn(body: bytes | bytearray | str, content_type: str) -> tuple[bytes, str]:
    """The body as it is: only the model knows how to read it, and the toolkit hands that to predict_fn."""
    return body.encode() if isinstance(body, str) else bytes(body), content_type or ""


def predict_fn(data: tuple[bytes, str], model: Predictor) -> Answered:
    """Answers to a body; 400 or 415 for one that the model does not take."""
    kind = model.input
    try:
        inputs = formats.parse(*data, kind, most=ANY_NUMBER)  # batch transform fills a payload as far as it goes
        items = formats.decode(inputs, kind)
    except Problem as problem:
        raise _for_toolkit(problem) from problem
    return Answered(model.predict(items), inputs.form, model)


def output_fn(answered: Answered, accept: str) -> tuple[str, str]:
    """The body of the answer and its content type; 406 for one that is not known."""
    try:
        media = formats.accepted(accept or "")
    except Problem as problem:
        raise _for_toolkit(problem) from problem
    return formats.render(answered.rows, answered.form, media, answered.model.answer), media


def _for_toolkit(problem: Problem) -> Exception:
    """The exception that the toolkit turns into this status; any other would become a 500."""
    try:
        from sagemaker_inference.errors import BaseInferenceToolkitError
    except ImportError:  # the handlers are called by something else
        return problem
    error: Exception = BaseInferenceToolkitError(problem.status, problem.text, problem.text)
    return error
