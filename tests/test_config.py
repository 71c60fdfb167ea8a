"""One dataclass is the command line, the JSON and the bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.config import read_json
from common.errors import UserError, nearest
from tests.toy import ToyConfig


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"lr": 0.0}, "--lr is 0.0; it must be above 0"),
        ({"lr": -1e-3}, "--lr is -0.001; it must be above 0"),
        ({"lr": float("nan")}, "--lr is nan; it must be a finite number"),
        ({"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
        ({"ema": 1.5}, "--ema is 1.5; it must be at most 0.9999"),
        ({"schedule": "cosin"}, "--schedule cosin: unknown.\nDid you mean cosine?"),
        ({"device": "cuda:"}, "--device cuda:: unknown"),
        ({"epoch": 3}, "Unknown setting 'epoch'.\nDid you mean epochs?"),
        ({"epochs": "3"}, "--epochs is '3'; it must be a whole number"),
        ({"epochs": True}, "--epochs is True; it must be a whole number"),
        ({"streamed": 1}, "--streamed is 1; it must be true or false"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, object], text: str) -> None:
    with pytest.raises(UserError) as error:
        ToyConfig().with_values(values)
    assert str(error.value).startswith(text)


def test_values_are_taken_as_they_are_meant() -> None:
    config = ToyConfig().with_values({"batch-size": 8, "lr": 1, "device": "cuda:3", "data_dir": None})
    assert (config.batch_size, config.lr, config.device, config.data_dir) == (8, 1.0, "cuda:3", None)
    assert isinstance(config.lr, float)


def test_json_round_trip_gives_the_same_config() -> None:
    config = ToyConfig(lr=3e-4, ema=0.99, epochs=7)
    assert ToyConfig().with_values(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("content", "text"), [(b"{", "not valid JSON: line 1"), (b"[1]", "holds a list"), (b"\xff", "is not text")]
)
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=text):
        read_json(path)
    with pytest.raises(UserError, match="There is no file"):
        read_json(tmp_path / "other.json")


def test_nearest_names_one_or_all() -> None:
    assert nearest("resnt", ["resnet", "vgg"]) == "Did you mean resnet?"
    assert nearest("xyz", ["resnet", "vgg"]) == "Choose one of: resnet, vgg."
