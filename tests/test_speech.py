"""nlp.speech: spoken words, speakers that training never hears, and what a report shows of them."""

from __future__ import annotations

import base64
import io
import re
import wave
from pathlib import Path
from typing import Any

import pytest
import torch

from common import artifact
from common.cli import execute_seeds
from common.command.arguments import Options
from common.command.execute import execute
from common.data.audio import espeak
from common.data.audio.sources import load_audio
from common.kinds.audio import wav
from nlp.speech.__main__ import SpeechConfig, evaluate, example, load, measure
from nlp.speech.augment import Perturb
from nlp.speech.networks import BANDS, Hide, LogMel, Network, mel_bands
from tests.helpers import mistake, warm


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    options = Options(tiny=True, quiet=True, out=str(tmp_path_factory.mktemp("speech")))
    return execute(example, options, {"device": "cpu", "precision": "fp32"})


# --- results -----------------------------------------------------------------------------------------------


def test_unheard_speakers_are_the_headline_and_the_official_split_stands_beside(trained: dict[str, Any]) -> None:
    metrics = trained["metrics"]
    assert (metrics["n"], metrics["n_heard"]) == (120, 48)
    assert metrics["accuracy_unheard"] > 0.95  # its labels are right; of the others 5 % are not
    assert metrics["accuracy"] > 0.9
    assert metrics["accuracy_unheard_low"] < metrics["accuracy_unheard"] <= metrics["accuracy_unheard_high"]
    assert 0.5 < metrics["logistic_accuracy_unheard"] <= 1
    report = (Path(trained["run"]) / "report.html").read_text()
    assert "Accuracy unheard" in report
    assert "whose speakers training heard" in report


def test_each_number_is_that_of_its_own_clips() -> None:
    """Right on unheard speakers alone, then on the test split alone."""
    data = load_audio("synthetic")

    def answers(targets: torch.Tensor, right: bool) -> torch.Tensor:
        return 9.0 * torch.nn.functional.one_hot((targets + (not right)) % len(data.classes), len(data.classes))

    for unheard in (True, False):
        logits = {"heard": answers(data.test.targets, not unheard), "unheard": answers(data.unheard.targets, unheard)}
        found = measure(data, logits)
        assert found.headline == "accuracy_unheard"
        assert (found.values["accuracy_unheard"], found.values["accuracy"]) == (unheard, not unheard)
        assert sum(map(sum, found.details["confusion"])) == found.values["n"] == len(data.unheard)


def test_where_everybody_is_heard_there_is_only_accuracy() -> None:
    data = load_audio("synthetic", unheard="none")
    found = measure(data, {"heard": torch.randn(len(data.test), len(data.classes))})
    assert found.headline == "accuracy"
    assert not [name for name in found.values if "unheard" in name]
    assert any("no accuracy_unheard" in note for note in found.notes)


def test_the_report_has_players_of_what_was_misunderstood(trained: dict[str, Any]) -> None:
    report = (Path(trained["run"]) / "report.html").read_text()
    assert "media-src data:" in report
    assert re.search(r"<td[^>]*>speaker 0</td><td[^>]*>unheard", report)
    from nlp.speech import pages

    data = load_audio("synthetic")
    logits = torch.nn.functional.one_hot((data.test.targets + 1) % 6, 6).float()
    body = pages.mistakes(data.test, logits, data.classes).body
    sounds = re.findall(r'src="data:audio/wav;base64,([^"]+)"', body)
    assert len(sounds) == pages.MOST
    with wave.open(io.BytesIO(base64.b64decode(sounds[0]))) as file:
        assert (file.getframerate(), file.getnframes()) == (data.audio.rate, data.audio.samples)


def test_a_saved_model_measures_the_same_and_answers_a_file(trained: dict[str, Any], tmp_path: Path) -> None:
    saved = artifact.load(Path(trained["run"]))
    config = SpeechConfig().with_values(saved.config)
    assert evaluate(saved, config).values == pytest.approx(trained["metrics"])
    data, predictor = load_audio("synthetic"), load(saved)
    (tmp_path / "a.wav").write_bytes(wav(data.unheard[3], data.audio.rate))
    clip = predictor.input.decode(tmp_path / "a.wav")
    assert torch.equal(clip, data.unheard[3])  # trained on the very bits that are predicted from
    (row,) = predictor.predict([clip])
    assert row["class"] == data.classes[int(data.unheard.targets[3])]


def test_an_answer_is_explained_by_the_part_that_holds_the_word(trained: dict[str, Any]) -> None:
    saved = artifact.load(Path(trained["run"]))
    predictor, data = load(saved), load_audio("synthetic")
    form, explain = predictor.input.explainer(predictor) or ("", None)
    assert form == "heat"
    assert explain is not None
    clip = data.unheard[0].clone()
    loud = clip.float().square() > 0.05 * clip.float().square().max()
    clip[~loud] = 0
    heat = explain(clip, int(data.unheard.targets[0]))["heat"][0]
    parts = [bool(part.any()) for part in loud.tensor_split(len(heat))]
    assert max(heat) == 1
    assert all(value == 0 for value, part in zip(heat, parts, strict=True) if not part)


