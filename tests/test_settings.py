"""Settings that fit the data: what was not given is chosen by what the data are, and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.example import get
from common.training.run import Run
from common.tune.space import space_of
from tests import toy
from vision.train import TrainConfig, prepare


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A folder of 24 photos of two classes."""
    chance = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "photos" / ("day" if number % 2 else "night")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 128, (40, 40, 3)) + (100 if number % 2 else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return f"folder:{tmp_path / 'photos'}"


def arrays(tmp_path: Path, shape: tuple[int, ...], count: int = 100) -> str:
    chance, file = np.random.default_rng(0), tmp_path / "data.npz"
    splits: dict[str, Any] = {
        f"x_{part}": chance.integers(0, 255, (count, *shape), dtype=np.uint8) for part in ("train", "test")
    }
    np.savez(file, **splits, y_train=np.arange(count) % 4, y_test=np.arange(count) % 4)
    return f"npz:{file}"


def fitted(data: str) -> TrainConfig:
    config = TrainConfig(data=data).resolve()
    return config.fitted(prepare(config))


def test_a_folder_of_24_photos_trains_by_default(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(out=str(tmp_path / "runs"))
    run = Path(execute(get("vision.train"), options, {"data": photos, "epochs": 2, "size": "tiny"})["run"])
    said = capsys.readouterr().err
    kept = json.loads((run / "config.json").read_text())["config"]
    assert (kept["batch_size"], kept["model"]) == (4, "resnet")
    assert "settings   model resnet, size tiny, batch size 4, lr 0.008, epochs 2" in said
    assert "hint       --model torchvision/resnet18 --weights imagenet" in said


def test_only_a_batch_size_that_was_given_is_refused(photos: str, tmp_path: Path) -> None:
    options = Options(out=str(tmp_path / "runs"), quiet=True)
    with pytest.raises(UserError, match="--batch-size 64 is larger than the training data"):
        execute(get("vision.train"), options, {"data": photos, "batch_size": 64})
    assert not (tmp_path / "runs").exists()


def test_small_grey_images_are_taken_for_characters_and_never_mirrored(tmp_path: Path) -> None:
    config = fitted(arrays(tmp_path, (28, 28)))
    assert (config.model, config.flip, config.crop) == ("vgg", False, 2)


def test_small_coloured_images_are_taken_for_photos(tmp_path: Path) -> None:
    config = fitted(arrays(tmp_path, (32, 32, 3)))
    assert (config.model, config.flip) == ("resnet", True)


def test_little_data_gets_some_hundred_steps(tmp_path: Path, photos: str) -> None:
    for data, samples in ((arrays(tmp_path, (28, 28)), 88), (photos, 17)):
        config = fitted(data)
        assert config.batch_size is not None
        assert config.epochs is not None
        assert config.epochs * (samples // config.batch_size) >= 390


def test_what_was_said_is_left_alone(photos: str) -> None:
    config = TrainConfig(data=photos, epochs=3, batch_size=5, lr=0.1, flip=False, model="lenet").resolve()
    fit = config.fitted(prepare(config))
    assert (fit.epochs, fit.batch_size, fit.lr, fit.flip, fit.model) == (3, 5, 0.1, False, "lenet")


@pytest.mark.parametrize(
    ("samples", "given", "expected"), [(40, (), 10), (3, (), 1), (64, (), 64), (40, ("batch_size",), 64)]
)
def test_a_default_batch_larger_than_the_data_becomes_a_quarter_of_them(
    tmp_path: Path, samples: int, given: tuple[str, ...], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.ToyConfig()
    run = Run(tmp_path / "run", "tests.toy", config, given=given)
    settled = run.settle(config, samples=samples)
    assert settled.batch_size == run.config.batch_size == expected
    assert (f"batches of {expected} instead of 64" in capsys.readouterr().err) == (expected != 64)


def test_tuning_begins_with_the_settings_that_fit_the_data(photos: str) -> None:
    space = space_of(get("vision.train"), Options(), {"data": photos})
    assert (space.defaults["batch_size"], space.defaults["lr"]) == (4, 8e-3)
    elsewhere = space_of(get("vision.train"), Options(), {"data": "folder:only/there"})
    assert "lr" not in elsewhere.defaults
    assert "lr" in elsewhere.ranges


def test_a_default_batch_is_shared_equally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run", "tests.toy", toy.ToyConfig(), quiet=True)
    monkeypatch.setattr("common.machine.distributed.world", lambda: 3)
    assert run.settle(toy.ToyConfig(), samples=480).batch_size == 63


@pytest.mark.parametrize("name", ["nlp.classify", "generative.gan", "research.ladder", "rl.dqn"])
def test_every_example_says_its_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    class Enough(Exception):
        pass

    def settle(self: Run, config: Any, samples: int | None = None) -> Any:
        said.append(config.describe())
        raise Enough

    monkeypatch.setattr(Run, "settle", settle)
    with pytest.raises(Enough):
        execute(get(name), Options(tiny=True, quiet=True, out=str(tmp_path)), {})
    assert "batch size" in said[0]
