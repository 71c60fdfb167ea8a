"""Sounds as inputs: what is read, at which rate and length, and what is wrong with the rest; and their splits."""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.audio import espeak
from common.data.audio.sources import load_audio
from common.data.audio.splits import chosen
from common.errors import UserError
from common.kinds import audio
from common.kinds.audio import AudioInput, wav
from common.serve import formats

CLIP = AudioInput(8_000, 8_000)


def tone(seconds: float = 0.5, rate: int = 8_000, hertz: float = 440.0) -> Tensor:
    """A tone of half the largest loudness, float32 in -1..1."""
    return 0.5 * (2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate).sin()


def pcm(samples: Tensor, rate: int = 8_000, width: int = 2, channels: int = 1) -> bytes:
    """A WAV file of so many bytes a sample."""
    values = samples.double().numpy().repeat(channels)
    scale = 2 ** (8 * width - 1)
    whole = np.clip(np.rint(values * scale), -scale, scale - 1).astype("<i8")
    raw = (whole + 128).astype(np.uint8) if width == 1 else whole.view(np.uint8).reshape(-1, 8)[:, :width]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(raw.tobytes())
    return buffer.getvalue()


def peak(clip: Tensor, rate: int = 8_000) -> float:
    """The loudest frequency of a clip, in Hz."""
    spectrum = torch.fft.rfft(clip.float()).abs()
    return float(spectrum.argmax()) * rate / len(clip)


# --- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_kind_of_pcm_gives_the_same_clip(width: int, channels: int) -> None:
    clip = CLIP.decode(pcm(tone(), width=width, channels=channels))
    assert clip.dtype == torch.int16
    assert clip.shape == (8_000,)
    expected = CLIP.decode(pcm(tone()))
    assert (clip.int() - expected.int()).abs().max() <= (256 if width == 1 else 1)
    assert clip[:2_000].abs().max() == 0  # a short sound stands in the middle
    assert clip[6_000:].abs().max() == 0


def test_channels_are_averaged() -> None:
    left = pcm(torch.stack([tone(), -tone()], 1).flatten(), channels=1)
    stereo = bytearray(left)
    struct.pack_into("<H", stereo, 22, 2)  # the same samples, read as left and right
    struct.pack_into("<H", stereo, 32, 4)
    with pytest.raises(UserError, match=r"The sound is silent: nothing but zeros\."):
        CLIP.decode(bytes(stereo))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 44_101, 48_000])
def test_any_rate_becomes_the_models(rate: int) -> None:
    clip = CLIP.decode(pcm(tone(rate=rate, seconds=1.0, hertz=1_000), rate=rate))
    assert peak(clip) == pytest.approx(1_000, abs=3)


def test_of_a_long_sound_the_loudest_part_is_kept() -> None:
    quiet = 0.01 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    quiet[13_000:17_000] += tone(0.5)
    clip = CLIP.decode(pcm(quiet))
    assert clip.float().square().sum() > 0.9 * CLIP.decode(pcm(tone())).float().square().sum()


@pytest.mark.parametrize(("format", "suffix"), [("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3"), ("WAV", "wav")])
def test_other_formats_are_read_by_their_content(format: str, suffix: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{suffix}"
    more = {"subtype": "FLOAT"} if format == "WAV" else {}
    soundfile.write(path, tone(1.0, 16_000, 1_000).numpy(), 16_000, format=format, **more)
    assert peak(CLIP.decode(path)) == pytest.approx(1_000, abs=10)
    named_wrongly = tmp_path / "b.wav"
    named_wrongly.write_bytes(path.read_bytes())
    assert torch.equal(CLIP.decode(named_wrongly), CLIP.decode(path))


WHOLE = pcm(tone())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The sound is empty (0 bytes)."),
        (pcm(torch.zeros(4_000)), "The sound is silent: nothing but zeros."),
        (pcm(torch.zeros(0)), "The sound holds no sound (0 frames)."),
        (WHOLE[:-1_000], "The sound is cut off: it holds 3,500 of 4,000 frames."),
        (WHOLE[:30], "The sound is a WAV file that is cut off in its header."),
        (WHOLE[:36] + b"LIST\xf0\0\0\0", "The sound is a damaged WAV file"),
        (WHOLE[:36] + b"LIST\xf0\0\0\x7f", "The sound is a WAV file that is cut off in its header."),
        (pcm(torch.zeros(61 * 8_000)), "The sound lasts 61 s; the limit is 60 s."),
        (pcm(tone(), rate=800), "The sound has 800 samples a second; readable are 2,000 to 384,000."),
        (b"x" * (16 * 2**20 + 1), "The sound is larger than 16 MB."),
    ],
)
def test_what_is_wrong_is_named(content: bytes, words: str) -> None:
    with pytest.raises(UserError) as caught:
        CLIP.decode(content)
    assert str(caught.value).startswith(words)
    assert "\n" not in caught.value.what


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no sound at all", "is not a sound file"), (b"\xff\xfb\x90\x64" + b"\0" * 50, "an MP3 file that is damaged")],
)
def test_what_soundfile_refuses_is_one_line(content: bytes, words: str) -> None:
    pytest.importorskip("soundfile")
    with pytest.raises(UserError, match=words) as caught:
        CLIP.decode(content, "a.mp3")
    assert "\n" not in caught.value.what
    assert caught.value.what.startswith("a.mp3")


