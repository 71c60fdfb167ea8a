"""generative.flow: its paths and samplers by hand, that it learns, and what a seed becomes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
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
from common.errors import UserError
from common.export.export import export
from common.report import frames
from common.training.run import Run
from generative import judge, quality
from generative.flow import __main__ as flow
from generative.flow import networks, paths
from generative.flow.paths import PATHS, Known, Way, walk
from tests.test_resume import Crash, assert_same_end, crash_after


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- paths and samplers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_a_right_prediction_gives_back_picture_and_noise(name: str) -> None:
    path = PATHS[name]
    picture, noise = numbers(3, 1, 4, 4).clamp(-1, 1), numbers(3, 1, 4, 4, seed=1)
    for time in (0.05, 0.5, 0.95):
        a, s = path.weights(torch.tensor(time))
        found = path.parts(a * picture + s * noise, time, path.target(picture, noise))
        assert torch.allclose(found[0], picture, atol=1e-4)
        assert torch.allclose(found[1], noise, atol=1e-4)


def exact(path: paths.Path, mean: float, std: float) -> paths.Denoise:
    """What a perfect network predicts where every pixel of the pictures is N(mean, std²), on its own."""

    def denoise(x: Tensor, time: float) -> Tensor:
        a, s = (float(weight) for weight in path.weights(torch.tensor(time)))
        pull = a * std**2 / (a**2 * std**2 + s**2)
        picture = mean + pull * (x - a * mean)
        return path.target(picture, (x - a * picture) / max(s, 1e-6))

    return denoise


@pytest.mark.parametrize(("name", "sampler"), [(n, s) for n, known in paths.SAMPLERS.items() for s in known])
def test_every_sampler_draws_from_a_known_distribution(name: str, sampler: str) -> None:
    drawn = list(walk(PATHS[name], exact(PATHS[name], 0.2, 0.1), numbers(200, 1, 8, 8), Way(sampler, 100)))
    assert len(drawn) == 100
    assert drawn[-1].points.mean().item() == pytest.approx(0.2, abs=0.01)
    assert drawn[-1].points.std().item() == pytest.approx(0.1, abs=0.02)


def test_heun_is_of_second_order() -> None:
    path, noise = PATHS["flow"], numbers(50, 1, 4, 4)

    def ends(sampler: str, steps: int) -> Tensor:
        return list(walk(path, exact(path, 0.2, 0.3), noise, Way(sampler, steps)))[-1].points

    truth = 0.2 + 0.3 * noise  # the flow between two Gaussians is linear
    errors = {s: float((ends(s, 20) - truth).abs().max()) for s in ("euler", "heun")}
    assert errors["heun"] < errors["euler"] / 3


def test_what_is_kept_of_a_picture_stays_and_less_strength_stays_nearer() -> None:
    path, picture = PATHS["flow"], torch.full((1, 4, 4), 0.9)
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1

    def painted(known: Known) -> Tensor:
        return list(walk(path, exact(path, 0.0, 0.1), numbers(1, 1, 4, 4), Way("heun", 10), known))[-1].points[0]

    half = painted(Known(picture, mask, 0.0))
    assert torch.equal(half[:, :2], picture[:, :2])
    assert half[:, 2:].abs().max() < 0.5
    little, much = (painted(Known(picture, torch.zeros(1, 4, 4), start)) for start in (0.95, 0.2))
    assert (little - picture).abs().mean() < (much - picture).abs().mean()


def test_ancestral_noise_is_a_samples_own() -> None:
    noise = numbers(3, 1, 4, 4)
    path = PATHS["ddpm"]
    ask = partial(walk, path, exact(path, 0.0, 0.3), way=Way("ddpm", 5))
    whole, alone = list(ask(noise=noise))[-1].points, list(ask(noise=noise[1:2]))[-1].points
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(list(ask(noise=noise + 1))[-1].points, whole)


# --- network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", networks.SIZES)
@pytest.mark.parametrize(("side", "channels", "classes"), [(8, 1, 3), (32, 3, 0), (64, 1, 0)])
def test_shapes(size: str, side: int, channels: int, classes: int) -> None:
    network = networks.UNet(channels, classes, side, size)
    labels = [torch.tensor([0, classes])] if classes else []
    out = network((numbers(2, channels, side, side), torch.rand(2), *labels))
    assert out.shape == (2, channels, side, side)
    assert not out.any(), "before training it predicts nothing"
    assert side % networks.step_of(side, size) == 0


def test_the_times_of_a_batch_are_spread_and_the_noise_is_that_of_the_step() -> None:
    data = flow.load_data("synthetic", None, 8)
    noising = flow.Noising(data, PATHS["ddpm"], True, 0.5)
    pixels = quality.take(data.train, torch.arange(64))
    (x, time, labels), target = noising(pixels, data.train.targets[:64])
    assert torch.equal((time * 64).long().sort().values, torch.arange(64)), "one time in each 64th"
    assert set(labels.tolist()) > {len(data.classes)}, "some classes are hidden"
    a, s = (weight[:, None, None, None] for weight in PATHS["ddpm"].weights(time))
    picture = flow.image_input(data).normalize(pixels)
    assert torch.allclose(x, a * picture + s * target, atol=1e-5)


# --- learning --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    """Evaluations of 60 samples: enough for shapes, and no wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "SAMPLES", (60, 1000))
        patch.setattr(flow, "LOOK", 60)
        patch.setattr("generative.flow.views.FEW", 40)
        yield


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """160 images of two classes, the left or the right half bright: learnt in seconds."""
    labels = np.arange(160) % 2
    left = (np.arange(8) < 4)[None, None, :] == (labels == 0)[:, None, None]
    shades = np.random.default_rng(0).integers(170, 256, (160, 1, 1))
    pixels = (np.broadcast_to(left, (160, 8, 8)) * shades).astype(np.uint8)
    parts = {"train": slice(0, 96), "valid": slice(96, 120), "test": slice(120, 160)}
    arrays: dict[str, Any] = {
        f"{axis}_{name}": v[part] for name, part in parts.items() for axis, v in (("x", pixels), ("y", labels))
    }
    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    np.savez(path, **arrays, classes=np.array(["left", "right"]))
    return f"npz:{path}"


