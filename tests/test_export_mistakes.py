"""common.export: what disagrees or can't be exported is refused in a line, and nothing is left of it."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common import artifact, example, trust
from common.command import exits as command
from common.command.arguments import Options
from common.command.execute import execute
from common.export import formats
from common.export.__main__ import main
from common.export.export import export

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = Options(out=str(tmp_path_factory.mktemp("run")), tiny=True, quiet=True)
    return Path(execute(example.get("research.ladder"), options, {})["run"])


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """`python -m common.export ARGUMENTS`, which ends with code 2 and one or two lines; returns them."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            command.run(main, "python -m common.export")
        output = capsys.readouterr()
        error = output.err[output.err.index("error: ") :].strip()
        assert (stop.value.code, output.out) == (2, "")
        assert len(error.splitlines()) <= 2
        return error

    return call


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes every export add a number to what the network gives."""

    def poison(offset: float) -> None:
        trace = formats.trace

        def wrong(model: torch.nn.Module, *arguments: Any) -> Any:
            model.register_forward_hook(lambda module, inputs, output: output + offset)
            return trace(model, *arguments)

        monkeypatch.setattr(formats, "trace", wrong)

    return poison


@pytest.mark.parametrize("offset", [3.0, float("nan")])
def test_an_export_that_disagrees_leaves_nothing(
    run: Path, refused: Refused, poisoned: Callable[[float], None], offset: float
) -> None:
    poisoned(offset)
    error = refused(run, "--to", "torch-export")
    assert error.startswith("error: ")
    assert "accuracy" in error or "not numbers" in error
    assert not (run / "exports").exists()


def test_a_small_error_in_the_outputs_alone_is_refused(
    run: Path, refused: Refused, poisoned: Callable[[float], None]
) -> None:
    poisoned(0.1)
    error = refused(run, "--to", "torch-export", "--tolerance", "1")
    assert error.startswith("error: The export disagrees with the run: accuracy ")
    assert "outputs differ by up to 0.1" in error


def test_int8_weights_that_are_too_wide_are_refused(
    run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr(formats, "SEVEN_BITS", 8)  # as if they were
    error = refused(tmp_path / "run", "--to", "onnx", "--quantize", "int8")
    assert re.match(r"error: The int8 weights go up to \d+; on a CPU without VNNI", error)
    assert not (tmp_path / "run" / "exports").exists()


def test_a_refused_export_leaves_the_good_one_before_it(
    tmp_path: Path, run: Path, refused: Refused, poisoned: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = export(run, "torch-export", "none", None)
    before = {file: file.read_bytes() for file in (run / "exports").rglob("*") if file.is_file()}
    poisoned(3.0)
    refused(run, "--to", "torch-export")
    assert {file: file.read_bytes() for file in (run / "exports").rglob("*") if file.is_file()} == before
    assert refused(folder, "--to", "onnx").startswith(f"error: {folder} is an export already.")
    (folder / "model.pt2").write_bytes(b"damaged")
    monkeypatch.setenv(trust.VARIABLE, trust.ANY)
    saved = artifact.load(folder)
    with pytest.raises(Exception, match=r"(?s)Can't load .*Export the model again"):
        example.get(saved.example).load(saved)
    (folder / "model.pt2").unlink()
    with pytest.raises(Exception, match="no such file"):
        example.get(saved.example).load(saved)
    description = json.loads((folder / "model.json").read_text())
    description["export"]["format"] = "pickle"
    (folder / "model.json").write_text(json.dumps(description))
    saved = artifact.load(folder)
    with pytest.raises(Exception, match="unknown format, 'pickle'"):
        example.get(saved.example).load(saved)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--to", "onx"], "error: --to onx: there is no such choice.\nDid you mean onnx?"),
        (["--to", "onnx", "--quantize", "int4"], "error: --quantize int4: there is no such choice."),
        (["--to", "onnx", "--quantize", "bf16"], "error: --quantize bf16: what runs onnx files on a CPU has no bf16"),
        (["--to", "onnx", "--batch", "0"], "error: --batch 0: give dynamic, or a number from 1 to 4096."),
        (["--to", "executorch", "--batch", "dynamic"], "error: --batch dynamic: ExecuTorch sets memory aside"),
        ([], "error: Missing option '--to'."),
    ],
)
def test_mistakes_are_one_line(run: Path, refused: Refused, arguments: list[str], text: str) -> None:
    assert refused(run, *arguments).startswith(text)


def test_a_missing_package_is_named_before_any_work(
    run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.export.export.find_spec", lambda name: None)
    assert refused(run, "--to", "executorch").endswith("pip install -e '.[executorch]'")
    assert refused(run, "--to", "onnx").endswith("pip install -e '.[export]'")


def test_a_full_disk_is_one_line(run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")  # a limit on the size of files is the nearest thing to a full disk
    before = sorted(run.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        error = refused(run, "--to", "torch-export")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Can't write" in error
    assert error.endswith("Free some space beside the run, or make its folder writable.")
    assert sorted(run.rglob("*")) == before


def test_without_a_compiler_aoti_is_one_line(
    run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing that was compiled before
    error = refused(run, "--to", "aoti")
    assert "C++ compiler" in error
    assert error.endswith("Install g++, or name yours in the environment variable CXX.")


def test_without_its_test_data_nothing_is_exported(tmp_path: Path, refused: Refused) -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefgh", k=6)) for _ in range(400)]  # no two texts are alike
    lines = [f"{' '.join(words[i : i + 10])},{'good' if i % 20 else 'bad'}" for i in range(0, 400, 10)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]))
    said = {"data": f"csv:{tmp_path / 'texts.csv'}", "epochs": 1, "model": "bag", "batch_size": 8}
    run = execute(example.get("nlp.classify"), Options(out=str(tmp_path), tiny=True, quiet=True), said)["run"]
    (tmp_path / "texts.csv").unlink()
    assert "texts.csv" in refused(run, "--to", "torch-export")
    assert not Path(run, "exports").exists()


def test_an_agent_has_no_validation_data_for_int8(tmp_path: Path, refused: Refused) -> None:
    options = Options(out=str(tmp_path), tiny=True, quiet=True)
    agent = execute(example.get("rl.dqn"), options, {"steps": 400})["run"]
    assert "rl.dqn has none" in refused(agent, "--to", "onnx", "--quantize", "int8")


def test_what_cannot_be_traced_is_one_line(tmp_path: Path, refused: Refused) -> None:
    options = Options(out=str(tmp_path), tiny=True, quiet=True)
    lstm = execute(example.get("nlp.classify"), options, {"model": "lstm", "epochs": 1})["run"]
    error = refused(lstm, "--to", "onnx")
    assert error.startswith("error: torch.export can't follow this network: ")
    assert error.endswith("docs/export.md says what can't be exported, and why.")
    assert not Path(lstm, "exports").exists()