# --- config ------------------------------------------------------------------------------------------------


def test_words_are_spoken_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "find_spec", lambda name: None)
    assert SpeechConfig().resolve().data == "synthetic"
    monkeypatch.setattr(espeak, "find_spec", lambda name: object())
    assert SpeechConfig().resolve().data == "espeak"
    assert SpeechConfig(data="synthetic").resolve().data == "synthetic"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "fsdd", "--data-dir", "nowhere"], "no recordings such as"),
        (["--data", "folder:nowhere"], "does not exist or is not a folder"),
        (["--data", "synthetic", "--unheard", "speaker 9"], "there is no such speaker"),
        (["--data", "synthetic", "--speaker-pattern", "x"], "--speaker-pattern is for --data folder:PATH"),
        (["--data", "synthetic", "--seconds", "0"], "--seconds is 0.0; it must be at least 0.1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in mistake(warm("-m", "nlp.speech", *arguments, "--out", tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


# --- network -----------------------------------------------------------------------------------------------


def test_the_spectrogram_is_torchaudios() -> None:
    """Its energies are those of torchaudio's HTK filters, but for what the ends of a clip are padded with."""
    torchaudio = pytest.importorskip("torchaudio")
    bands = torchaudio.functional.melscale_fbanks(129, 60.0, 4_000.0, BANDS, 8_000)
    wide = bands.sum(0) > 1  # narrower triangles fall between bins there, and are widened here
    assert torch.allclose(mel_bands(129, 8_000)[:, wide], bands[:, wide], atol=1e-4)
    assert int(wide.sum()) > BANDS // 2


def test_loudness_and_a_constant_do_not_matter_and_silence_is_finite() -> None:
    spectrogram, x = LogMel(8_000), torch.randn(2, 8_000) * 0.1
    assert spectrogram(x).shape == (2, 1, BANDS, 100)
    assert torch.allclose(spectrogram(x), spectrogram(0.1 * x), atol=1e-3)
    assert bool(spectrogram(torch.zeros(1, 8_000)).isfinite().all())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(spectrogram(x), LogMel(8_000)(x))


@pytest.mark.parametrize("rate", [4_000, 16_000, 44_100])
def test_every_rate_has_energy_in_every_band(rate: int) -> None:
    assert bool((LogMel(rate).bands.sum(0) > 0).all())
    assert Network(rate, "tiny", 3)(torch.randn(2, rate // 10)).shape == (2, 3)


def test_what_is_hidden_is_so_in_training_only() -> None:
    hide, x = Hide(0.2, 2), torch.randn(4, 1, BANDS, 50)
    assert not torch.equal(hide(x), x)
    assert torch.equal(hide.eval()(x), x)


def test_perturbed_clips_depend_on_the_random_state_alone() -> None:
    perturb = Perturb(0.2, 0.1, 0.5, 0.3, 3, [torch.randn(2_000)])
    clips = (1_000 * torch.randn(6, 1_000)).to(torch.int16)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(1)
    first = perturb(clips, targets)
    torch.manual_seed(1)
    again = perturb(clips, targets)
    assert all(map(torch.equal, first, again))
    assert first[0].shape == (6, 1_000)
    assert torch.allclose(first[1].sum(1), torch.ones(6))
    plain, same = Perturb()(clips, targets)
    assert torch.equal(plain, clips.float() / 32768)
    assert torch.equal(same, targets)


def test_speed_changes_length_and_pitch_together() -> None:
    time = torch.arange(8_000) / 8_000
    clip = (8_000 * (2 * torch.pi * 500 * time).sin() * (time - 0.5).abs().lt(0.2)).to(torch.int16)
    torch.manual_seed(0)
    heard, _ = Perturb(speed=0.3)(clip.repeat(32, 1), torch.zeros(32, dtype=torch.int64))
    pitch = torch.fft.rfft(heard).abs().argmax(1).float() / 500
    loud = torch.arange(8_000) * (heard.abs() > 0.01)
    length = (loud.amax(1) - loud.masked_fill(loud == 0, 8_000).amin(1)) / 3_200
    assert pitch.std() > 0.1
    assert torch.allclose(pitch * length, torch.ones(32), atol=0.03)


def test_seeds_of_runs_that_hear_everybody_are_summed_up_by_accuracy(tmp_path: Path) -> None:
    options = Options(tiny=True, quiet=True, out=str(tmp_path), seeds="0")
    summary = execute_seeds(example, options, {"unheard": "none", "epochs": 1, "device": "cpu"})
    assert "accuracy_unheard" not in summary["metrics"]
    page = (Path(summary["run"]) / "report.html").read_text()
    assert page[page.index('class="name"') :].startswith('class="name">Accuracy<')
