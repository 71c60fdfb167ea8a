"""The labs: notebooks as they should be stored, executed on next to nothing, and the photos that they draw."""

from __future__ import annotations

import ast
import hashlib
import importlib
import io
import json
import os
import runpy
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from common.errors import UserError
from common.example import get
from common.predict.__main__ import Source, predict_all
from common.sagemaker.hosting import models
from tests.helpers import ROOT

pytest.importorskip("nbformat", reason="pip install -e '.[labs]'")

LABS = ROOT / "sagemaker" / "labs"
NOTEBOOKS = sorted(LABS.glob("*.ipynb"))
MODE = 'EXECUTION_MODE = "fast-local"'


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for everything that the labs make; their modules are imported anew."""
    for name in ("DATA", "WEIGHTS", "SAGEMAKER_IMAGE", *(name for name in os.environ if name.startswith("AWS_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABS_TINY", "1")
    monkeypatch.setenv("LABS_WORK", str(tmp_path))
    monkeypatch.syspath_prepend(str(LABS))
    for name in ("birds", "lab", "pictures"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def in_this_process(*words: object) -> str:
    """What `lab.command` does, without a new Python for each script, which would cost seconds."""
    given = [str(word) for word in words]
    module = given.pop(0) == "-m"
    stdout, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", given if module else [str(words[0]), *given])
        if module:
            runpy.run_module(given[0], run_name="__main__", alter_sys=False)
        else:
            runpy.run_path(str(ROOT / str(words[0])), run_name="__main__")
    signal.signal(signal.SIGTERM, before)
    assert not end.value.code
    return stdout.getvalue()


def code(notebook: Path) -> str:
    """The code of all cells, one after the other."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def execute(number: int) -> dict[str, Any]:
    """Runs a lab's cells in this process, which saves the start of a kernel; returns what they defined."""
    (notebook,) = (path for path in NOTEBOOKS if path.name.startswith(f"{number}-"))
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code(notebook), notebook.name, "exec"), defined)
    return defined


def predict_here(mode: str, model: str, folder: Path) -> list[dict[str, Any]]:
    """What `lab.predict` answers, without a server."""
    with TemporaryDirectory() as temporary:
        saved = models.find(model).unpack(Path(temporary))
        sources = [Source(str(file), file) for file in sorted(folder.rglob("*.jpg"))]
        return [row for rows in predict_all(get(saved.example).load(saved), sources, 64) for row in rows]


def photos(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.jpg"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_valid_and_stored_without_outputs(notebook: Path) -> None:
    import nbformat

    stored = nbformat.read(notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(stored)
    assert (stored.nbformat, stored.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in stored.cells]
    assert len(set(ids)) == len(ids)
    assert stored.cells[0].source.startswith("# Lab")
    for cell in stored.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
        else:  # prose that names a result would be wrong on other photos
            assert "%" not in cell.source.replace("95 %", "")


@pytest.mark.parametrize("notebook", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_the_mode_is_said_in_one_place(notebook: Path) -> None:
    source = code(notebook)
    assert source.count(MODE) == 1
    words = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    assert [word for word in words if word in ("fast-local", "local", "aws")] == ["fast-local"]


@pytest.mark.conformance
def test_every_lab_runs_from_top_to_bottom_without_an_account(labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lab 3 comes first: it must make for itself what the labs before it would have left."""
    monkeypatch.setattr(importlib.import_module("lab"), "command", in_this_process)
    batch = execute(3)
    species = ["Goldfinch", "Redstart", "Robin", "Siskin"]
    assert sorted(batch["truth"]) == sorted(species * 3)  # all of the test, and nothing else
    assert len(batch["rows"]) == 12
    assert 0 <= batch["low"] <= batch["right"] / 12 <= batch["high"] <= 1

    transfer = execute(1)
    assert transfer["species"] == species
    assert set(transfer["accuracy"]) == {(how, n, 0) for how in transfer["ways"] for n in (1, 2, 4)}
    trained = [p for p in transfer["network"]("frozen").parameters() if p.requires_grad]
    assert [tuple(p.shape) for p in trained] == [(4, 32), (4,)]

    endpoint = execute(2)
    assert endpoint["outcome"]["status"] == "Completed"
    assert set(endpoint["said"]) <= set(species)
    assert len(endpoint["said"]) == 12
    assert endpoint["server"].poll() == 0  # it ended when it was deleted

    lab = importlib.import_module("lab")
    alone = predict_here("fast-local", lab.trained("fast-local")["model"], lab.held_out())
    assert [row["class"] for row in alone] == batch["said"]
    monkeypatch.setattr(lab, "predict", predict_here)  # lab 3 had the real one, which takes seconds to start
    tuned = execute(4)
    assert len(tuned["scores"]) == 2
    assert max(tuned["scores"]) > min(tuned["scores"])
    assert {name: len(hits) for name, hits in tuned["right"].items()} == {"default": 12, "tuned": 12}
    assert list((labs / "fast-local" / "sagemaker" / "endpoints").glob("*.json")) == []


def test_own_photos_take_the_place_of_drawn_ones(labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    birds = importlib.import_module("birds")
    birds.write(labs / "mine", dict(list(birds.SPECIES.items())[:2]), photos=20, seed=1)
    monkeypatch.setenv("DATA", str(labs / "mine"))
    lab = importlib.import_module("lab")
    assert lab.photos() == labs / "mine"
    kept = photos(lab.held_out())
    assert len(kept) == 6
    assert set(kept.items()) < set(photos(labs / "mine").items())
    assert not (labs / "photos").exists()


def test_the_same_seed_draws_the_same_photos(labs: Path) -> None:
    birds = importlib.import_module("birds")
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        birds.write(labs / name, birds.SPECIES, photos=3, seed=seed)
    first, second, third = (photos(labs / name) for name in ("first", "second", "third"))
    assert first == second
    assert first.keys() == third.keys()
    assert not set(first.values()) & set(third.values())
    assert len(set(first.values())) == 12
    assert birds.invented(3, seed=0) == birds.invented(3, seed=0) != birds.invented(3, seed=1)


def test_birds_overwrites_nothing(labs: Path) -> None:
    (labs / "photo.jpg").touch()
    with pytest.raises(UserError, match="is not empty"):
        importlib.import_module("birds").main(labs)
    assert [file.name for file in labs.iterdir()] == ["photo.jpg"]


def test_what_fails_or_is_interrupted_leaves_nothing_half_made(
    labs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = importlib.import_module("lab")
    with pytest.raises(UserError, match="exit code 3"):
        lab.command("-c", "import sys; sys.stderr.write('no luck'); sys.exit(3)")
    assert "no luck" in capsys.readouterr().out

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sys.modules["birds"], "photo", interrupted)
        lab.photos()
    assert list(labs.iterdir()) == []
    assert len(photos(lab.photos())) == 4 * (4 + 2 + 3)
