"""Sources of sounds that are files: the spoken digits of FSDD, Speech Commands, and class folders of the user's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from common.data.audio.splits import AudioData, Clips, chosen, finished, split
from common.errors import UserError
from common.kinds.audio import SOUNDS, AudioInput, read, resampled

FSDD = re.compile(r"(\d)_([A-Za-z]+)_(\d+)\.wav")  # digit, speaker, index
FSDD_TEST = 5  # indices below it are the official test split
COMMANDS_SPEAKER = r"^(.+?)_nohash_"
NOISES = "_background_noise_"
FSDD_RATE, COMMANDS_RATE, FOLDER_RATE, SECONDS = 8_000, 16_000, 16_000, 1.0
FSDD_URL = "https://github.com/Jakobovski/free-spoken-digit-dataset"
COMMANDS_URL = "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
_LAYOUT = "Expected is PATH/CLASS/RECORDING."


def shape_of(rate: int, seconds: float | None) -> AudioInput:
    return AudioInput(rate, max(1, round((seconds or SECONDS) * rate)))


def fsdd(
    root: Path, rate: int | None, seconds: float | None, unheard: str | None, seed: int, limit: int | None
) -> AudioData:
    """The Free Spoken Digit Dataset: 50 recordings of each digit by each speaker, `{digit}_{speaker}_{index}.wav`.

    Its official test split are the indices 0 to 4, of speakers that training hears; so a speaker is left out besides.
    Source: Jackson et al., doi 10.5281/zenodo.1342401, CC BY-SA 4.0.

    Raises:
        UserError: it is not in `root`, or a file can't be read.
    """
    places = [root, root / "recordings", root / "fsdd" / "recordings",
              root / "free-spoken-digit-dataset" / "recordings"]  # fmt: skip
    found: list[tuple[Path, re.Match[str]]] = []
    for place in places:
        files = sorted(place.glob("*.wav")) if place.is_dir() else []
        found = [(file, match) for file in files if (match := FSDD.fullmatch(file.name))]
        if found:
            break
    if not found:
        what = f"--data fsdd: no recordings such as 0_jackson_0.wav in {', '.join(map(str, places))}."
        raise UserError(what, f"Clone {FSDD_URL}, and point --data-dir at it.")
    clips = Clips(
        [file for file, _ in found], torch.tensor([int(match[1]) for _, match in found]),
        [match[2] for _, match in found], shape_of(rate or FSDD_RATE, seconds),
    )  # fmt: skip
    is_test = torch.tensor([int(match[3]) < FSDD_TEST for _, match in found])
    source = "fsdd: Free Spoken Digit Dataset (Jackson et al., doi 10.5281/zenodo.1342401, CC BY-SA 4.0)"
    digits = [str(digit) for digit in range(10)]
    return split(clips, digits, source, unheard=unheard, seed=seed, limit=limit, is_test=is_test)


def speech_commands(
    root: Path, rate: int | None, seconds: float | None, unheard: str | None, seed: int, limit: int | None
) -> AudioData:
    """Speech Commands: a folder for each word, validation_list.txt and testing_list.txt, and recordings of noise.

    Its lists part the speakers, so that all of its test speakers are unheard; whom `unheard` names besides is left out
    of all three. Source: Warden 2018, arXiv 1804.03209, CC BY 4.0.

    Raises:
        UserError: it is not in `root`, or incomplete.
    """
    names = ("SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02", "speech-commands", "speech_commands")
    places = [root, *(root / name for name in names)]
    folder = next((place for place in places if (place / "testing_list.txt").is_file()), None)
    if folder is None:
        what = f"--data speech-commands: no testing_list.txt in {', '.join(map(str, places))}."
        raise UserError(what, f"Unpack {COMMANDS_URL}, and point --data-dir at it.")
    lists = {name: _lines(folder / f"{name}_list.txt") for name in ("validation", "testing")}
    clips, classes = _scan(folder, shape_of(rate or COMMANDS_RATE, seconds), COMMANDS_SPEAKER, silent=True)
    paths = [f"{file.parent.name}/{file.name}" for file in clips.source]
    absent = set(chosen(clips.speakers, unheard, seed)) if unheard else set()
    parts: dict[str, list[int]] = {"train": [], "validation": [], "testing": [], "absent": []}
    for index, (path, speaker) in enumerate(zip(paths, clips.speakers, strict=True)):
        listed = next((name for name, lines in lists.items() if path in lines), "train")
        parts["absent" if speaker in absent else listed].append(index)
    train, valid, test, away = (clips.subset(torch.tensor(part, dtype=torch.long)) for part in parts.values())
    heard = {*train.speakers, *valid.speakers} - {""}
    data = AudioData(
        train, valid, test, away if absent else _by_strangers(test, heard), classes, clips.audio, "",
        noise=_noises(folder / NOISES, clips.audio),
    )  # fmt: skip
    source = "speech-commands: Speech Commands (Warden 2018, arXiv 1804.03209, CC BY 4.0)"
    return finished(data, source, "official split, whose test speakers are unheard", seed, limit)


def _by_strangers(test: Clips, heard: set[str]) -> Clips:
    """The clips of a test split by speakers that training never hears; the split itself where that is all of it."""
    strange = [bool(name) and name not in heard for name in test.speakers]
    return test if all(strange) and strange else test.subset(torch.tensor(strange).nonzero().flatten())


def folder(
    path: Path, pattern: str | None, rate: int | None, seconds: float | None, unheard: str | None, seed: int,
    limit: int | None,
) -> AudioData:  # fmt: skip
    """A folder for each class, of WAV, FLAC, OGG and MP3 files of any rate, length and number of channels.

    Args:
        pattern: a regular expression that is searched in each path, CLASS/RECORDING; its first group is the speaker.

    Raises:
        UserError: the folder is missing or empty, has one class, or a file can't be read; the pattern is none, or is
            found nowhere.
    """
    if not path.is_dir():
        raise UserError(f"{path} does not exist or is not a folder.", "Give folder:PATH the folder of class folders.")
    clips, classes = _scan(path, shape_of(rate or FOLDER_RATE, seconds), pattern)
    source = f"folder:{path.resolve().name}"
    data = split(clips, classes, source, unheard=unheard, seed=seed, limit=limit)
    return replace(data, noise=_noises(path / NOISES, clips.audio))


def _scan(top: Path, audio: AudioInput, pattern: str | None, silent: bool = False) -> tuple[Clips, list[str]]:
    """The recordings of all class folders under `top`, in the order of their names."""
    try:
        folders = [p for p in sorted(top.iterdir()) if p.is_dir() and not p.name.startswith(".") and p.name != NOISES]
    except OSError as error:
        raise UserError(f"{top} can't be read: {error.strerror}.") from error
    files: list[Path] = []
    targets: list[int] = []
    for label, child in enumerate(folders):
        inside = sorted(p for p in child.rglob("*") if p.suffix.lower() in SOUNDS and not p.name.startswith("."))
        if not inside:
            raise UserError(f"The class folder {child} has no recordings.", f"They end in {' '.join(SOUNDS)}.")
        files += inside
        targets += [label] * len(inside)
    classes = [child.name for child in folders]
    if len(classes) < 2:
        found = f"only one class, {classes[0]}" if classes else "no class folders"
        raise UserError(f"{top} has {found}.", _LAYOUT)
    speakers = _speakers([str(file.relative_to(top)) for file in files], pattern)
    return Clips(files, torch.tensor(targets), speakers, audio, silent), classes


def _speakers(paths: list[str], pattern: str | None) -> list[str]:
    if pattern is None:
        return [""] * len(paths)
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--speaker-pattern {pattern!r} is no regular expression: {error}.") from error
    matches = [found.search(Path(path).name) or found.search(path) for path in paths]
    names = [(match[1] if found.groups else match[0]) or "" if match else "" for match in matches]
    if not any(names):
        raise UserError(f"--speaker-pattern {pattern!r} is found in no file name, such as {paths[0]}.")
    return names


def _lines(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.", f"Unpack {COMMANDS_URL} again.") from error


def _noises(folder: Path, audio: AudioInput) -> list[torch.Tensor]:
    """Recordings of noise at the model's rate, float32 [N] each, of at least a clip's length."""
    found = []
    for file in sorted(folder.glob("*.wav")) if folder.is_dir() else []:
        sound = read(file, most=600)
        samples = resampled(sound, audio.rate, str(file))
        if len(samples) > audio.samples and bool(samples.any()):
            found.append(samples)
    return found
