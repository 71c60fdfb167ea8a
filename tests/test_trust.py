"""A model folder from somebody else can't run its code, nor read what lies beside it, unless the user says so."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import artifact, example, trust
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.export.export import export
from common.files import check_links, inside
from common.program import FORMATS, Format
from common.sagemaker.hosting import aws as hosting
from common.sagemaker.hosting import here as local_endpoints
from common.sagemaker.hosting import models
from common.sagemaker.hosting.aws import Hosting
from tests.helpers import ROOT

Command = Callable[..., "tuple[int, str, str]"]
ROW = json.dumps([1.0] * 8)  # as many as the tiny data have columns


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that this machine made of a tiny run: the graph by torch.export, which can run code."""
    options = Options(out=str(tmp_path_factory.mktemp("run")), tiny=True, quiet=True)
    run = Path(execute(example.get("research.ladder"), options, {})["run"])
    return export(run, "torch-export", "none", None)[0]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trust from the environment before a test or after it, and none from this process alone."""
    monkeypatch.setenv(trust.VARIABLE, "")
    monkeypatch.setattr(trust, "_written", set())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: Path) -> Path:
    """The same export as it arrives on another machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copytree(ours, tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """A module or script in this process: exit code, stdout, stderr."""

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            if name.endswith(".py"):
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        return (int(str(stop.value.code or 0)), *capfd.readouterr())

    return call


def test_an_export_of_this_machine_needs_no_flag(ours: Path, command: Command) -> None:
    code, out, _ = command("common.predict", ours, "--value", ROW)
    assert (code, json.loads(out)["file"]) == (0, ROW)


def test_an_export_from_elsewhere_is_refused_wherever_it_would_be_loaded(
    elsewhere: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> Any:
        pytest.fail("its code was run")

    for name, format in FORMATS.items():
        monkeypatch.setitem(FORMATS, name, Format(load, format.runs_code))
    (tmp_path / "rows.jsonl").write_text(ROW + "\n")
    out = ("--out", tmp_path / "runs")
    for name, *arguments in (
        ("common.predict", elsewhere, "--value", ROW),
        ("common.evaluate", elsewhere),
        ("common.serve", elsewhere, "--port", 0),
        ("sagemaker/deploy.py", "create", elsewhere, "--name", "theirs", *out),
        ("sagemaker/batch_transform.py", elsewhere, tmp_path / "rows.jsonl", *out),
        ("sagemaker/deploy.py", "create", elsewhere, "--execution-mode", "aws", "--image", "x", "--dry-run", *out),
    ):
        code, printed, error = command(str(name), *arguments)
        assert (code, printed) == (2, ""), (name, error)
        assert f"error: {elsewhere}/model.pt2 can run code when it is loaded" in error, name
        assert len(error[error.index("error: ") :].splitlines()) == 2
    with pytest.raises(UserError, match="can run code"):
        runpy.run_path(str(ROOT / "sagemaker" / "inference.py"))["model_fn"](str(elsewhere))
    monkeypatch.setenv("SM_MODEL_DIR", str(elsewhere))
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "0")
    with pytest.raises(UserError, match="can run code"):
        importlib.import_module("common.serve.container").main()


def test_the_flag_and_the_environment_let_it_in(elsewhere: Path, command: Command) -> None:
    assert command("common.predict", elsewhere, "--value", ROW, "--trust-export")[0] == 0
    os.environ[trust.VARIABLE] = f"abc,{trust.digest(elsewhere / 'model.pt2')}"
    assert command("common.predict", elsewhere, "--value", ROW)[0] == 0
    os.environ[trust.VARIABLE] = "abc"
    assert command("common.predict", elsewhere, "--value", ROW)[0] == 2


def test_a_file_that_was_changed_since_is_not_ours(ours: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(ours, tmp_path / "changed")
    with (changed / "model.pt2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="was not exported on this machine"):
        example.predictor_of(artifact.load(changed))


def test_formats_that_are_data_need_no_trust(elsewhere: Path) -> None:
    description = json.loads((elsewhere / "model.json").read_text())
    for name, format in FORMATS.items():
        description["export"]["format"] = name
        (elsewhere / "model.json").write_text(json.dumps(description))
        saved = artifact.load(elsewhere)
        if format.runs_code:
            with pytest.raises(UserError, match="can run code"):
                saved.check_trust()
        else:
            assert saved.check_trust() == ""
    assert {name for name, format in FORMATS.items() if not format.runs_code} == {"onnx", "executorch"}


@pytest.mark.parametrize("place", ["file", "closed", "relative"])
def test_a_state_folder_that_cannot_be_written_costs_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("XDG_STATE_HOME", {"relative": "x"}.get(place, str(tmp_path / place)))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_bytes(b"exported")
    trust.remember(tmp_path / "a")
    assert trust.check(tmp_path / "a") == trust.digest(tmp_path / "a")  # this process knows it all the same
    assert (tmp_path / ".local").exists() == (place == "relative")


def test_the_digest_is_kept_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in "ab":
        (tmp_path / name).write_text(name)
        trust.remember(tmp_path / name)
    monkeypatch.setattr(trust, "_written", set())
    for name in "ab":
        assert trust.check(tmp_path / name)
    for content in (b"\xff\xfe", b""):
        (tmp_path / "state" / "pytorch-use-cases" / "exports.sha256").write_bytes(content)
        with pytest.raises(UserError, match="can run code"):
            trust.check(tmp_path / "a")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..\\x", "C:x", "..", ".", "", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not the plain name of a file"):
        inside(tmp_path, name)


@pytest.mark.parametrize("file", ["../model.pt2", "/etc/passwd"])
def test_an_export_names_no_file_elsewhere(ours: Path, tmp_path: Path, command: Command, file: str) -> None:
    theirs = shutil.copytree(ours, tmp_path / "a" / "theirs")
    shutil.copy(ours / "model.pt2", tmp_path / "a" / "model.pt2")
    description = json.loads((theirs / "model.json").read_text())
    description["export"]["file"] = file
    (theirs / "model.json").write_text(json.dumps(description))
    code, _, error = command("common.predict", theirs, "--value", ROW, "--trust-export")
    assert (code, "not the plain name" in error) == (2, True)


def test_links_out_of_a_model_are_refused_and_others_are_not(ours: Path, tmp_path: Path, command: Command) -> None:
    """Else packing, exporting or logging a model from somebody would take along any file of this machine."""
    (tmp_path / "secret").write_text("secret")
    theirs = shutil.copytree(ours, tmp_path / "theirs")
    (theirs / "model.pt2").rename(theirs / "real.pt2")
    (theirs / "model.pt2").symlink_to("real.pt2")
    assert command("common.predict", theirs, "--value", ROW)[0] == 0
    for target in ("../secret", str(tmp_path / "secret"), "../nowhere", ".."):
        (theirs / "notes.txt").symlink_to(target)
        code, _, error = command("common.predict", theirs, "--value", ROW)
        assert (code, "notes.txt is a link that leads out of its folder" in error) == (2, True)
        (theirs / "notes.txt").unlink()
    (theirs / "notes.txt").symlink_to("notes.txt")  # in a circle
    check_links(theirs)
    os.mkfifo(theirs / "pipe")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        check_links(theirs)


def test_a_launcher_that_trusts_a_model_says_so_to_its_container(
    ours: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.find(str(elsewhere))
    with pytest.raises(UserError, match="can run code"):
        model.trust()
    trust.remember(ours / "model.pt2")
    known = {trust.VARIABLE: trust.digest(ours / "model.pt2")}
    assert model.trust() == known
    plan = hosting.plan("e", model, "s3://b/model.tar.gz", "image", "role", Hosting(), model.trust())
    assert plan.model["PrimaryContainer"]["Environment"] == known
    assert models.TrainedModel("research.ladder", uri="s3://b/model.tar.gz").trust() == {}
    trust.allow(True)
    assert models.TrainedModel("research.ladder", uri="s3://b/model.tar.gz").trust() == {trust.VARIABLE: trust.ANY}


def test_an_endpoint_here_serves_an_export_of_this_machine(ours: Path, tmp_path: Path) -> None:
    with local_endpoints.Endpoint("ours", models.find(str(ours)), str(tmp_path)) as endpoint:
        assert endpoint.client.invoke(ROW.encode(), "application/json", "application/json").status == 200
