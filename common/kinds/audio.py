"""A sound: how a file becomes a clip of a fixed length, for training, prediction and serving alike."""

from __future__ import annotations

import functools
import io
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from common.kinds.base import FILE, Explain, FileKind, content_of

if TYPE_CHECKING:
    import numpy as np

MAX_SECONDS = 60  # of one input; what is asked about is a word or two
MOST_SECONDS = 3600  # of the inputs of one request together
RATES = (2_000, 384_000)  # samples a second that are taken for a sound
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
PIECES = 20  # of a clip, each of which is silenced in turn to explain an answer
STREAMED = 0x7FFF_F000  # bytes from which on a RIFF header means "until the end": programs that write into a pipe
_BLOCK = 2**16  # frames that are read at a time
_AGAIN = "Copy or record it again, or remove it."
_READABLE = "Readable are WAV files, and FLAC, OGG and MP3 with the package soundfile."
_UNKNOWN = "no WAV file"
_EXTRA = "pip install -e '.[speech]'"


class Sound(NamedTuple):
    """A sound as it was recorded, its channels averaged."""

    samples: Tensor  # float32 [N], in -1..1
    rate: int  # samples a second


@dataclass(frozen=True)
class AudioInput(FileKind):
    """What a model takes for a sound, and how a file or bytes become that; saved with a trained model.

    Args:
        rate: samples a second, ≥ 1.
        samples: length of the clip, ≥ 1.

    Raises:
        TypeError: a field is out of range.
    """

    kind: ClassVar[str] = "audio"
    suffixes: ClassVar[tuple[str, ...]] = SOUNDS
    media: ClassVar[tuple[str, ...]] = ("audio/*", FILE)
    noun: ClassVar[str] = "a sound"
    family: ClassVar[str] = "audio/"
    most_work: ClassVar[int] = MOST_SECONDS  # what is counted are seconds
    too_much: ClassVar[str] = f"The sounds last more than {MOST_SECONDS // 60} minutes together, the limit."

    rate: int
    samples: int

    def __post_init__(self) -> None:
        if self.rate < 1 or self.samples < 1:
            raise TypeError(f"rate and samples must be at least 1, not {self.rate} and {self.samples}")

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """The clip of a file or of its bytes as int16 [samples]; the same bits for every caller.

        Channels are averaged and the sound resampled to `rate`; a shorter one gets silence on both sides, of a longer
        one the loudest part is kept.

        Args:
            source: the file, or its bytes.
            name: what errors call it; the path by default.

        Raises:
            UserError: the file is missing, empty, silent, cut off, damaged, no sound, longer than MAX_SECONDS, or of a
                format that needs a package which is not installed.
        """
        name = name or ("The sound" if isinstance(source, bytes) else str(source))
        clip = self.clip(read(source, name), name)
        if not bool(clip.any()):
            raise UserError(f"{name} is silent: nothing but zeros.", _AGAIN)
        return clip

    def clip(self, sound: Sound, name: str = "The sound") -> Tensor:
        """A sound at the model's rate and length, int16 [samples]; it may be silent."""
        samples = loudest(resampled(sound, self.rate, name), self.samples)
        missing = self.samples - len(samples)
        if missing:
            samples = torch.nn.functional.pad(samples, (missing // 2, missing - missing // 2))
        return samples.mul(32768).round_().clamp_(-32768, 32767).to(torch.int16)

    def scale(self, clips: Tensor) -> Tensor:
        """Clips as the network takes them: int16 [B, samples] to float32 in -1..1; floats are so already."""
        return clips if clips.is_floating_point() else clips.float() / 32768

    def network_input(self, items: Sequence[Tensor]) -> Tensor:
        return self.scale(torch.stack(list(items)))

    # -- one raw input ----------------------------------------------------------------------------------

    def sample(self) -> bytes:
        """A tone that rises over half the clip, as a WAV file."""
        time = torch.arange(max(1, self.samples // 2)) / self.rate
        rise = 200 * time + 200 * time.square() / time[-1].clamp(min=1 / self.rate)  # cycles: from 200 to 600 Hz
        return wav((rise * 2 * math.pi).cos().mul(16384).to(torch.int16), self.rate)

    # -- bodies of requests -----------------------------------------------------------------------------

    def documents(self) -> dict[str, dict[str, Any]]:
        sound = {"schema": {"type": "string", "format": "binary"}}
        return {"audio/wav": sound, FILE: sound}

    def work(self, raw: bytes) -> int:
        """How many seconds a file lasts, by its header; 0 where that can't be read."""
        try:
            if not _is_riff(raw):
                with _soundfile("").SoundFile(io.BytesIO(raw)) as file:
                    return math.ceil(file.frames / file.samplerate)
            with wave.open(io.BytesIO(raw)) as file:
                return math.ceil(len(raw) / (file.getnchannels() * file.getsampwidth() * file.getframerate()))
        except Exception:  # decode says it
            return 0

    # -- the model --------------------------------------------------------------------------------------

    def explainer(self, predictor: Any) -> tuple[str, Explain]:
        """Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901): what a class loses without each part of the clip.

        `heat` is one row of PIECES shares in 0..1, from the beginning of the clip to its end.
        """

        def explain(clip: Tensor, target: int) -> dict[str, Any]:
            variants = [clip]
            for piece in torch.arange(len(clip)).tensor_split(PIECES):
                variants.append(clip.index_fill(0, piece, 0))
            scores, name = predictor.answer.scores, predictor.answer.names[target]
            logs = [math.log(max(row[scores][name], 1e-6)) for row in predictor.predict(variants)]
            lost = [max(0.0, logs[0] - log) for log in logs[1:]]
            most = max(*lost, 1e-6)
            return {"method": "occlusion", "heat": [[round(value / most, 3) for value in lost]]}

        return "heat", explain


# --- reading -----------------------------------------------------------------------------------------------


def read(source: Path | bytes, name: str = "", most: float = MAX_SECONDS) -> Sound:
    """A sound file, by its content, whatever it is called.

    WAV of 8, 16, 24 or 32 bits is read by the standard library; FLAC, OGG, MP3 and other kinds of WAV by soundfile.

    Args:
        most: seconds.

    Raises:
        UserError: as of `AudioInput.decode`, but silence is a sound.
    """
    name = name or ("The sound" if isinstance(source, bytes) else str(source))
    content = content_of(source, name) if most <= MAX_SECONDS else _whole(source, name)
    if not content:
        raise UserError(f"{name} is empty (0 bytes).", _AGAIN)
    sound = _read_pcm(content, name, most) if _is_riff(content) else None
    return sound or _read_other(content, name, most)


def _whole(source: Path | bytes, name: str) -> bytes:
    try:
        return source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise UserError(f"Can't read {name}: {error.strerror}.") from error


def _is_riff(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WAVE"


def _read_pcm(content: bytes, name: str, most: float) -> Sound | None:
    """A WAV file of whole numbers; None where it holds anything else."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            channels, width, rate, frames = file.getparams()[:4]
            _check(rate, frames if frames * channels * width < STREAMED else 0, name, most)
            raw = file.readframes(math.ceil(most * rate) + 1)
    except wave.Error as error:
        if "unknown format" in str(error):  # floats, or with a longer header than the standard library knows
            return None
        raise UserError(f"{name} is a damaged WAV file: {error}.", _AGAIN) from error
    except (EOFError, RuntimeError) as error:  # the standard library has both for a chunk that is not all there
        raise UserError(f"{name} is a WAV file that is cut off in its header.", _AGAIN) from error
    if width not in (1, 2, 3, 4):
        raise UserError(f"{name} is a WAV file of {8 * width} bits; readable are 8, 16, 24 and 32.")
    found = len(raw) // (channels * width)
    if found < frames and frames * channels * width < STREAMED:
        raise UserError(f"{name} is cut off: it holds {found:,} of {frames:,} frames.", _AGAIN)
    _check(rate, found, name, most)
    if not found:
        raise UserError(f"{name} holds no sound (0 frames).", _AGAIN)
    samples = _numbers(raw[: found * channels * width], width).reshape(found, channels).mean(axis=1)
    return Sound(torch.from_numpy(samples.astype("float32")), rate)


def _numbers(raw: bytes, width: int) -> np.ndarray:
    """Little-endian samples of 1 to 4 bytes in -1..1; those of one byte have no sign."""
    import numpy as np

    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:  # the upper three bytes of four
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return padded.view("<i4").ravel() / np.float32(2**31)
    return np.frombuffer(raw, f"<i{width}") / np.float32(2 ** (8 * width - 1))


def _read_other(content: bytes, name: str, most: float) -> Sound:
    import numpy as np

    soundfile = _soundfile(f"{name} is {_what(content)}, which needs the package soundfile; it is not installed.")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate = file.samplerate
            _check(rate, file.frames, name, most)
            blocks, count = [], 0
            # Block by block: what a header says of the length may be wrong, and channels take room.
            while count <= most * rate:
                block = file.read(_BLOCK, dtype="float32", always_2d=True)  # [N, channels]
                if not len(block):
                    break
                blocks.append(block.mean(axis=1))
                count += len(block)
    except UserError:
        raise
    except Exception as error:  # soundfile has an error of its own, and reads what strangers made
        reason = str(error).partition(": ")[2].rstrip(".")
        if type(error).__name__ != "LibsndfileError" or _what(content) == _UNKNOWN:
            raise UserError(f"{name} is not a sound file.", _READABLE) from error
        if "not exist" in reason or not reason:  # what libsndfile says where a decoder finds nothing
            reason = "no sound is found in it"
        raise UserError(f"{name} is {_what(content)} that is damaged: {reason}.", _AGAIN) from error
    _check(rate, count, name, most)
    if not count:
        raise UserError(f"{name} holds no sound (0 frames).", _AGAIN)
    samples = torch.from_numpy(np.concatenate(blocks))
    if not bool(samples.isfinite().all()):
        raise UserError(f"{name} holds values that are no numbers (NaN or infinite).", _AGAIN)
    return Sound(samples, rate)


def _soundfile(missing: str) -> Any:
    if find_spec("soundfile") is None:
        raise UserError(missing, _EXTRA)
    import soundfile

    return soundfile


def _what(content: bytes) -> str:
    """What a file seems to be, by its first bytes."""
    if _is_riff(content):
        return "a WAV file of another format than whole numbers"
    known = {b"fLaC": "a FLAC file", b"OggS": "an OGG file", b"ID3": "an MP3 file", b"FORM": "an AIFF file"}
    found = next((text for mark, text in known.items() if content.startswith(mark)), "")
    if not found and len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0:
        found = "an MP3 file"
    return found or _UNKNOWN


def _check(rate: int, frames: int, name: str, most: float) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{name} has {rate:,} samples a second; readable are {RATES[0]:,} to {RATES[1]:,}.")
    if frames > most * rate:
        raise UserError(
            f"{name} lasts {frames / rate:,.0f} s; the limit is {most:g} s.", "Cut out the part that counts."
        )


# --- rate and length ---------------------------------------------------------------------------------------


def resampled(sound: Sound, rate: int, name: str = "The sound") -> Tensor:
    """The samples of a sound at another rate, float32 [M].

    Raises:
        UserError: that needs torchaudio, which is not installed.
    """
    if sound.rate == rate:
        return sound.samples
    if find_spec("torchaudio") is None:
        what = f"{name} has {sound.rate:,} samples a second and the model takes {rate:,}; torchaudio, which "
        raise UserError(f"{what}resamples, is not installed.", _EXTRA)
    # Rates without a common divisor would take a filter for each of thousands of phases.
    ratio = Fraction(rate, sound.rate).limit_denominator(1000)
    with torch.inference_mode(False), torch.no_grad():
        samples: Tensor = _resampler(ratio.denominator, ratio.numerator)(sound.samples)
    return samples


@functools.lru_cache(maxsize=16)
def _resampler(old: int, new: int) -> Any:
    """Kept, because its filters take longer to compute than a word to filter."""
    from torchaudio.transforms import Resample

    return Resample(old, new)


def loudest(samples: Tensor, length: int) -> Tensor:
    """The part of so many samples that has the most energy; all of them where there are no more."""
    if len(samples) <= length:
        return samples
    energy = torch.nn.functional.pad(samples.double().square().cumsum(0), (1, 0))
    start = int((energy[length:] - energy[:-length]).argmax())
    return samples[start : start + length]


def wav(samples: Tensor, rate: int) -> bytes:
    """The file of a clip, int16 [N]."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.cpu().contiguous().numpy().astype("<i2").tobytes())
    return buffer.getvalue()
