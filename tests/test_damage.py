"""Whatever stands in the files of a run: it is taken, or refused in one or two lines, and never a traceback."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common import example
from common.command import exits as command
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.metrics import Metrics
from common.predict import __main__ as predict
from common.training.run import Run

BAD: tuple[Any, ...] = (None, 5, -1, "x", [], {})
CONTENTS = (b"", b"{", b"[]", b"null", b"\xff\xfe", b"\0" * 100, b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}")
SAMPLES = ("research.ladder", "generative.gan", "nlp.classify")  # a row, a seed and a text
Place = tuple[Any, ...]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def trained(name: str) -> Path:
        options = Options(out=str(tmp_path_factory.mktemp("damage")), tiny=True, quiet=True)
        said = {"epochs": 1, "model": "bag"} if name == "nlp.classify" else {}
        return Path(execute(example.get(name), options, said)["run"])

    return trained


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """Runs what a command runs, and returns its exit code: 0, or 2 with one or two lines."""
    known = example.names()
    monkeypatch.setattr(example, "names", lambda: known)  # reads every file of the repository, each time

    def call(about: object, action: Callable[[], Any]) -> int:
        with pytest.raises((SystemExit, Exception)) as ended:
            command.exit_with(action)
        assert isinstance(ended.value, SystemExit), (about, ended.value)
        code, error = int(ended.value.code or 0), capfd.readouterr().err
        assert code in (0, 2), (about, error)
        if code == 2:
            assert 1 <= len(error[error.index("error: ") :].strip().splitlines()) <= 2, (about, error)
        return code

    return call


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where values stand in a JSON value, itself included; of a list only the first."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, child in inside:
        yield from places(child, (*at, key))


def changed(value: Any, at: Place, new: Any) -> Any:
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


def check(
    file: Path, among: Callable[[Place], bool], ended: Callable[..., int], action: Callable[[], Any]
) -> dict[int, int]:
    """Puts every bad value in the place of each in a JSON file; how often which exit code came of it."""
    original = json.loads(file.read_text())
    codes = {0: 0, 2: 0}
    for place in filter(among, places(original)):
        for bad in BAD:
            file.write_text(json.dumps(changed(original, place, bad)))
            codes[ended((file.name, place, bad), action)] += 1
    for content in CONTENTS:
        file.write_bytes(content)
        assert ended((file.name, content[:20]), action) == 2
    file.write_text(json.dumps(original))
    assert ended("as it was", action) == 0
    return codes


@pytest.mark.parametrize("name", SAMPLES)
def test_every_field_of_a_model(
    runs: Callable[[str], Path], tmp_path: Path, ended: Callable[..., int], name: str
) -> None:
    run = shutil.copytree(runs(name), tmp_path / "run")
    asked = {"research.ladder": str([1.0] * 8), "generative.gan": "7"}.get(name, "some text")
    (tmp_path / "asked").write_text(asked)

    def action() -> int:
        for answers in tmp_path.glob("asked.*"):
            shutil.rmtree(answers) if answers.is_dir() else answers.unlink()
        out = tmp_path / ("asked.d" if name == "generative.gan" else "asked.jsonl")
        return predict.main(str(run), files=[str(tmp_path / "asked")], out=str(out))

    whole = name == "research.ladder"  # the others have the same fields, and take more time to load
    codes = check(run / "model" / "model.json", lambda at: whole or at[:1] == ("inputs",), ended, action)
    assert codes[2] > 5
    for file in [*run.glob("model/*.json"), *run.glob("model/*.safetensors")]:
        content = file.read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"\xff" * 100):
            file.write_bytes(damaged)
            if file.name != "quality.safetensors":  # is for evaluation alone
                assert ended((file.name, damaged[:9]), action) == 2
        file.write_bytes(content)


def test_every_field_of_a_tokenizer(runs: Callable[[str], Path], tmp_path: Path, ended: Callable[..., int]) -> None:
    run = shutil.copytree(runs("nlp.classify"), tmp_path / "run")
    (tmp_path / "asked.txt").write_text("some text")

    def action() -> int:
        (tmp_path / "asked.jsonl").unlink(missing_ok=True)
        return predict.main(str(run), files=[str(tmp_path / "asked.txt")], out=str(tmp_path / "asked.jsonl"))

    file = run / "model" / "tokenizer.json"
    few = json.loads(file.read_text())
    vocabulary = list(few["model"]["vocab"])[:2]  # one word piece stands for all
    codes = check(file, lambda at: at[:2] != ("model", "vocab") or len(at) < 3 or at[2] in vocabulary, ended, action)
    assert codes[2] > 50


def test_every_field_of_a_run_that_is_resumed(
    runs: Callable[[str], Path], tmp_path: Path, ended: Callable[..., int]
) -> None:
    run = shutil.copytree(runs("research.ladder"), tmp_path / "run")
    options = Options(resume=str(run), json=True, quiet=True)

    def action() -> None:
        execute(example.get("research.ladder"), options, {})

    check(run / "result.json", lambda at: len(at) < 2, ended, action)
    (run / "result.json").unlink()

    def train(config: Any, run: Run) -> Metrics:
        run.place(nn.Linear(8, 1), torch.zeros(1, 8))
        list(run.loop(steps=1))
        raise UserError("It got so far.")

    stopped = dataclasses.replace(example.get("research.ladder"), train=train)
    original = json.loads((run / "config.json").read_text())
    for place in places(original):
        if len(place) < 2 or place[0] in ("config", "plan"):
            for bad in BAD:
                (run / "config.json").write_text(json.dumps(changed(original, place, bad)))
                assert ended(("config.json", place, bad), lambda: execute(stopped, options, {})) == 2