def test_what_needs_a_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "find_spec", lambda name: None)
    for content, what in ((b"fLaC" + b"\0" * 50, "a FLAC file"), (b"ID3" + b"\0" * 50, "an MP3 file")):
        with pytest.raises(UserError, match=f"is {what}, which needs the package soundfile") as caught:
            CLIP.decode(content, "a.wav")
        assert "[speech]" in caught.value.hint
    with pytest.raises(UserError, match="torchaudio, which resamples, is not installed"):
        CLIP.decode(pcm(tone(rate=16_000), rate=16_000))
    assert CLIP.decode(WHOLE).any()  # PCM at the model's rate needs nothing


def test_a_stream_whose_header_does_not_know_its_length_is_read() -> None:
    streamed = bytearray(WHOLE)
    struct.pack_into("<I", streamed, 40, 0xFFFFFFFF)
    assert torch.equal(CLIP.decode(bytes(streamed)), CLIP.decode(WHOLE))


def test_memory_follows_the_limit_and_not_the_header() -> None:
    """A header that promises hours is refused by it, whatever the file holds."""
    liar = bytearray(WHOLE)
    struct.pack_into("<I", liar, 40, 0x70000000)
    with pytest.raises(UserError, match="the limit is 60 s"):
        CLIP.decode(bytes(liar))


# --- the kind ----------------------------------------------------------------------------------------------


def test_its_json_and_its_sample() -> None:
    assert AudioInput.from_json(CLIP.to_json()) == CLIP
    assert torch.equal(CLIP.decode(CLIP.sample()), CLIP.decode(CLIP.sample()))
    assert CLIP.network_input([CLIP.decode(CLIP.sample())] * 2).shape == (2, 8_000)
    assert CLIP.from_text(CLIP.to_text(WHOLE)) == WHOLE
    for wrong in ({"rate": 0, "samples": 1}, {"rate": 8_000}, {"rate": 8_000, "samples": "long"}):
        with pytest.raises(UserError, match="description of its audio input is not valid"):
            AudioInput.from_json(wrong)


def test_a_sound_comes_as_a_file_or_in_base64() -> None:
    text = CLIP.to_text(WHOLE)
    bodies = [(WHOLE, "audio/wav"), (WHOLE, ""), (f'{{"b64": "{text}"}}'.encode(), "application/json"),
              (f'{{"audio": "data:audio/wav;base64,{text}"}}'.encode(), "application/json")]  # fmt: skip
    for body, media in bodies:
        assert formats.parse(body, media, CLIP).raw == [WHOLE]
    with pytest.raises(formats.Problem, match="This model takes"):
        formats.parse(b"1,2", "text/csv", CLIP)


def test_a_request_may_not_last_for_hours() -> None:
    assert CLIP.work(pcm(torch.zeros(80_000))) == 11  # seconds, and a header
    raw = [pcm(torch.zeros(59 * 8_000, dtype=torch.float32))] * 62
    with pytest.raises(formats.Problem, match="60 minutes together"):
        formats.split(formats.Inputs(raw), CLIP, 64)


# --- data --------------------------------------------------------------------------------------------------


def test_unheard_speakers_are_in_no_other_split() -> None:
    data = load_audio("synthetic")
    assert set(data.unheard.speakers) == {"speaker 0"}
    assert "speaker 0" not in {*data.train.speakers, *data.valid.speakers, *data.test.speakers}
    assert len(data.unheard) == 120
    assert data.best_accuracy == 1 - round(0.05 * len(data.test)) / len(data.test)


def test_five_seeds_leave_every_speaker_out_once() -> None:
    speakers = ["ann", "bob", "cy", "dee", "eve", "ann"]
    assert sorted(name for seed in range(5) for name in chosen(speakers, None, seed)) == sorted(set(speakers))
    assert chosen(speakers, "eve, bob", 0) == ["bob", "eve"]
    assert chosen(speakers, "none", 0) == chosen(["", ""], None, 0) == chosen(["ann"], None, 0) == []
    many = [f"{number:03}" for number in range(23)]
    held = [chosen(many, None, seed) for seed in range(5)]
    assert sorted(name for names in held for name in names) == many
    for unheard, words in (("zoe", "there is no such speaker"), ("ann,bob,cy,dee,eve", "leaves no speaker")):
        with pytest.raises(UserError, match=words):
            chosen(speakers, unheard, 0)
    with pytest.raises(UserError, match="is not known"):
        chosen(["", ""], "ann", 0)


