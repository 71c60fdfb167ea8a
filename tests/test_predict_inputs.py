"""Predictions for what is typed, and answers that are no classes; by a small stand-in for a model."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common import artifact, example
from common.errors import UserError
from common.kinds.action import Action
from common.kinds.answer import Predictor
from common.kinds.labels import Labels
from common.kinds.observation import ObservationInput
from common.kinds.picture import Picture
from common.kinds.seed import SeedInput
from common.kinds.text import TextInput
from common.predict import __main__ as predict
from common.report import frames
from tests.fuzz import NPYS


def shouting(texts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for text in texts:
        loud = float(text.isupper())
        rows.append({"class": "loud" if loud else "calm", "probabilities": {"loud": loud, "calm": 1 - loud}})
    return rows


def acting(observations: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {"action": "loud" if o.sum() > 0 else "calm", "q_values": {"loud": float(o.sum()), "calm": 0.0}}
        for o in observations
    ]


def painting(draws: Sequence[Any]) -> list[dict[str, Any]]:
    pictures = [torch.full((1, 4, 4), int(100 + 10 * d.latent.mean()), dtype=torch.uint8) for d in draws]
    return [
        {"seed": d.seed, "png": base64.b64encode(frames.png(p)).decode()} for d, p in zip(draws, pictures, strict=True)
    ]


PREDICTORS = {
    "text": Predictor(TextInput(), Labels(["loud", "calm"]), shouting),
    "observation": Predictor(ObservationInput((2,)), Action(["loud", "calm"]), acting),
    "seed": Predictor(SeedInput(8), Picture(), painting),
}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes common.predict meet one of PREDICTORS instead of a trained model."""

    def choose(kind: str) -> None:
        saved = SimpleNamespace(example="stand.in", classes=[] if kind == "seed" else ["loud", "calm"])
        monkeypatch.setattr(artifact, "load", lambda path: saved)
        monkeypatch.setattr(example, "get", lambda name: SimpleNamespace(load=lambda _: PREDICTORS[kind]))

    return choose


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_values_and_lines_are_inputs(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("text")
    (tmp_path / "texts.txt").write_text("quiet\nLOUD\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"HEY\n")))
    assert predict.main("run", value=["hello", "HELLO", "hello"], lines=[str(tmp_path / "texts.txt"), "-"]) == 0
    answers = {row["file"]: row["class"] for row in rows(capsys.readouterr().out)}
    lines = f"{tmp_path}/texts.txt"
    assert answers == {"hello": "calm", "HELLO": "loud", f"{lines}:1": "calm", f"{lines}:2": "loud", "-:1": "loud"}


def test_a_value_that_is_none_gets_a_row_with_its_error(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve("observation")
    assert predict.main("run", value=["[1, 2]", "[1]", "nonsense"]) == 1
    good, short, broken = rows(capsys.readouterr().out)
    assert good == {"file": "[1, 2]", "action": "loud", "q_values": {"loud": 3.0, "calm": 0.0}}
    assert short["error"] == "[1] has the shape [1], not [2]."
    assert broken["error"].startswith("nonsense is not valid JSON")


def test_every_damaged_npy_file_gets_a_row(serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve("observation")
    for number, content in enumerate(NPYS):
        (tmp_path / f"{number:02}.npy").write_bytes(content)
    np.save(tmp_path / "good.npy", np.ones(2))
    assert predict.main("run", files=[str(tmp_path)]) == 1
    *bad, good = rows(capsys.readouterr().out)
    assert good["action"] == "loud"
    assert len(bad) == len(NPYS)
    assert all(row["error"].startswith(row["file"]) or "…" in row["error"] for row in bad)


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("too deep"), OverflowError("too large"), KeyError("x")]
)
def test_whatever_a_decoder_raises_is_a_row(
    serve: Any, error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(self: TextInput, source: Any, name: str = "") -> str:
        if source == b"bad":
            raise error
        return "GOOD"

    monkeypatch.setattr(TextInput, "decode", decode)
    serve("text")
    assert predict.main("run", value=["bad", "good"]) == 1
    bad, good = rows(capsys.readouterr().out)
    assert bad["error"].startswith(f"bad can't be read: {type(error).__name__}")
    assert good["class"] == "loud"


def test_csv_has_a_column_for_the_answer_and_each_score(serve: Any, tmp_path: Path) -> None:
    serve("observation")
    out = tmp_path / "actions.csv"
    assert predict.main("run", value=["[1, 2]", "[-1, 0]"], out=str(out)) == 0
    before = out.read_bytes()
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["action"] for row in table] == ["loud", "calm"]
    assert [float(row["loud"]) for row in table] == [3.0, -1.0]
    assert predict.main("run", value=["[1, 2]", "[-1, 0]"], out=str(out)) == 0
    assert out.read_bytes() == before  # nothing is done twice


def test_pictures_go_into_a_folder_under_names_of_their_own(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve("seed")
    out = tmp_path / "pictures"
    assert predict.main("run", value=["7", '{"seed": 8}', "../../etc"], out=str(out)) == 1
    index = rows((out / "index.jsonl").read_text())
    assert [row.get("seed") for row in index] == [7, 8, None]
    assert {p.name for p in out.glob("*.png")} == {row["png"] for row in index if "png" in row}
    again = tmp_path / "again"
    predict.main("run", value=["7"], out=str(again))
    (one,) = again.glob("*.png")
    assert one.read_bytes() == (out / index[0]["png"]).read_bytes()
    capsys.readouterr()
    predict.main("run", value=["7"])
    (row,) = rows(capsys.readouterr().out)
    assert torch.equal(frames.read_png(base64.b64decode(row["png"])), frames.read_png(one.read_bytes()))


def test_mistakes(serve: Any, tmp_path: Path) -> None:
    serve("seed")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; the answers of this model are files: name a folder"):
        predict.main("run", value=["7"], out=str(tmp_path / "file"))
    with pytest.raises(UserError, match="There is nothing to predict"):
        predict.main("run")
    with pytest.raises(UserError, match=r"Can't read .*nowhere.txt: No such file"):
        predict.main("run", lines=[str(tmp_path / "nowhere.txt")])


def test_the_first_error_is_said_on_stderr(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve("seed")
    assert predict.main("run", value=["-7", "8"]) == 1
    assert "2 inputs, 1 failed\nthe first error: -7 is no seed: -7" in capsys.readouterr().err


def test_lines_may_come_from_a_file_whose_name_is_no_utf_8(serve: Any, tmp_path: Path) -> None:
    serve("text")
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(place).write_text("hello\nHELLO\n")
    assert predict.main("run", lines=[place], out=str(tmp_path / "out.jsonl")) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["file"].rpartition("/")[2], row["class"]) for row in rows] == [
        ("caf\\xe9.txt:1", "calm"),
        ("caf\\xe9.txt:2", "loud"),
    ]


def test_a_file_of_another_kind_is_given_up_after_a_few_lines(serve: Any, tmp_path: Path) -> None:
    serve("observation")
    wrong, out = tmp_path / "wrong.bin", tmp_path / "answers.jsonl"
    wrong.write_bytes(b"\xff\xfe garbage\n" * 10_000)
    with pytest.raises(UserError, match="None of the first 20 lines is an input of this model: "):
        predict.main("run", lines=[str(wrong)], out=str(out))
    assert not out.exists()
    wrong.write_bytes(b"x\n" * 19 + b"[1, 2]\n")  # few of them: each gets its row
    assert predict.main("run", lines=[str(wrong)], out=str(out)) == 1
    assert len(out.read_text().splitlines()) == 20