def tiny(out: Path, shapes: str, resume: bool = False, **said: Any) -> Path:
    """Runs `--tiny` on the shapes, on the CPU; returns the folder of the run."""
    options = Options(out=str(out), tiny=True, quiet=True, resume="latest" if resume else None)
    usual = {"device": "cpu", "data": shapes, "image_size": 8, "batch_size": 16, "epochs": 2}
    return Path(execute(flow.example, options, {**usual, **said})["run"])


@pytest.fixture(scope="module", params=PATHS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shapes: str) -> Path:
    said: dict[str, Any] = {
        "objective": request.param,
        "epochs": {"flow": 25, "ddpm": 60}[request.param],
        "lr": 4e-3,
        "ema": 0.9,
    }
    return tiny(
        tmp_path_factory.mktemp(request.param),
        shapes,
        **said,
        steps=8,
        sampler=next(iter(paths.SAMPLERS[request.param])),
    )


def test_it_makes_the_class_that_was_asked_for(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())["metrics"]
    assert result["class_accuracy"] > 0.9
    assert result["modes"] == 2
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val_loss"] for line in logged if "val_loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def picture(row: dict[str, Any]) -> Tensor:
    return frames.read_png(base64.b64decode(row["png"]))


def test_a_seed_is_a_picture_alone_in_a_batch_and_after_loading(trained: Path) -> None:
    predictor = flow.load(artifact.load(trained))
    asked = [b"7", b'{"seed": 8, "class": "right", "guidance": 2}', b'{"seed": 7, "class": "right"}']
    wishes = [predictor.input.decode(content) for content in asked]
    rows = predictor.predict(wishes)
    assert [(row["seed"], row["class"]) for row in rows] == [(7, "right"), (8, "right"), (7, "right")]
    assert rows[0] == rows[2]
    assert [predictor.predict([wish])[0] for wish in wishes] == rows
    assert flow.load(artifact.load(trained)).predict(wishes[::-1]) == rows[::-1]
    assert picture(rows[0]).shape == (1, 8, 8)
    latent = json.dumps({"latent": wishes[0].latent.tolist(), "class": "right"}).encode()
    assert predictor.predict([predictor.input.decode(latent)])[0]["png"] == rows[0]["png"]


def test_the_way_is_shown_step_by_step_and_in_a_file(trained: Path) -> None:
    predictor = flow.load(artifact.load(trained))
    (row,) = predictor.predict([predictor.input.decode(b'{"seed": 1, "class": "left", "steps": 5, "path": true}')])
    assert len(row["path"]) == 5
    assert picture(row)[0, :, :4].float().mean() > 100 > picture(row)[0, :, 4:].float().mean()
    files = predictor.answer.files(row)
    assert {key: suffix for key, (suffix, _) in files.items()} == {"png": ".png", "path": ".gif"}
    assert files["path"][1].startswith(b"GIF8")


