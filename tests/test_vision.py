"""vision.train: it learns, repeats its numbers, survives a crash with everything on, and names mistakes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.data.images.sources import load_images
from common.errors import UserError
from common.kinds.image import ImageInput
from common.training.run import Run
from tests.helpers import ROOT, environment, final_weights, mistake, only_run, python, same
from tests.image_helpers import picture
from tests.test_resume import Crash, assert_same_end, crash_after
from vision import models, train

# The first three losses of `--tiny --seed 0 --precision fp32`. A change that is not meant to touch the numbers
# leaves them alone; one that is meant to says so and records them anew.
GOLDEN = {
    "lenet": (2.275324, 2.302509, 2.344880),
    "alexnet": (2.356667, 2.276723, 2.273822),
    "vgg": (4.619195, 3.146691, 4.010267),
    "resnet": (2.433615, 2.330964, 2.344173),
    "inception": (2.336916, 2.335754, 2.325194),
    "densenet": (2.290626, 2.350482, 2.320800),
    "efficientnet": (2.326178, 2.299746, 2.364739),
    "mobilenet": (2.391412, 2.324164, 2.260245),
    "vit": (2.556276, 2.278965, 2.279162),
}
EVERYTHING = {
    "randaugment": 5, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "ema": 0.9, "accumulate": 2, "clip": 0.5,
    "flip": True, "crop": 2, "rotate": 10.0, "zoom": 0.3, "schedule": "cosine", "epochs": 2,
}  # fmt: skip
Refused = Callable[..., str]


def tiny(out: Path, resume: bool = False, **said: Any) -> Path:
    """Runs `--tiny` with settings, on the CPU; returns the folder of the run."""
    options = Options(out=str(out), tiny=True, quiet=True, resume="latest" if resume else None)
    return Path(execute(train.example, options, {"device": "cpu", **said})["run"])


def measured(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "result.json").read_text())["metrics"]
    return metrics


# --- learning ----------------------------------------------------------------------------------------------


def test_it_learns_nearly_all_that_can_be_learnt(tmp_path: Path) -> None:
    best = load_images("synthetic").best_accuracy
    accuracy = measured(tiny(tmp_path, precision="fp32"))["accuracy"]
    assert best == 0.95
    assert 0.85 <= accuracy <= best, "more than the best that is possible: the test labels have leaked"


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    data = load_images("synthetic")
    arrays: dict[str, Any] = {}
    for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        pixels = split.in_memory()
        assert pixels is not None
        arrays |= {f"x_{name}": pixels.numpy(), f"y_{name}": split.targets.numpy()}
    shuffle = np.random.default_rng(0).permutation
    shuffled = arrays | {name: shuffle(arrays[name]) for name in ("y_train", "y_valid")}
    accuracies = {}
    for name, content in (("true", arrays), ("shuffled", shuffled)):
        np.savez(tmp_path / f"{name}.npz", **content)
        said: dict[str, Any] = {
            "data": f"npz:{tmp_path / name}.npz",
            "model": "vgg",
            "epochs": 8,
            "batch_size": 16,
            "lr": 1e-2,
            "flip": False,
            "crop": 0,
            "label_smoothing": 0.0,
        }
        accuracies[name] = measured(tiny(tmp_path / name, **said))["accuracy"]
    assert accuracies["true"] >= 0.85
    assert accuracies["shuffled"] <= 0.25


# --- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_family_trains_with_its_golden_losses_and_comes_back_with_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    seen: list[Tensor] = []
    test = train.test

    def noted(*arguments: Any) -> Any:
        metrics, logits = test(*arguments)
        seen.append(logits)
        return metrics, logits

    monkeypatch.setattr(train, "test", noted)
    steps: list[float] = []
    log = Run.log

    def note_loss(self: Run, **values: Any) -> None:
        steps.append(float(values["loss"]))
        log(self, **values)

    monkeypatch.setattr(Run, "log", note_loss)
    folder = tiny(tmp_path, model=family, epochs=1, precision="fp32")
    assert steps[:3] == pytest.approx(GOLDEN[family], rel=1e-3)

    saved = artifact.load(folder)
    images = load_images("synthetic").test.in_memory()
    assert images is not None
    with torch.inference_mode():
        logits = train.load_model(saved)(ImageInput.from_json(saved.inputs).normalize(images))
    # Batches of another size and layout are summed in another order.
    assert torch.allclose(logits, seen[0], rtol=1e-4, atol=1e-5)
    again = train.evaluate(saved, train.TrainConfig().with_values(saved.config)).values
    assert again["accuracy"] == measured(folder)["accuracy"]
    assert again == pytest.approx(measured(folder), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_everything_on_a_crash_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    said: dict[str, Any] = EVERYTHING | {"precision": precision, "checkpoint_seconds": 0.0}
    whole = tiny(tmp_path / "whole", **said)
    resume = False
    for steps in (9, 20):  # in the middle of the first epoch, then of the second
        with monkeypatch.context() as patch:
            patch.setattr(Run, "log", crash_after(steps, Run.log))
            with pytest.raises(Crash):
                tiny(tmp_path / "cut", resume, **said)
        resume = True
    cut = tiny(tmp_path / "cut", resume, **said)
    assert json.loads((cut / "config.json").read_text())["config"]["precision"] == precision
    assert_same_end(whole, cut)


def test_frozen_weights_and_statistics_stay_as_they_were_given(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    given = torchvision.models.resnet18(num_classes=7).state_dict()  # another head, which must be replaced
    torch.save(given, tmp_path / "given.pt")
    said: dict[str, Any] = {
        "model": "torchvision/resnet18",
        "weights": str(tmp_path / "given.pt"),
        "freeze": True,
        "image_size": 32,
    }
    folder = tiny(tmp_path, epochs=1, batch_size=100, **said)
    trained = final_weights(folder)
    changed = {name for name in given if not same(given[name], trained[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert trained["fc.weight"].shape == (10, 512)
    (tmp_path / "given.pt").unlink()
    train.load(artifact.load(folder))  # the artifact needs the file no more


# --- folders -----------------------------------------------------------------------------------------------


def test_two_runs_in_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2030, 1, 2, 3, 4, 5)

    folders = []
    prepare = train.prepare

    def meanwhile(config: train.TrainConfig) -> Any:
        """Data is read after a run has chosen its name and before it makes its folder: another run comes between."""
        monkeypatch.setattr(train, "prepare", prepare)
        folders.append(tiny(tmp_path, model="lenet", epochs=1, seed=2))
        return prepare(config)

    monkeypatch.setattr("common.training.folders.datetime", Stopped)
    monkeypatch.setattr(train, "prepare", meanwhile)
    folders.append(tiny(tmp_path, model="lenet", epochs=1, seed=1))
    name = "20300102-030405-lenet-synthetic"
    assert [folder.name for folder in folders] == [name, f"{name}-2"]
    assert [json.loads((f / "result.json").read_text())["seed"] for f in folders] == [2, 1]


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Refused:
    """The error text of arguments that are a mistake."""
    return partial(refusal, train.example)


def test_a_mistake_in_a_fresh_process(tmp_path: Path) -> None:
    process = python("-m", "vision.train", "--model", "resnt", "--out", tmp_path / "runs")
    assert mistake(process) == "error: --model resnt: unknown.\nDid you mean resnet?"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "torchvision/resnt18"], "error: torchvision has no classifier 'resnt18'.\nDid you mean "),
        (["--data", "digit"], "error: --data digit: unknown.\nDid you mean digits?"),
        (["--data", "npz:no.npz"], "error: no.npz does not exist"),
        (["--size", "smal"], "error: --size smal: unknown.\nDid you mean small?"),
        (["--image-size", "8"], "error: --image-size is 8; it must be at least 28."),
        (["--tiny", "--batch-size", "401"], "error: --batch-size 401 is larger than the training data (400 samples)."),
        (["--freeze"], "error: --freeze trains only the last layer; the others need --weights."),
        (["--weights", "no.pt"], "error: --weights no.pt: no such file."),
        (["--model", "vgg", "--weights", "imagenet"], "error: --weights imagenet: there are none for vgg."),
        (["--tiny", "--weights", "imagenet"], "error: --weights imagenet: there are none for vgg."),
        (["--tiny", "--model", "torchvision/resnet18"], "error: torchvision/resnet18 needs images of at least 32 px"),
        (["--mixup", "nan"], "error: --mixup is nan; it must be a finite number."),
    ],
)
def test_a_mistake_is_named(refused: Refused, arguments: list[str], text: str) -> None:
    assert refused(*arguments).startswith(text)


def test_folders_without_or_with_broken_pictures_are_named(tmp_path: Path, refused: Refused) -> None:
    empty, photos = tmp_path / "empty", tmp_path / "photos"
    empty.mkdir()
    assert str(empty) in refused("--data", f"folder:{empty}")
    for number in range(20):
        file = photos / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
    file.write_bytes(file.read_bytes()[:400])
    assert refused("--data", f"folder:{photos}", "--size", "tiny").startswith(f"error: {file} is damaged")


def test_pickled_objects_are_refused(tmp_path: Path, refused: Refused) -> None:
    pixels = np.zeros((4, 28, 28), np.uint8)
    labels = np.array([0, 1, 0, None], dtype=object)
    np.savez(tmp_path / "objects.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    error = refused("--data", f"npz:{tmp_path / 'objects.npz'}")
    assert "holds pickled Python objects" in error


def test_imagenet_weights_without_a_network(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        (tmp_path / "hub" / "checkpoints").rmdir()  # which torch.hub makes before it asks the network
        (tmp_path / "hub").rmdir()
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    arguments = ["--tiny", "--image-size", "32", "--model", "torchvision/resnet18", "--weights", "imagenet"]
    error = refused(*arguments)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in error
    assert "--weights none" in error


def test_a_run_is_not_resumed_as_another(tmp_path: Path, refused: Refused) -> None:
    folder = tiny(tmp_path / "runs", model="lenet", epochs=1)
    error = refused("--resume", folder, "--model", "vgg")
    assert error.startswith(f"error: --resume: {folder} was made with --model lenet, not vgg.\nDrop that flag")
    assert refused("--resume", tmp_path).startswith(f"error: --resume {tmp_path}: there is no run there")


def limited(size: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m vision.train ARGUMENTS` where no file may grow over `size` bytes: a disk that becomes full."""
    return subprocess.run(
        [sys.executable, "-m", "vision.train", *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.parametrize("size", [40_000, 100_352])  # where torch.save says OSError, and where it says RuntimeError
def test_a_disk_too_small_for_a_checkpoint_is_one_line_and_nothing_is_left(tmp_path: Path, size: int) -> None:
    process = limited(size, "--tiny", "--model", "lenet", "--epochs", "1", "--quiet", "--out", tmp_path / "runs")
    error = mistake(process)
    assert process.stderr.strip() == error, "nothing but the error"
    assert error.startswith(f"error: Can't write {tmp_path}")
    assert "the file would be larger than allowed" in error
    assert not list(tmp_path.iterdir())


def test_a_disk_too_small_for_the_report_keeps_the_run_which_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, (before, most) = artifact.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_and_fill(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, most))

    monkeypatch.setattr(artifact, "save", save_and_fill)
    try:
        with pytest.raises(UserError, match=r"Can't write .*report\.html: the file would be larger than allowed"):
            tiny(tmp_path / "cut", epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    monkeypatch.undo()
    folder = only_run(tmp_path / "cut", "vision.train")
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "report.html").exists()
    assert not (folder / "result.json").exists()
    assert tiny(tmp_path / "cut", resume=True, epochs=1) == folder
    assert_same_end(tiny(tmp_path / "whole", epochs=1), folder)