def digits(folder: Path, speakers: tuple[str, ...] = ("ann", "bob"), count: int = 12) -> Path:
    """Recordings named as FSDD's are, of two digits."""
    folder.mkdir(parents=True)
    for digit in range(2):
        for speaker in speakers:
            for index in range(count):
                sound = wav((tone(0.3, hertz=400 + 400 * digit + index) * 32767).to(torch.int16), 8_000)
                (folder / f"{digit}_{speaker}_{index}.wav").write_bytes(sound)
    return folder


def test_fsdd_has_its_official_split_without_the_unheard_speaker(tmp_path: Path) -> None:
    digits(tmp_path / "recordings")
    data = load_audio("fsdd", data_dir=tmp_path)
    assert (len(data.test), len(data.train) + len(data.valid), len(data.unheard)) == (10, 14, 24)
    assert set(data.unheard.speakers) == {"ann"}
    assert {int(str(path).rpartition("_")[2][:-4]) for path in data.test.source} == {0, 1, 2, 3, 4}
    all_heard = load_audio("fsdd", data_dir=tmp_path, unheard="none")
    assert (len(all_heard.test), len(all_heard.unheard)) == (20, 0)
    with pytest.raises(UserError, match="no recordings such as"):
        load_audio("fsdd", data_dir=tmp_path / "elsewhere")


def test_speech_commands_is_measured_on_strangers_by_its_own_lists(tmp_path: Path) -> None:
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    sound = (tone(1.0, 16_000) * 32767).to(torch.int16)
    for word in ("yes", "no"):
        (tmp_path / word).mkdir()
        for number in range(6):
            name = f"{word}/{number:08x}_nohash_0.wav"
            quiet = number == 5 and word == "no"  # the official set has some
            (tmp_path / name).write_bytes(wav(torch.zeros_like(sound) if quiet else sound, 16_000))
            if number < 2:
                lists["validation" if number else "testing"].append(name)
    (tmp_path / "_background_noise_").mkdir()
    noise = (0.1 * torch.randn(16_000 * 2, generator=torch.Generator().manual_seed(0)) * 32767).to(torch.int16)
    (tmp_path / "_background_noise_" / "rain.wav").write_bytes(wav(noise, 16_000))
    for name, lines in lists.items():
        (tmp_path / f"{name}_list.txt").write_text("\n".join(lines))
    data = load_audio("speech-commands", data_dir=tmp_path)
    assert data.classes == ["no", "yes"]
    assert (len(data.train), len(data.valid), len(data.test)) == (8, 2, 2)
    assert data.unheard is data.test
    assert [len(part) for part in data.noise] == [32_000]
    named = load_audio("speech-commands", data_dir=tmp_path, unheard="00000004")
    assert (len(named.train), len(named.unheard)) == (6, 2)


def test_a_folder_of_classes_takes_any_file_and_names_what_is_wrong(tmp_path: Path) -> None:
    for place, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        for number in range(12):
            rate = (8_000, 44_100)[number % 2]
            sound = pcm(tone(0.2 + 0.1 * number, rate, 300 + 300 * place), rate=rate, channels=1 + number % 2)
            (tmp_path / label / f"{'ab'[number % 2]}_{number}.WAV").write_bytes(sound)
    unknown = load_audio(f"folder:{tmp_path}", rate=8_000)
    assert len(unknown.unheard) == 0
    data = load_audio(f"folder:{tmp_path.name}", data_dir=tmp_path.parent, rate=8_000, speaker_pattern="^(.)_")
    assert set(data.unheard.speakers) == {"a"}
    assert data.train[0].shape == (8_000,)
    for pattern, words in (("(", "is no regular expression"), ("xyz", "is found in no file name")):
        with pytest.raises(UserError, match=words):
            load_audio(f"folder:{tmp_path}", speaker_pattern=pattern)
    (tmp_path / "cat" / "z.wav").write_bytes(WHOLE[:-1_000])
    with pytest.raises(UserError, match=r"cat/z\.wav is cut off"):
        load_audio(f"folder:{tmp_path}", rate=8_000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no recordings"):
        load_audio(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="has no class folders"):
        load_audio(f"folder:{tmp_path / 'cat'}")


def test_the_synthesiser_says_the_same_in_every_process() -> None:
    pytest.importorskip("espeakng_loader")
    from tests.helpers import python

    code = (
        "import hashlib; from common.data.audio.sources import load_audio; data = load_audio('espeak', unheard='none');"
        "print(hashlib.md5(data.train.in_memory().numpy().tobytes()).hexdigest())"
    )
    data = load_audio("espeak", unheard="none")
    import hashlib

    clips = data.train.in_memory()
    assert clips is not None
    assert python("-c", code).stdout.strip() == hashlib.md5(clips.numpy().tobytes()).hexdigest()
    assert len({*data.train.speakers}) == len(espeak.THROATS)
    assert int(clips.int().abs().amax(1).min()) > 1_000  # nobody is silent


def test_without_the_synthesiser_words_are_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(espeak, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package espeakng-loader") as caught:
        load_audio("espeak")
    assert "--data synthetic" in caught.value.hint
