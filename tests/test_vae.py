"""generative.vae: its bound by hand and by another library, that it learns, and that a seed is a picture everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.export.export import export
from common.training.run import Run
from generative import judge, quality
from generative.vae import __main__ as vae
from generative.vae import networks
from tests.test_flow import picture, shapes
from tests.test_resume import Crash, assert_same_end, crash_after

__all__ = ["shapes"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_256_values_of_a_pixel_are_a_distribution() -> None:
    values = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    for middle, log_scale in ((0.0, -2.0), (-1.3, -3.0), (0.7, 1.0), (1.0, -4.0)):
        pixels = torch.tensor([middle, log_scale]).view(1, 2, 1, 1).expand(256, 2, 1, 1)
        assert networks.log_likelihood(pixels, values).exp().sum().item() == pytest.approx(1, abs=2e-3)


def test_the_code_costs_the_divergence_from_a_normal_distribution() -> None:
    code = 0.5 * numbers(3, 2, 5)
    mean, log_variance = code.unbind(1)
    coded = networks.Coded(code, numbers(3, 2, 4, 4))
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).sum(1)
    assert torch.allclose(networks.bits(coded, numbers(3, 1, 4, 4).clamp(-1, 1))[1], theirs / math.log(2) / 16)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (64, 3)])
def test_shapes(side: int, channels: int) -> None:
    network = vae.build(vae.VaeConfig(image_size=side, latent=6, size="tiny"), channels)
    coded = network((numbers(2, channels, side, side), numbers(2, 6)))
    assert coded.code.shape == (2, 2, 6)
    assert coded.pixels.shape == (2, 2 * channels, side, side)


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    """Evaluations of 60 samples: enough for shapes, and no wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "SAMPLES", (60, 1000))
        patch.setattr(vae, "LOOK", 60)
        yield


def tiny(out: Path, shapes: str, resume: bool = False, **said: Any) -> Path:
    """Runs `--tiny` on the shapes, on the CPU; returns the folder of the run."""
    options = Options(out=str(out), tiny=True, quiet=True, resume="latest" if resume else None)
    usual = {"device": "cpu", "data": shapes, "image_size": 8, "latent": 4, "batch_size": 16, "epochs": 2}
    return Path(execute(vae.example, options, {**usual, **said})["run"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: str) -> Path:
    return tiny(tmp_path_factory.mktemp("vae"), shapes, epochs=40)


def test_it_learns_what_tells_pictures_apart(trained: Path) -> None:
    metrics = json.loads((trained / "result.json").read_text())["metrics"]
    # A shade of 86 and one of two sides say all: 7.4 bits of a picture whose 64 pixels have 8 each.
    assert metrics["bits_per_dimension"] < 4
    assert metrics["bits_per_dimension"] == pytest.approx(metrics["reconstruction_bits"] + metrics["kl_bits"])
    assert 1 <= metrics["active_dimensions"] <= 4
    report = (trained / "report.html").read_text()
    for title in ("Samples", "Reconstructions", "Dimensions of the code", "Interpolation"):
        assert f"<h2>{title}</h2>" in report


def test_a_larger_beta_spends_less_on_the_code(trained: Path, tmp_path: Path, shapes: str) -> None:
    cheap = tiny(tmp_path, shapes, epochs=40, beta=300.0)
    costs = [json.loads((run / "result.json").read_text())["metrics"]["kl_bits"] for run in (trained, cheap)]
    assert costs[1] < costs[0] / 2


def test_a_seed_is_a_picture_alone_in_a_batch_and_exported(trained: Path) -> None:
    predictor = vae.load(artifact.load(trained))
    draws = [predictor.input.decode(content) for content in (b"7", b"8", b"7")]
    rows = predictor.predict(draws)
    assert rows[0] == rows[2] != rows[1]
    assert [predictor.predict([draw])[0] for draw in draws] == rows
    folder, row = export(trained, "torch-export", "none", None)
    assert row.agrees()
    for ours, theirs in zip(rows, vae.load(artifact.load(folder)).predict(draws), strict=True):
        assert (picture(ours).int() - picture(theirs).int()).abs().max() <= 1


def test_a_crash_changes_no_bit(tmp_path: Path, shapes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny(tmp_path / "whole", shapes, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash_after(8, Run.log))
        with pytest.raises(Crash):
            tiny(tmp_path / "cut", shapes, checkpoint_seconds=0.0)
    monkeypatch.setattr(quality, "train_classifier", None)  # it is there already
    assert_same_end(whole, tiny(tmp_path / "cut", shapes, resume=True, checkpoint_seconds=0.0))


def test_an_encoder_of_another_model_is_named(trained: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.safetensors is damaged, or belongs to other settings"):
        vae.from_bytes(b"nothing", vae.build(vae.VaeConfig(image_size=8, latent=4), 1).encoder)


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Callable[..., str]:
    """The error text of arguments that are a mistake."""
    return partial(refusal, vae.example)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--beta", "-1"], "error: --beta is -1.0; it must be at least 0."),
        (["--image-size", "30"], "error: --image-size 30: the networks halve it.\nUse a multiple of 4."),
        (["--latent", "0"], "error: --latent is 0; it must be at least 1."),
    ],
)
def test_a_mistake_is_named(refused: Callable[..., str], arguments: list[str], text: str) -> None:
    assert refused(*arguments).startswith(text)
