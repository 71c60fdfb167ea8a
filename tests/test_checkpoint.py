"""Checkpoints are complete or absent, verified, and never run code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from common.files import explain_write_errors, write_json, write_whole
from common.training.checkpoint import Checkpoints, read


def test_save_load_and_keep_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == (0, None, [])
    for step in (1, 5, 10):
        checkpoints.save(step, {"weights": torch.full((3,), float(step)), "step": step})
    assert checkpoints.steps() == [5, 10]
    step, state, damaged = checkpoints.latest()
    assert (step, damaged) == (10, [])
    assert state is not None
    assert torch.equal(state["weights"], torch.full((3,), 10.0))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damage_is_found_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weights": torch.zeros(1000)})
    path = checkpoints.save(2, {"weights": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[2000] ^= 64
    path.write_bytes(bytes({"flip": content, "cut": content[:-700], "empty": b"", "text": b"hello"}[damage]))
    step, state, damaged = checkpoints.latest()
    assert step == 1
    assert state is not None
    assert len(damaged) == 1
    assert "step-2.pt is damaged" in damaged[0]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-1.pt"
    torch.save({"x": Evil()}, path)
    with pytest.raises(UserError, match="damaged"):
        read(path)
    with zipfile.ZipFile(tmp_path / "step-2.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "step-2.pt")
    assert not (tmp_path / "pwned").exists()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def write_half() -> None:
        with write_whole(path) as file:
            file.write(b'{"a": ')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_line() -> None:
    """/dev/full says "no space left" to every write, as a full disk does."""
    full = Path("/dev/full")
    with pytest.raises(UserError, match="the disk is full"), explain_write_errors(full), full.open("wb") as file:
        file.write(b"x" * 10_000)
        file.flush()
