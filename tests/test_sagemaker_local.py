"""SageMaker's local mode: what it needs is said clearly, and the unmodified SDK runs our code in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.example import get, names
from common.sagemaker.training import docker as local
from common.sagemaker.training.job import Place, training_job

pytest.importorskip("sagemaker.core")


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A `docker` on an otherwise empty PATH."""
    folder.mkdir()
    if script:
        (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("", "Local mode needs Docker, which is not installed."),
        ("exit 1", "Local mode needs Docker Compose, which is not installed."),
        ('[ "$1" = compose ] || exit 1', "Docker is installed, but does not answer."),
    ],
)
def test_a_missing_docker_is_one_clear_line(
    script: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path / "bin", monkeypatch, script)
    job = training_job("vision.train", ["--tiny"], Place(execution_mode="local", out=str(tmp_path / "runs")))
    with pytest.raises(UserError) as error:
        local.train(job)
    assert error.value.what == text
    assert "fast-local needs none" in error.value.hint
    assert not (tmp_path / "runs").exists()


def test_local_mode_has_a_root_of_its_own_and_none_of_your_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sagemaker.train

    asked: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, **said: Any) -> None:
            asked.append({**said, "empty": list(Path(said["local_container_root"]).iterdir()) == []})

        def with_metric_definitions(self, metrics: Any) -> Trainer:
            return self

        def train(self, **_: Any) -> None:
            raise RuntimeError("Failed to run: docker compose up. Process exited with code: 1")

    monkeypatch.setattr(sagemaker.train, "ModelTrainer", Trainer)
    monkeypatch.setattr(local, "docker_has", lambda image: True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREALKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    place = Place(execution_mode="local", out=str(tmp_path / "runs"))
    outcome = local.train(training_job("vision.train", ["--tiny"], place))
    assert outcome is not None
    assert (outcome.status, outcome.exit_code) == ("Failed", 1)
    (said,) = asked
    root = Path(said["local_container_root"])  # by default it would be the current folder, and lose what is in it
    assert said["empty"]
    assert not root.is_relative_to(Path.cwd())
    assert not root.exists()
    assert said["sagemaker_session"].boto_session.get_credentials() is None


def test_an_image_that_can_not_be_pulled_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sagemaker.train

    class Trainer:
        def __init__(self, **_: Any) -> None: ...

        def with_metric_definitions(self, metrics: Any) -> Trainer:
            return self

        def train(self, **_: Any) -> None:
            raise subprocess.CalledProcessError(1, ["docker", "pull", "no/such:image"])

    monkeypatch.setattr(sagemaker.train, "ModelTrainer", Trainer)
    monkeypatch.setattr(local, "docker_has", lambda image: True)
    place = Place(execution_mode="local", image="no/such:image", out=str(tmp_path / "runs"))
    with pytest.raises(UserError, match=r"`docker pull no/such:image` failed\.\nName another image with --image\."):
        local.train(training_job("vision.train", ["--tiny"], place))
    assert not (tmp_path / "runs").exists()


def shim() -> Path | None:
    """The stand-in for docker that PTUC_DOCKER_SHIM names: its folder goes to PATH."""
    named = os.environ.get("PTUC_DOCKER_SHIM")
    return Path(named) if named else None


@pytest.mark.conformance
@pytest.mark.skipif(shim() is None, reason="PTUC_DOCKER_SHIM names no folder with a stand-in for docker")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the stand-in needs root for namespaces")
@pytest.mark.parametrize(
    ("example", "hosts", "processes"),
    [*((name, 1, 1) for name in names()), ("vision.train", 1, 2), ("vision.train", 2, 1), ("vision.train", 2, 2)],
)
def test_the_unmodified_sdk_runs_our_code_in_local_mode(
    example: str, hosts: int, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(sys.executable).parent
    (tmp_path / "shim").mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(shim()), str(own), os.environ["PATH"]]))
    monkeypatch.setenv("SHIM_TMP", str(tmp_path / "shim"))
    monkeypatch.setenv("SHIM_PATH", f"{own}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()  # the SDK deletes such a folder under its default root, the current folder
    place = Place("local", image="local", instance_count=hosts, processes=processes, out=str(tmp_path / "runs"))
    outcome = local.train(training_job(example, ["--tiny"], place))
    assert outcome is not None
    assert (outcome.status, outcome.failure_reason) == ("Completed", "")
    assert get(example).headline in outcome.metrics
    with tarfile.open(outcome.model) as archive:
        assert "model.json" in archive.getnames()
    assert (outcome.folder / "output" / "report.html").exists()
    assert (tmp_path / "input").is_dir()
