"""common.predict and common.evaluate: a trained model in use gives what its training measured."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.kinds.labels import Labels
from common.training.run import Run
from tests.helpers import ROOT, environment, mistake, warm
from tests.test_resume import Crash, crash_after
from vision.train import example

CLASSES = ("blobs", "columns", "rows")
Command = Callable[..., "tuple[int, str, str]"]


def draw(kind: str, number: int) -> Image.Image:
    """A grey picture with noise: vertical stripes, horizontal ones, or a bright middle."""
    y, x = np.mgrid[:28, :28]
    clean = {"columns": x // 4 % 2, "rows": y // 4 % 2, "blobs": (x - 14) ** 2 + (y - 14) ** 2 < 80}[kind]
    noise = np.random.default_rng([number, CLASSES.index(kind)]).normal(0, 60, (28, 28))
    return Image.fromarray((128 + 80 * (clean - 0.5) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and its test folder, in which some pictures lie in the wrong class: accuracy is not 1."""
    root = tmp_path_factory.mktemp("predict")
    for split, count in (("train", 30), ("test", 11)):
        for kind in CLASSES:
            folder = root / "data" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                wrong = split == "test" and number == 0
                shown = CLASSES[CLASSES.index(kind) - 1] if wrong else kind
                draw(shown, number + (1000 if split == "test" else 0)).save(folder / f"{number}.png")
    said = {
        "data": f"folder:{root / 'data'}",
        "model": "lenet",
        "size": "tiny",
        "epochs": 4,
        "image_size": 28,
        "batch_size": 8,
        "zoom": 0.0,
        "device": "cpu",
    }
    done = execute(example, Options(out=str(root / "runs"), quiet=True), said)
    return Path(done["run"]), root / "data" / "test"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`python -m MODULE ARGUMENTS` in this process, which saves its start: exit code, stdout, stderr."""

    def call(module: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
            warnings.simplefilter("ignore", RuntimeWarning)  # that the module was imported before
            runpy.run_module(module, run_name="__main__")
        assert isinstance(stop.value.code, int)
        output = capfd.readouterr()
        return stop.value.code, output.out, output.err

    return call


def read_rows(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def measured(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "result.json").read_text())["metrics"]
    return metrics


def accuracy(rows: list[dict[str, Any]]) -> float:
    return sum(row["class"] == Path(row["file"]).parent.name for row in rows) / len(rows)


def test_a_fresh_process_reaches_the_accuracy_of_the_training(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    run, folder = trained
    process = warm("-m", "common.predict", run, folder, "--out", tmp_path / "p.jsonl")
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    assert process.stderr == f"33 inputs, 0 failed: {tmp_path / 'p.jsonl'}\n"
    rows = read_rows(tmp_path / "p.jsonl")
    assert [row["file"] for row in rows] == sorted(str(p) for p in folder.rglob("*.png"))
    assert accuracy(rows) == measured(run)["accuracy"]
    assert 0.7 < accuracy(rows) < 1
    for row in rows:
        assert row["probabilities"].keys() == set(CLASSES)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=2e-6)
        assert row["class"] == max(row["probabilities"], key=lambda name: row["probabilities"][name])


def test_csv_and_stdout_say_the_same_as_json_lines(
    tmp_path: Path, trained: tuple[Path, Path], command: Command
) -> None:
    run, folder = trained
    assert command("common.predict", run / "model", folder, "--out", tmp_path / "p.csv")[0] == 0
    table = read_rows(tmp_path / "p.csv")
    assert list(table[0]) == ["file", "class", "error", *CLASSES]
    assert accuracy(table) == measured(run)["accuracy"]
    code, printed, _ = command("common.predict", run, folder)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert code == 0
    assert [(row["file"], row["class"]) for row in lines] == [(row["file"], row["class"]) for row in table]
    for line, row in zip(lines, table, strict=True):
        assert line["probabilities"] == {name: float(row[name]) for name in line["probabilities"]}


def test_the_batch_size_does_not_change_an_answer(tmp_path: Path, trained: tuple[Path, Path], command: Command) -> None:
    run, folder = trained
    for size in (1, 10, 64):
        assert command("common.predict", run, folder, "--batch-size", size, "-o", tmp_path / f"{size}.jsonl")[0] == 0
    rows = [read_rows(tmp_path / f"{size}.jsonl") for size in (1, 10, 64)]
    for one, ten, many in zip(*rows, strict=True):
        assert (one["file"], one["class"]) == (ten["file"], ten["class"]) == (many["file"], many["class"])
        assert one["probabilities"] == pytest.approx(many["probabilities"], abs=1e-5)


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
def test_continues_where_it_was_stopped(
    tmp_path: Path, trained: tuple[Path, Path], command: Command, name: str
) -> None:
    run, folder = trained
    out = tmp_path / name
    call = ("common.predict", run, folder, "--batch-size", 64, "--out", out)
    assert command(*call)[0] == 0
    whole = out.read_bytes()
    for kept in (3, len(whole) // 2, len(whole) - 1):  # in the first row or the header, in a row, before the line end
        out.write_bytes(whole[:kept])
        code, _, errors = command(*call)
        assert code == 0, errors
        again = read_rows(out)
        assert [row["file"] for row in again] == sorted(str(p) for p in folder.rglob("*.png"))
        assert accuracy(again) == measured(run)["accuracy"]
    code, _, errors = command(*call)
    assert (code, errors) == (0, f"33 inputs, 0 failed, 33 done before: {out}\n")
    assert read_rows(out) == again


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
def test_a_broken_file_gets_a_row_and_the_others_their_answers(
    tmp_path: Path, trained: tuple[Path, Path], command: Command, name: str
) -> None:
    run, folder = trained
    good = (folder / "rows" / "5.png").read_bytes()
    for file, content in {"a.png": good, "b.png": good[:200], "c.png": b"no image", "d.png": good}.items():
        (tmp_path / file).write_bytes(content)
    out = tmp_path / name
    code, _, errors = command("common.predict", run, tmp_path / "*.png", "--batch-size", 2, "--out", out)
    assert code == 1
    assert errors.startswith(f"4 inputs, 2 failed: {out}\nthe first error: ")
    assert len(errors.splitlines()) == 2
    rows = {Path(row["file"]).name: row for row in read_rows(out)}
    assert rows["a.png"]["class"] == rows["d.png"]["class"] == "rows"
    assert "damaged" in rows["b.png"]["error"]
    assert "not an image" in rows["c.png"]["error"]
    assert not any(rows[file].get("class") for file in ("b.png", "c.png"))
    assert command("common.predict", run, tmp_path / "*.png", "--out", out)[0] == 1, "they still have no answer"
    assert len(read_rows(out)) == 4
    assert command("common.predict", run, tmp_path / "a.png", "--out", out)[0] == 0, "this one has"


def test_a_mistake_in_a_fresh_process_is_one_or_two_lines(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    process = warm("-m", "common.predict", tmp_path, trained[1])
    assert mistake(process).startswith(f"error: There is no trained model in {tmp_path}.")


def test_mistakes_are_named_and_nothing_is_written(
    tmp_path: Path, trained: tuple[Path, Path], command: Command
) -> None:
    run, folder = trained
    (tmp_path / "empty").mkdir()
    mistakes: list[tuple[list[Any], str]] = [
        ([tmp_path / "nowhere", folder], "error: There is no trained model in"),
        ([run, tmp_path / "*.png"], "error: There is no file"),
        ([run, tmp_path / "one.png"], "error: There is no file"),
        ([run, tmp_path / "empty"], f"error: The folder {tmp_path / 'empty'} holds no file ending in"),
        ([run, folder, "--out", tmp_path / "p.txt"], "error: --out"),
        ([run, folder, "--out", tmp_path / "empty.csv" / ".."], "error: --out"),
        ([run, folder, "--batch-size", "0"], "error: Invalid value for '--batch-size'"),
        ([run], "error: There is nothing to predict."),
    ]
    for arguments, text in mistakes:
        code, printed, errors = command("common.predict", *arguments)
        assert (code, printed) == (2, "")
        assert errors.startswith(text)
        assert len(errors.splitlines()) <= 2
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.jsonl", b"not a row, and without a line end"),
        ("notes.jsonl", b"my notes\nof today\n"),
        ("other.jsonl", b'{"text": "a"}\n{"text": "b"}\n'),
        ("list.jsonl", b"[1, 2]\n"),
        ("binary.jsonl", b"\x89PNG\r\n\x1a\n\xff\xfe\n"),
        ("classes.jsonl", b'{"file": "a.png", "class": "cat", "probabilities": {"cat": 0.9, "dog": 0.1}}\n'),
        ("notes.csv", b"a table without a line end"),
        ("other.csv", b"name,age\r\nA,3\r\n"),
        ("classes.csv", b"file,class,error,cat,dog\r\na.png,cat,,0.9,0.1\r\n"),
    ],
)
def test_another_file_at_out_is_refused_and_stays_as_it_is(
    tmp_path: Path, trained: tuple[Path, Path], command: Command, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    code, _, errors = command("common.predict", *trained, "--out", tmp_path / name)
    assert code == 2, errors
    assert errors.startswith(f"error: {tmp_path / name} is there already, and not from common.predict")
    assert len(errors.splitlines()) == 2
    assert (tmp_path / name).read_bytes() == content


def test_an_unfinished_run_says_how_to_finish_it(
    tmp_path: Path, trained: tuple[Path, Path], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash_after(3, Run.log))
        with pytest.raises(Crash):
            execute(example, Options(out=str(tmp_path), tiny=True, quiet=True), {"model": "lenet"})
    (run,) = (tmp_path / "vision.train").iterdir()
    calls: list[tuple[str, list[Path]]] = [("common.predict", [trained[1]]), ("common.evaluate", [])]
    for module, arguments in calls:
        code, _, errors = command(module, run, *arguments)
        lines = [
            f"error: There is no trained model in {run}: the run is not finished.",
            f"Finish it with --resume {run}.",
        ]
        assert (code, errors.splitlines()) == (2, lines)


def test_a_reader_that_goes_away_is_no_mistake(trained: tuple[Path, Path]) -> None:
    run, folder = trained
    arguments = [sys.executable, "-m", "common.predict", str(run), str(folder), "--batch-size", "1"]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert p.stderr is not None
        p.stdout.close()  # as `| head` does
        errors = p.stderr.read().decode()
    assert (p.returncode, errors) == (1, "")  # click's code for it, and not a word


def test_damaged_weights_are_said(tmp_path: Path, trained: tuple[Path, Path], command: Command) -> None:
    for file in (trained[0] / "model").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, errors = command("common.predict", tmp_path, trained[1])
    assert code == 2
    assert errors.startswith(f"error: Can't read the weights {weights}")


def test_evaluate_gives_the_metrics_of_the_training(trained: tuple[Path, Path], command: Command) -> None:
    run, _ = trained
    code, printed, errors = command("common.evaluate", run)
    assert (code, errors) == (0, "")
    # To rounding: training may lie in memory as channels_last, which some CPUs sum in another order.
    assert json.loads(printed) == pytest.approx(measured(run), abs=1e-6)
    assert artifact.load(run).metrics == measured(run)
    assert len(printed.splitlines()) == 1


def test_evaluate_finds_data_that_was_moved(tmp_path: Path, trained: tuple[Path, Path], command: Command) -> None:
    run, folder = trained
    model = tmp_path / "model"
    model.mkdir()
    for file in (run / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    description = json.loads((model / "model.json").read_text())
    description["config"]["data"] = "folder:data"
    (model / "model.json").write_text(json.dumps(description))
    code, printed, _ = command("common.evaluate", tmp_path, "--data-dir", folder.parent.parent)
    assert code == 0
    assert json.loads(printed) == pytest.approx(measured(run), abs=1e-6)
    code, _, errors = command("common.evaluate", tmp_path, "--data-dir", tmp_path)
    assert code == 2
    assert len(errors.splitlines()) <= 2


def test_probabilities_of_a_row_are_ranked_and_ties_keep_the_order_of_the_classes() -> None:
    import torch

    (row,) = Labels(["a", "b", "c"]).rows(torch.tensor([[0.0, 3.0, 0.0]]))
    assert row["class"] == "b"
    assert list(row["probabilities"]) == ["b", "a", "c"]


def test_a_name_that_is_not_utf_8_and_a_link_to_nothing_get_rows(
    tmp_path: Path, trained: tuple[Path, Path], command: Command
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    with open(odd, "wb") as file:  # noqa: PTH123  # a Path would take it as well, but this is what the disk holds
        file.write(next((trained[1] / "rows").iterdir()).read_bytes())
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    out = tmp_path / "answers.jsonl"
    for place in (("--out", str(out)), ("--out", str(out)), ()):  # once more continues: both are done
        code, stdout, stderr = command("common.predict", trained[0], folder, *place)
        assert (code, "Traceback" in stderr) == (1, False), stderr
        text = stdout if not place else out.read_text(encoding="utf-8")
        rows = {row["file"]: row for row in map(json.loads, text.splitlines())}
        assert list(rows) == [f"{folder}/caf\\xe9.png", f"{folder}/gone.png"]
        assert rows[f"{folder}/caf\\xe9.png"]["class"] in CLASSES
        assert "does not exist" in rows[f"{folder}/gone.png"]["error"]
        assert "the first error: " in stderr
