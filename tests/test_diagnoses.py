"""What is wrong with a file of the user's is said as it is: where, what, and what to do."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.images.arrays import npz
from common.data.texts.sources import load_texts
from common.errors import UserError
from vision import models

CHANCE = random.Random(0)
WORDS = ["".join(CHANCE.choices("abcdefghij", k=6)) for _ in range(900)]  # texts that are alike would count as one
SENTENCES = [" ".join(["begin", *WORDS[15 * n : 15 * n + 15], "end"]) for n in range(60)]
GOOD = "text,label\n" + "".join(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(SENTENCES))
EMPTY = "text,label\n" + "".join(f",{'ab'[n % 2]}\n" for n in range(120))


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros(3))
    return file.getvalue()


TEXTS: dict[str, tuple[str, bytes, str]] = {
    "an npz": ("a.csv", archive(), "is a ZIP archive, such as .npz or .xlsx, not a text file"),
    "gzip": ("a.csv", gzip.compress(GOOD.encode()), "is packed by gzip"),
    "UTF-16": ("a.csv", GOOD.encode("utf-16"), "is UTF-16"),
    "Latin-1": ("a.csv", "text,label\ncaf\xe9,a\n".encode("latin-1"), "line 2 is not UTF-8"),
    "a NUL byte": ("a.csv", GOOD.replace(SENTENCES[7], "x\0y").encode(), "line 9 holds a NUL byte"),
    "two columns of one name": ("a.csv", b"text,label,text\na,b,c\n", "two columns called 'text'"),
    "empty texts": ("a.csv", EMPTY.encode(), "120 of 120 texts in column 'text' are empty"),
    "nothing": ("a.csv", b"", "is empty"),
    "a header only": ("a.csv", b"text,label\n", "has no rows in column 'label'"),
    "an open quote": ("a.csv", b'text,label\n"never closed,a\nmore,b\n', "line 2: a quote that opens here"),
    "one class": ("a.csv", GOOD.replace(",b\n", ",a\n").encode(), "only one class, 'a'"),
    "JSON that is none": ("a.jsonl", b'{"text": "x", "label": 1}\nnonsense\n', "line 2 is not JSON"),
    "JSON that is no object": ("a.jsonl", b"[1, 2]\n", "line 1 is no JSON object"),
    "JSON without a key": ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "y"}\n', "line 2 has no 'label'"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_of_texts_is_diagnosed(name: str, tmp_path: Path) -> None:
    file, content, expected = TEXTS[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_texts(f"csv:{tmp_path / file}", seed=0)
    assert expected in error.value.what
    assert str(tmp_path / file) in error.value.what


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Can't read"):
        load_texts(f"csv:{tmp_path}", seed=0)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_usual_separator_is_read(separator: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbf" + GOOD.replace(",", separator).replace("\n", "\r\n").encode())
    data = load_texts(f"csv:{tmp_path / 'a.tsv'}", seed=0)
    assert data.classes == ["a", "b"]
    assert all(text.startswith("begin") and text.endswith("end") for text in data.train.texts)


def test_json_lines_are_read(tmp_path: Path) -> None:
    lines = [f'{{"label": {n % 2}, "text": "{text}, and more"}}\n' for n, text in enumerate(SENTENCES)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    data = load_texts(f"csv:{tmp_path / 'a.jsonl'}", seed=0)
    assert data.classes == ["0", "1"]
    assert data.train.texts[0].endswith(", and more")


def arrays(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {f"x_{part}": np.zeros((20, 8, 8), np.float32) for part in ("train", "test")}
    content |= {f"y_{part}": np.arange(20) % 2 for part in ("train", "test")}
    return content | changes


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        ({"x_train": np.full((20, 8, 8), np.nan)}, "holds 1,280 values that are NaN or infinite", "Mend them"),
        ({"x_train": np.full((20, 8, 8), 7.0)}, "floats outside 0 to 1", "Scale them"),
        ({"y_train": np.arange(20) % 2 - 1}, "has the label -1", "a negative label marks what has none"),
        ({"y_train": np.arange(19) % 2}, "has the shape [19], but x_train has 20 images", ""),
        ({f"y_{part}": np.zeros(20, np.int64) for part in ("train", "test")}, "has only one class", ""),
        ({"x_train": np.zeros((20, 8))}, "has the shape [20, 8]", "Images are [N, H, W]"),
    ],
    ids=["nan", "scale", "label", "count", "class", "shape"],
)
def test_an_npz_is_diagnosed(changes: dict[str, Any], what: str, hint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(UserError) as error:
        npz(tmp_path / "a.npz", None, None, 0, None)
    assert what in error.value.what
    assert hint in error.value.hint


def test_a_name_of_torchvision_far_from_all_gets_examples() -> None:
    with pytest.raises(UserError) as error:
        models.check_name("torchvision/nonsense")
    assert error.value.hint == models.EXAMPLES
    with pytest.raises(UserError) as error:
        models.check_name("torchvision/resnt18")
    assert error.value.hint == "Did you mean torchvision/resnet18?"
