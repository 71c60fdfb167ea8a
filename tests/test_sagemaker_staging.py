"""What travels to a job: the source that it needs, and nothing that is nobody's business."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from common import example
from common.errors import UserError
from common.sagemaker.container import staging
from common.sagemaker.container.staging import pack, requirements, stage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small checkout with everything in it that must stay at home."""
    root = tmp_path / "checkout"
    files = {
        "pyproject.toml": (staging.ROOT / "pyproject.toml").read_text(),
        "common/__init__.py": "", "common/report.css": "p {}", "vision/__init__.py": "", "vision/train.py": "x = 1",
        "vision/models/vgg.py": "", "nlp/classify.py": "", "sagemaker/train_models.py": "", "sagemaker/deploy.py": "",
        ".git/config": "", ".env": "KEY=1", "common/.env": "KEY=1", "common/key.pem": "", "vision/credentials": "",
        "common/__pycache__/x.cpython-311.pyc": "", "vision/.ipynb_checkpoints/train.py": "", "vision/.hidden.py": "",
        "vision/data/photo.png": "", "data/digits.npz": "", "vision/train.md": "", "runs/x/model.safetensors": "",
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "vision" / "linked.py").symlink_to(root / ".env")
    return root


def test_only_the_source_of_the_example_is_staged(root: Path, tmp_path: Path) -> None:
    staged = stage("vision.train", tmp_path / "code", root)
    names = [
        "common/__init__.py",
        "common/report.css",
        "requirements.txt",
        "train_models.py",
        "vision/__init__.py",
        "vision/models/vgg.py",
        "vision/train.py",
    ]
    assert list(staged.files) == names
    found = [p.relative_to(staged.folder).as_posix() for p in staged.folder.rglob("*") if p.is_file()]
    assert sorted(found) == names
    assert staged.bytes == sum((staged.folder / name).stat().st_size for name in names)


def test_too_much_source_is_refused_and_the_file_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LARGEST", 1000)
    (root / "vision" / "weights.py").write_text("x" * 2000)
    with pytest.raises(UserError, match=r"Look at .*vision/weights\.py"):
        stage("vision.train", tmp_path / "code", root)
    assert not (tmp_path / "code").exists()


def test_without_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="from a checkout"):
        stage("vision.train", tmp_path / "code", tmp_path)


@pytest.mark.parametrize("name", example.names())
def test_pip_has_no_reason_to_touch_torch(name: str) -> None:
    names = {staging._name(line) for line in requirements(example.get(name).extras)}
    assert not names & {"torch", "torchvision", "torchaudio"}
    assert {"typer", "safetensors", "numpy"} <= names
    assert not names & {"sagemaker", "pytest", "fastapi", "optuna"}
    assert ("peft" in names, "ale-py" in names) == ("lora" in example.get(name).extras, name == "rl.dqn")


def test_an_installation_names_the_same_requirements(tmp_path: Path) -> None:
    """Where no pyproject.toml can be read, the installed metadata says it."""
    for extras in ((), ("lora",), ("box2d", "atari")):
        here = {staging._name(line) for line in requirements(extras)}
        assert {staging._name(line) for line in requirements(extras, tmp_path)} == here


def test_the_real_source_is_small_and_has_no_folder_named_sagemaker(tmp_path: Path) -> None:
    staged = stage("rl.dqn", tmp_path / "code")
    assert staged.bytes < 2_000_000
    assert {Path(name).parts[0] for name in staged.files} == {"common", "rl", "requirements.txt", "train_models.py"}


def test_the_archive_is_the_same_for_the_same_content(root: Path, tmp_path: Path) -> None:
    staged = stage("vision.train", tmp_path / "code", root)
    pack(staged.folder, tmp_path / "a.tar.gz")
    for file in staged.folder.rglob("*.py"):
        os.utime(file, (1, 1))
    pack(staged.folder, tmp_path / "b.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert sorted(m.name for m in archive if m.isfile()) == list(staged.files)
        assert {(m.uid, m.uname) for m in archive} == {(0, "")}
