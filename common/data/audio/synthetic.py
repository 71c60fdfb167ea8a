"""Made-up sounds with a known best score, for where nothing can be spoken."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.data.audio.splits import AudioData, Clips, split
from common.kinds.audio import AudioInput

CLASSES, SPEAKERS, EACH, FLIPPED = 6, 5, 20, 0.05
RATE, SECONDS = 8_000, 0.5
TONES = (500.0, 800.0, 1250.0, 2000.0)  # Hz


def synthetic(rate: int | None, seconds: float | None, unheard: str | None, seed: int, limit: int | None) -> AudioData:
    """Two tones after each other, which two is the class; each of SPEAKERS has a pitch and a speed of their own.

    In train and test exactly FLIPPED of the labels are replaced by another class, so that 1 − FLIPPED (to rounding) is
    the best accuracy on them; those of the unheard speaker are right.
    """
    rate = rate or RATE
    audio = AudioInput(rate, max(1, round((seconds or SECONDS) * rate)))
    generator = torch.Generator().manual_seed(seed)
    pairs = [(a, b) for a in range(len(TONES)) for b in range(len(TONES)) if a < b][:CLASSES]
    clips, targets, speakers = [], [], []
    for speaker in range(SPEAKERS):
        pitch, speed = 0.9 + 0.05 * speaker, 0.85 + 0.3 * float(torch.rand((), generator=generator))
        for number in range(EACH * CLASSES):
            label = number % CLASSES
            clips.append(_tones([TONES[i] * pitch for i in pairs[label]], speed, audio, generator))
            targets.append(label)
            speakers.append(f"speaker {speaker}")
    labels = torch.tensor(targets)
    data = split(
        Clips(torch.stack(clips), labels, speakers, audio),
        [f"tones {a + 1} and {b + 1}" for a, b in pairs], f"synthetic: made-up tones with {FLIPPED:.0%} wrong labels",
        unheard=unheard, seed=seed, limit=limit,
    )  # fmt: skip
    for clips_of in (data.train, data.valid, data.test):
        _flip(clips_of.targets, generator)
    best = 1 - round(FLIPPED * len(data.test)) / len(data.test)
    return AudioData(
        data.train, data.valid, data.test, data.unheard, data.classes, audio,
        data.provenance.replace(" wrong labels", f" wrong labels, best possible accuracy {best:.3f}"),
        best_accuracy=best,
    )  # fmt: skip


def _tones(pitches: list[float], speed: float, audio: AudioInput, generator: torch.Generator) -> Tensor:
    """One tone after the other, with a harmonic and noise, somewhere in the clip: int16 [samples]."""
    random = torch.rand(3, generator=generator)
    length = max(2, round(audio.samples * (0.5 + 0.2 * float(random[0])) / speed / len(pitches)))
    time = torch.arange(length) / audio.rate
    envelope = torch.hann_window(length, periodic=False)
    parts = [
        envelope * ((2 * math.pi * pitch * time).sin() + 0.4 * (4 * math.pi * pitch * time).sin()) for pitch in pitches
    ]
    sound = torch.cat(parts)[: audio.samples]
    start = int(float(random[1]) * (audio.samples - len(sound)))
    clip = 0.05 * torch.randn(audio.samples, generator=generator)
    clip[start : start + len(sound)] += sound
    return clip.mul(float(0.2 + 0.3 * random[2]) * 32767 / 1.5).round_().clamp_(-32768, 32767).to(torch.int16)


def _flip(targets: Tensor, generator: torch.Generator) -> None:
    """Replaces exactly FLIPPED of the labels by another class, in place."""
    wrong = torch.randperm(len(targets), generator=generator)[: round(FLIPPED * len(targets))]
    others = torch.randint(1, CLASSES, (len(wrong),), generator=generator)
    targets[wrong] = (targets[wrong] + others) % CLASSES