def test_a_picture_is_repainted_where_it_is_not_kept(trained: Path) -> None:
    predictor = flow.load(artifact.load(trained))
    image, keep = torch.full((1, 8, 8), 200, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    keep[:, :4] = 255
    files = {key: base64.b64encode(frames.png(x)).decode() for key, x in (("from", image), ("keep", keep))}
    (row,) = predictor.predict([predictor.input.decode(json.dumps({"seed": 1, "class": "left", **files}).encode())])
    assert torch.equal(picture(row)[:, :4], image[:, :4])
    assert not torch.equal(picture(row)[:, 4:], image[:, 4:])


def test_an_export_draws_the_same_pictures(trained: Path) -> None:
    folder, _ = export(trained, "torch-export", "none", None)
    wishes = [flow.load(artifact.load(trained)).input.decode(str(seed).encode()) for seed in range(4)]
    ours, theirs = (flow.load(artifact.load(path)).predict(wishes) for path in (trained, folder))
    for a, b in zip(ours, theirs, strict=True):
        assert (picture(a).int() - picture(b).int()).abs().max() <= 1


def test_what_is_no_wish_is_named(trained: Path) -> None:
    read = flow.load(artifact.load(trained)).input.decode
    for content, text in (
        (b"seven", "The seed"),
        (b'{"seed": 1, "step": 3}', "unknown key 'step'"),
        (b'{"seed": 1, "steps": 0}', "has 0 steps; it must be a whole number from 1 to 1000"),
        (b'{"seed": 1, "guidance": -1}', "has the guidance -1; it must be 0 to 20"),
        (b'{"seed": 1, "class": "up"}', "unknown class 'up'"),
        (b'{"latent": [1, 2]}', "does not hold|has the shape"),
        (b'{"seed": 1, "strength": 0.5}', "strength belongs to a picture"),
        (b'{"seed": 1, "from": "photo.png"}', "from is no image file in base64"),
        (b'{"seed": 1, "from": "AAAA"}', "from is not an image"),
        (b'{"seed": 1, "path": 3}', "path is 3; it must be true or false"),
    ):
        with pytest.raises(UserError, match=text):
            read(content)


def test_the_report_shows_the_way(trained: Path) -> None:
    report = (trained / "report.html").read_text()
    titles = ("Samples", "From noise to picture", "Nearest training images", "Loss by time", "Guidance")
    for title in titles:
        assert f"<h2>{title}</h2>" in report


@pytest.mark.parametrize("objective", PATHS)
def test_a_crash_changes_no_bit(tmp_path: Path, shapes: str, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {"objective": objective, "checkpoint_seconds": 0.0}
    whole = tiny(tmp_path / "whole", shapes, **said)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash_after(8, Run.log))
        with pytest.raises(Crash):
            tiny(tmp_path / "cut", shapes, **said)
    monkeypatch.setattr(quality, "train_classifier", None)  # it is there already
    assert_same_end(whole, tiny(tmp_path / "cut", shapes, resume=True, **said))


def test_without_classes(tmp_path: Path, shapes: str) -> None:
    run = tiny(tmp_path, shapes, conditional=False)
    predictor = flow.load(artifact.load(run))
    (row,) = predictor.predict([predictor.input.decode(b"7")])
    assert row.keys() == {"seed", "png"}
    with pytest.raises(UserError, match="asks for guidance, but this model was trained without classes"):
        predictor.input.decode(b'{"seed": 7, "guidance": 2}')


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Callable[..., str]:
    """The error text of arguments that are a mistake."""
    return partial(refusal, flow.example)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sampler", "ddim"], "error: --sampler ddim: --objective flow has none such.\nUse heun or euler."),
        (
            ["--guidance", "2", "--no-conditional"],
            "error: --guidance asks for a class, and --no-conditional knows none.",
        ),
        (["--guidance", "2", "--class-dropout", "0"], "error: --guidance needs a network that also knows pictures"),
        (["--steps", "0"], "error: --steps is 0; it must be at least 1."),
        (
            ["--image-size", "30"],
            "error: --image-size 30: the network halves it, down to whole pixels.\nUse a multiple",
        ),
        (["--inception", "no.pth"], "error: --inception no.pth: no such file."),
    ],
)
def test_a_mistake_is_named(refused: Callable[..., str], arguments: list[str], text: str) -> None:
    assert refused(*arguments).startswith(text)
