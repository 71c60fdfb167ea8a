"""generative.gan: its losses by hand, its networks against plain ones, that it learns, and what it answers."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.report import frames
from common.training.run import Run
from generative import gallery, judge, quality
from generative.gan import __main__ as gan
from generative.gan import losses
from generative.gan.networks import SIZES, Discriminator, Generator
from generative.layers import UpConv2d
from tests.helpers import final_weights, same
from tests.test_resume import Crash, assert_same_end, crash_after


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


# --- losses ------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """logit = a · Σ x² + b · Σ x, whose gradient 2 a x + b is known."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        result: Tensor = self.a * x.flatten(1).square().sum(1) + self.b * x.flatten(1).sum(1)
        return result


def test_gradient_penalty_of_a_critic_with_a_known_gradient() -> None:
    real, fake = images(4, 0), images(4, 1)
    mix = torch.tensor([0.0, 0.3, 0.5, 1.0]).view(4, 1, 1, 1)
    critic = Quadratic(0.25, -0.5)
    penalty = losses.gradient_penalty(critic, real, fake, None, mix)
    between = mix * real + (1 - mix) * fake
    lengths = (2 * 0.25 * between - 0.5).flatten(1).norm(dim=1)
    assert penalty.item() == pytest.approx((lengths - 1).square().mean().item(), rel=1e-5)

    # Its own gradient, through the gradient, against finite differences.
    penalty.backward()
    assert critic.a.grad is not None
    step = 1e-3
    up, down = (
        losses.gradient_penalty(Quadratic(0.25 + d, -0.5).double(), real.double(), fake.double(), None, mix.double())
        for d in (step, -step)
    )
    assert critic.a.grad.item() == pytest.approx((up - down).item() / (2 * step), rel=1e-3)


def test_r1_and_r2_are_the_squared_gradients_of_real_and_fake_images() -> None:
    real, fake = images(3, 0), images(3, 1)
    critic = Quadratic(0.5, 0.1)
    no_mix = torch.zeros(3, 1, 1, 1)
    parts = losses.discriminator_loss("r3gan", critic, real, fake, None, penalty=4.0, mix=no_mix, autocast=nullcontext)
    r1, r2 = ((x + 0.1).flatten(1).square().sum(1).mean() for x in (real, fake))
    assert parts["penalty"].item() == pytest.approx((r1 + r2).item(), rel=1e-5)
    pairs = F.softplus(critic(fake) - critic(real)).mean()
    assert parts["loss"].item() == pytest.approx((pairs + 4.0 / 2 * (r1 + r2)).item(), rel=1e-5)


def test_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])
    log = math.log1p

    def both(name: str) -> tuple[float, float]:
        objective = losses.OBJECTIVES[name]
        return objective.discriminator(real, fake).item(), objective.generator(real, fake).item()

    # −log σ(real) − log(1 − σ(fake)) and −log σ(fake), means of two
    saturating = (log(math.exp(-2)) + log(1) + log(math.e) + log(math.exp(3))) / 2
    assert both("dcgan") == pytest.approx((saturating, (log(math.exp(-1)) + log(math.exp(-3))) / 2))
    assert both("wgan-gp") == pytest.approx((2 - 1, -2))
    # pairs (2, 1) and (0, 3): −log σ(real − fake), and the same with the two exchanged
    pairs = (log(math.exp(-1)) + log(math.exp(3))) / 2, (log(math.exp(1)) + log(math.exp(-3))) / 2
    assert both("r3gan") == pytest.approx(pairs)


