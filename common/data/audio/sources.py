"""Sounds by name: spoken by a synthesiser, made up, official, or the user's own, all as the same splits."""

from __future__ import annotations

from pathlib import Path

from common.data.audio.espeak import espeak
from common.data.audio.folders import folder, fsdd, speech_commands
from common.data.audio.splits import AudioData, Clips
from common.data.audio.synthetic import synthetic
from common.errors import UserError, nearest
from common.files import located

__all__ = ["SOURCES", "AudioData", "Clips", "load_audio"]

SOURCES: dict[str, str] = {
    "espeak": "words spoken by espeak-ng in 25 voices, no download",
    "synthetic": "made-up tones with a known best score, no download",
    "fsdd": "Free Spoken Digit Dataset, 3,000 recordings of digits",
    "speech-commands": "Speech Commands, 105,829 recordings of 35 words",
    "folder:PATH": "a folder of recordings for each class",
}


def load_audio(
    name: str,
    *,
    data_dir: Path | None = None,
    rate: int | None = None,
    seconds: float | None = None,
    unheard: str | None = None,
    speaker_pattern: str | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> AudioData:
    """Load one of SOURCES as train, validation and test splits, and what unheard speakers say.

    Splits are disjoint, stratified and seeded; no speaker of `unheard` is in any other.

    Args:
        name: a key of SOURCES, or `folder:` and a path.
        data_dir: where data sets are looked for, `data` by default; a relative path in `name` is looked up in it first.
        rate: samples a second; by default those of the data set, 16,000 for folders.
        seconds: length of every clip; 1 by default, 0.5 for synthetic.
        unheard: speakers that training never hears, separated by commas, or "none"; by default a fifth of them.
        speaker_pattern: a regular expression that finds the speaker in the path of a recording, for folders.
        seed: of the splits, and of made-up tones.
        limit: most training clips, stratified; None for all.

    Raises:
        UserError: the name is unknown, the data can't be had, or something in it is wrong.
    """
    if limit is not None and limit < 1:
        raise UserError(f"A limit of {limit} training clips is not possible.", "Choose 1 or more.")
    kind, _, rest = name.partition(":")
    root = (data_dir or Path("data")).expanduser()
    if kind == "folder" and rest:
        return folder(located(rest, data_dir), speaker_pattern, rate, seconds, unheard, seed, limit)
    if speaker_pattern is not None:
        raise UserError("--speaker-pattern is for --data folder:PATH.", f"{name} says itself who speaks.")
    if name == "fsdd":
        return fsdd(root, rate, seconds, unheard, seed, limit)
    if name == "speech-commands":
        return speech_commands(root, rate, seconds, unheard, seed, limit)
    made = {"espeak": espeak, "synthetic": synthetic}
    if name in made:
        return made[name](rate, seconds, unheard, seed, limit)
    hint = f"For a folder of recordings say folder:{name}." if Path(name).is_dir() else nearest(name, SOURCES)
    raise UserError(f"Unknown data {name!r}.", hint)
