"""Words spoken by espeak-ng, a speech synthesiser that a package carries whole: no download, many voices."""

from __future__ import annotations

import ctypes
import random
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from common.data.audio.splits import AudioData, Clips, split
from common.errors import UserError
from common.kinds.audio import AudioInput, Sound

if TYPE_CHECKING:
    import numpy as np

WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go",
)  # fmt: skip
ACCENTS = ("en-us", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
# Whose throats differ; the packaged voices that whisper or sound like robots are left out.
THROATS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "adam", "anika", "belinda",
           "david", "edward", "linda", "michael", "paul", "robert", "steph", "travis", "zac")  # fmt: skip
EACH = 3  # times that a speaker says each word, at another speed and pitch every time
RATE, SECONDS = 8_000, 1.0
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1  # of espeak-ng's speak_lib.h
_SPEED, _PITCH = 1, 3  # its parameters


def is_installed() -> bool:
    return find_spec("espeakng_loader") is not None


def espeak(rate: int | None, seconds: float | None, unheard: str | None, seed: int, limit: int | None) -> AudioData:
    """The digits and ten commands of Speech Commands (Warden 2018), spoken in as many voices as there are THROATS.

    A speaker is a throat with one of the ACCENTS, both as espeak-ng has them; what is spoken does not depend on the
    seed.

    Raises:
        UserError: the package espeakng-loader is not installed, or can't be used on this machine.
    """
    if not is_installed():
        what = "--data espeak needs the package espeakng-loader, which is not installed."
        raise UserError(what, "pip install -e '.[speech]', or use --data synthetic.")
    rate = rate or RATE
    audio = AudioInput(rate, max(1, round((seconds or SECONDS) * rate)))
    spoken = _spoken()
    clips = torch.stack([audio.clip(sound) for sound, _ in spoken])
    targets = torch.arange(len(clips)) % len(WORDS)
    return split(
        Clips(clips, targets, [speaker for _, speaker in spoken], audio), list(WORDS),
        f"espeak: {len(WORDS)} words spoken by espeak-ng in {len(THROATS)} voices (synthetic speech; GPL-3)",
        unheard=unheard, seed=seed, limit=limit,
    )  # fmt: skip


@cache
def _spoken() -> list[tuple[Sound, str]]:
    """Every word of every speaker, in turn, and who says it.

    Once in a process: the library goes on from where its last word left it, so that a second time nothing would be
    the same. The first time everything is.
    """
    library = _Library()
    rng = random.Random(0)
    spoken = []
    for number, throat in enumerate(THROATS):
        accent = ACCENTS[number % len(ACCENTS)]
        speed, pitch = rng.randint(120, 190), rng.randint(30, 70)  # words a minute; of 0 to 99
        library.choose(f"{accent}+{throat}")
        for _ in range(EACH):
            for word in WORDS:
                sound = library.say(word, speed + rng.randint(-25, 25), pitch + rng.randint(-15, 15))
                spoken.append((sound, f"{accent} {throat}"))
    return spoken


class _Library:
    """libespeak-ng through ctypes, as its speak_lib.h declares it."""

    def __init__(self) -> None:
        import espeakng_loader

        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            self._standard = ctypes.CDLL(None)  # its noise is libc's
        except (OSError, TypeError) as error:
            what = f"--data espeak: libespeak-ng can't be loaded on this machine: {error}."
            raise UserError(what, "Use --data synthetic, or recordings.") from error
        data = str(espeakng_loader.get_data_path()).encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if self._rate <= 0:
            raise UserError(f"--data espeak: libespeak-ng finds no voices in {data.decode()}.", "Install it again.")
        self._parts: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._heard = kind(self._hear)  # kept: the library calls it
        self._library.espeak_SetSynthCallback(self._heard)

    def _hear(self, samples: Any, count: int, events: Any) -> int:
        import numpy as np

        if count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def choose(self, voice: str) -> None:
        """A language, and after + a variant of its voice; it takes as long as some words."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise UserError(f"--data espeak: libespeak-ng has no voice {voice}.", "Install espeakng-loader again.")

    def say(self, text: str, speed: int, pitch: int) -> Sound:
        """One text.

        Args:
            speed: words a minute.
            pitch: 0 to 99.
        """
        import numpy as np

        library, content = self._library, text.encode()
        self._standard.srand(1)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetParameter(_SPEED, speed, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        self._parts.clear()
        library.espeak_Synth(content, ctypes.c_size_t(len(content) + 1), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        samples = torch.from_numpy(np.concatenate(self._parts)).float() / 32768
        loud = (samples.abs() > 0.01).nonzero().flatten()  # it leaves a pause behind each word
        return Sound(samples[: int(loud[-1]) + 1], self._rate)