def test_wgan_gp_adds_its_penalty_to_the_difference_of_means() -> None:
    real, fake, mix = images(5, 0), images(5, 1), torch.rand(5, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    critic = Quadratic(0.3, 0.2)
    parts = losses.discriminator_loss("wgan-gp", critic, real, fake, None, penalty=10.0, mix=mix, autocast=nullcontext)
    wasserstein = critic(real).mean() - critic(fake).mean()
    penalty = losses.gradient_penalty(critic, real, fake, None, mix)
    assert parts["wasserstein"].item() == pytest.approx(wasserstein.item(), rel=1e-5)
    assert parts["loss"].item() == pytest.approx((10 * penalty - wasserstein).item(), rel=1e-5)


@pytest.mark.parametrize("name", losses.OBJECTIVES)
def test_the_generator_learns_from_its_fakes_alone(name: str) -> None:
    real, fake = images(4, 0).requires_grad_(), images(4, 1).requires_grad_()
    losses.generator_loss(name, Quadratic(0.1, 0.3), real, fake, None, nullcontext).backward()
    assert real.grad is None
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0


# --- networks ----------------------------------------------------------------------------------------------


def test_the_folded_convolution_is_doubling_and_convolution() -> None:
    torch.manual_seed(0)
    layer = UpConv2d(5, 7).double()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), layer.weight, layer.bias, padding=1)
    upstream = torch.randn_like(plain)
    inputs = (x, layer.weight)
    expected = torch.autograd.grad(plain, inputs, upstream)
    folded = layer(x)
    assert torch.allclose(folded, plain, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(folded, inputs, upstream), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("classes", "channels"), [(0, 1), (4, 3)])
def test_shapes_and_ranges(size: str, norm: bool, classes: int, channels: int) -> None:
    torch.manual_seed(0)
    generator = Generator(20, classes, channels, SIZES[size][0], norm)
    discriminator = Discriminator(classes, channels, SIZES[size][1], norm)
    labels = torch.arange(3) if classes else None
    made = generator(torch.randn(3, 20, 1, 1), labels)
    assert made.shape == (3, channels, 32, 32)
    assert made.abs().max() <= 1
    assert made.std() > 0.005, "an image without contrast teaches a discriminator nothing"
    assert discriminator(made, labels).shape == (3,)


