"""The handlers for Amazon's older inference images, alone and driven by the real sagemaker-inference toolkit."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.fuzz import NPY, PNG
from tests.helpers import ROOT
from tests.serve_helpers import write_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of an image classifier, as model.tar.gz holds it."""
    return write_artifact(tmp_path_factory.mktemp("classic") / "model")


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """sagemaker/inference.py under the name by which the toolkit imports it."""
    spec = importlib.util.spec_from_file_location("inference", ROOT / "sagemaker" / "inference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "inference", module)
    spec.loader.exec_module(module)
    return module


def test_the_handlers_give_the_predictor_s_answers(handlers: ModuleType, folder: Path) -> None:
    model = handlers.model_fn(str(folder))
    (expected,) = model.predict([model.input.decode(PNG)])
    answered = handlers.predict_fn(handlers.input_fn(bytearray(PNG), "image/png"), model)
    assert json.loads(handlers.output_fn(answered, "*/*")[0]) == expected
    body, media = handlers.output_fn(answered, "text/csv")
    assert media == "text/csv"
    assert body.split(",")[0] == expected["class"]


class Context:
    """What the model server hands to the toolkit."""

    def __init__(self, folder: Path, content_type: str, accept: str) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.request_processor = [self]
        self.status = 200
        self._headers = {"Content-Type": content_type, "Accept": accept}

    def get_request_properties(self) -> dict[str, str]:
        return self._headers

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = code

    def set_response_content_type(self, index: int, content_type: str) -> None:
        self.content_type = content_type


def test_the_real_toolkit_drives_the_handlers(
    handlers: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagemaker_inference.transformer import Transformer

    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    monkeypatch.setattr("sagemaker_inference.transformer.find_spec", lambda name: True)
    transformer: Any = Transformer()

    def ask(body: bytes, content_type: str, accept: str = "application/json") -> tuple[int, str]:
        context = Context(folder, content_type, accept)
        (answer,) = transformer.transform([{"body": body}], context)
        return context.status, answer

    encoded = base64.b64encode(PNG).decode()
    status, answer = ask(PNG, "image/png")
    assert status == 200
    for body in (json.dumps(encoded).encode(), json.dumps({"inputs": encoded}).encode()):
        assert ask(body, "application/json") == (200, answer)
    status, lines = ask(f'"{encoded}"\n"{encoded}"\n'.encode(), "application/jsonlines", "application/jsonlines")
    assert (status, lines.split("\n")) == (200, [answer, answer])
    assert ask(PNG, "image/png", "text/csv")[1].startswith(json.loads(answer)["class"])
    for body, content_type, accept, code in (
        (b"no image", "image/png", "*/*", 400),
        (b"{", "application/json", "*/*", 400),
        (NPY, "application/x-npy", "*/*", 415),  # the toolkit's own decoder would unpickle it
        (b"1,2", "text/csv", "*/*", 415),
        (PNG, "image/png", "application/x-npy", 406),
    ):
        status, text = ask(body, content_type, accept)
        assert (status, "Traceback" in text) == (code, True)  # the toolkit adds the traceback