# --- learning ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    """Evaluations of 60 samples: enough for shapes, and no wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "SAMPLES", (60, 1000))
        patch.setattr(gan, "LOOK", 60)
        yield


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """160 images of two classes, a bright disc or a bright frame: learnt in seconds."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] - 15.5
    labels = np.arange(160) % 2
    discs = np.hypot(x, y) < 8
    border = np.maximum(abs(x), abs(y)) > 12
    shades = generator.integers(150, 256, (160, 1, 1))
    pixels = (np.where(labels[:, None, None] == 0, discs, border) * shades).astype(np.uint8)
    parts = {"train": slice(0, 96), "valid": slice(96, 120), "test": slice(120, 160)}
    arrays: dict[str, Any] = {
        f"{axis}_{name}": v[part] for name, part in parts.items() for axis, v in (("x", pixels), ("y", labels))
    }
    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    np.savez(path, **arrays, classes=np.array(["disc", "frame"]))
    return f"npz:{path}"


def tiny(out: Path, shapes: str, resume: bool = False, **said: Any) -> Path:
    """Runs `--tiny` on the shapes, on the CPU; returns the folder of the run."""
    options = Options(out=str(out), tiny=True, quiet=True, resume="latest" if resume else None)
    return Path(execute(gan.example, options, {"device": "cpu", "data": shapes, "batch_size": 16, **said})["run"])


def measured(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "result.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize("loss", losses.OBJECTIVES)
def test_it_learns(tmp_path: Path, shapes: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    log_now = Run.log_now

    def note(self: Run, **values: float) -> None:
        seen.append(values["val_frechet_distance"])
        log_now(self, **values)

    monkeypatch.setattr(Run, "log_now", note)
    fast: dict[str, Any] = {"lr": 2e-3, "discriminator_lr": 1e-3, "discriminator_steps": 1}
    metrics = measured(tiny(tmp_path, shapes, loss=loss, epochs=16, **fast))
    assert len(seen) == 16
    assert seen[-1] < 0.6 * seen[0]
    assert metrics["frechet_floor"] < metrics["frechet_distance"]
    assert metrics["modes"] == 2


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory, shapes: str) -> Path:
    return tiny(
        tmp_path_factory.mktemp("conditional"),
        shapes,
        conditional=True,
        loss="r3gan",
        epochs=12,
        lr=1e-3,
        discriminator_lr=1e-3,
    )


def test_a_conditional_generator_makes_the_class_that_was_asked_for(conditional: Path) -> None:
    assert measured(conditional)["class_accuracy"] > 0.9


def test_the_average_is_the_formula(tmp_path: Path, shapes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history: list[dict[str, Tensor]] = []
    learn = gan.learn

    def note(network: nn.Module, *arguments: Any) -> None:
        learn(network, *arguments)
        if isinstance(network, Generator):
            history.append({name: value.clone() for name, value in network.state_dict().items()})

    monkeypatch.setattr(gan, "learn", note)
    folder = tiny(tmp_path, shapes, epochs=2, ema=0.8)
    expected = history[0]
    for state in history[1:]:
        for name in expected:
            if expected[name].is_floating_point():
                expected[name] = 0.8 * expected[name] + 0.2 * state[name]
    kept = final_weights(folder)
    assert "body.1.running_mean" in kept
    for name in kept:
        if kept[name].is_floating_point():
            assert torch.allclose(kept[name], expected[name], atol=1e-5), name


# --- resume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", losses.OBJECTIVES)
def test_a_crash_changes_no_bit(tmp_path: Path, shapes: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {
        "loss": loss,
        "epochs": 2,
        "conditional": True,
        "schedule": "cosine",
        "checkpoint_seconds": 0.0,
    }
    whole = tiny(tmp_path / "whole", shapes, **said)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash_after(9, Run.log))
        with pytest.raises(Crash):
            tiny(tmp_path / "cut", shapes, **said)
    monkeypatch.setattr(quality, "train_classifier", None)  # it is there already
    cut = tiny(tmp_path / "cut", shapes, resume=True, **said)
    assert_same_end(whole, cut)
    sheets = [{p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (whole, cut)]
    assert sheets[0] == sheets[1]
    assert len(sheets[0]) == 2


# --- prediction --------------------------------------------------------------------------------------------


def test_a_seed_is_an_image_whatever_else_is_asked_for(conditional: Path) -> None:
    predictor = gan.load(artifact.load(conditional))
    asked = [b"7", b'{"seed": 8, "class": "frame"}', b'{"seed": 7, "class": "frame"}']
    draws = [predictor.input.decode(content) for content in asked]
    rows = predictor.predict(draws)
    assert [(row["seed"], row["class"]) for row in rows] == [(7, "frame"), (8, "frame"), (7, "frame")]
    assert rows[0] == rows[2]  # without a class, seeds go through the classes in turn
    assert rows[0]["png"] != rows[1]["png"]
    assert [predictor.predict([draw])[0] for draw in draws] == rows
    assert gan.load(artifact.load(conditional)).predict(draws[::-1]) == rows[::-1]
    image = frames.read_png(base64.b64decode(rows[0]["png"]))
    assert (image.shape, image.dtype) == ((1, 32, 32), torch.uint8)

    latent = draws[0].latent.tolist()
    (row,) = predictor.predict([predictor.input.decode(json.dumps({"latent": latent, "class": "frame"}).encode())])
    assert (row["seed"], row["png"]) == (None, rows[0]["png"])
    disc, frame = (
        frames.read_png(base64.b64decode(predictor.predict([predictor.input.decode(content)])[0]["png"])).float()
        for content in (b'{"seed": 1, "class": "disc"}', b'{"seed": 1, "class": "frame"}')
    )
    assert disc[0, 16, 16] > 100 > frame[0, 16, 16]


def test_what_is_no_seed_is_named(conditional: Path) -> None:
    read = gan.load(artifact.load(conditional)).input.decode
    for content, text in (
        (b"seven", "The seed"),
        (b"-1", "is no seed: -1"),
        (b'{"seed": 1, "class": "discus"}', "unknown class 'discus'"),
        (b'{"latent": [1, 2]}', "The seed"),
        (b'{"sed": 1}', "unknown key 'sed'"),
    ):
        with pytest.raises(UserError, match=text):
            read(content)


def test_the_report_shows_what_was_made(conditional: Path) -> None:
    report = (conditional / "report.html").read_text()
    for title in ("Samples", "Interpolation", "Nearest training images", "Training"):
        assert f"<h2>{title}</h2>" in report
    assert "data:image/gif;base64" in report


def test_interpolation_stays_on_the_shell() -> None:
    start, end = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    points = gallery.slerp(start, end, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(points, torch.tensor([[3.0, 0.0], [4.5**0.5, 4.5**0.5], [0.0, 3.0]]), atol=1e-6)
    assert torch.allclose(gallery.slerp(start, start, torch.tensor([0.5])), start[None])


def test_noise_is_that_of_the_step_and_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = gan.GanConfig(latent=5)
    cpu = torch.device("cpu")
    whole = gan.noise(config, 3, 8, cpu)
    assert same(list(gan.noise(config, 3, 8, cpu)), list(whole))
    assert not torch.equal(gan.noise(config, 4, 8, cpu)[0], whole[0])
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        shares.append(gan.noise(config, 3, 8, cpu))
    for left, right, both in zip(*shares, whole, strict=True):
        assert torch.equal(torch.cat([left, right]), both)


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Callable[..., str]:
    """The error text of arguments that are a mistake."""
    return partial(refusal, gan.example)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--loss", "wgan"], "error: --loss wgan: unknown.\nDid you mean wgan-gp?"),
        (["--size", "smal"], "error: --size smal: unknown.\nDid you mean small?"),
        (["--penalty", "1"], "error: --penalty: dcgan has no gradient penalty.\nUse --loss wgan-gp"),
        (["--precision", "fp16"], "error: --precision fp16: two losses would need two scalers."),
        (["--inception", "no.pth"], "error: --inception no.pth: no such file."),
        (["--latent", "0"], "error: --latent is 0; it must be at least 1."),
        (["--data", "npz:no.npz"], "error: no.npz does not exist"),
        (
            ["--tiny", "--discriminator-steps", "99"],
            "error: --discriminator-steps 99: the training has 72 steps, in which",
        ),
        (["--tiny", "--batch-size", "401"], "error: --batch-size 401 is larger than the training data (400 samples)."),
    ],
)
def test_a_mistake_is_named(refused: Callable[..., str], arguments: list[str], text: str) -> None:
    assert refused(*arguments).startswith(text)


def test_data_that_cannot_be_used_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    pixels = np.zeros((12, 8, 8), np.uint8)
    labels = np.arange(12) % 2
    arrays: dict[str, Any] = {"x_train": pixels, "y_train": labels, "x_test": pixels[:3], "y_test": labels[:3]}
    np.savez(tmp_path / "few.npz", **arrays)
    assert ": a split has only" in refused("--data", f"npz:{tmp_path / 'few.npz'}")
    np.savez(tmp_path / "one.npz", **(arrays | {"y_train": 0 * labels, "y_test": 0 * labels[:3]}))
    assert "has only one class" in refused("--data", f"npz:{tmp_path / 'one.npz'}", "--conditional")
    np.savez(tmp_path / "flat.npz", **(arrays | {"x_train": pixels.reshape(12, 64)}))
    assert "has the shape [12, 64]" in refused("--data", f"npz:{tmp_path / 'flat.npz'}")


def test_a_run_is_not_resumed_as_another(tmp_path: Path, shapes: str, refused: Callable[..., str]) -> None:
    folder = tiny(tmp_path / "runs", shapes, epochs=1)
    error = refused("--resume", folder, "--loss", "r3gan")
    assert error.startswith(f"error: --resume: {folder} was made with --loss dcgan, not r3gan.")
