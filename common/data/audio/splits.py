"""Splits of sounds: what every source of sounds returns, and which speakers training never hears."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from common.data.splits import duplicates, stratified
from common.errors import UserError, nearest
from common.kinds.audio import AudioInput, read
from common.machine.device import available_memory, cores

MEMORY_LIMIT = 4 * 2**30  # bytes of one split
UNHEARD = 0.2  # share of the speakers that training never hears
TEST, VALID = 0.1, 0.1  # shares of what is left, where a data set has no split of its own; valid of what test leaves
NOBODY = "none"  # of `--unheard`: training hears every speaker


class Clips:
    """One split: indexing reads one clip, `in_memory` all of them once.

    Args:
        source: sound files, or clips that are made already, int16 [N, samples].
        targets: class of each clip, int64 [N].
        speakers: who speaks in each; empty strings where that is not known.
        audio: what every clip is brought to.
        silent: whether a file that holds nothing but zeros is taken; else it is a mistake.

    Raises:
        ValueError: sources, targets and speakers differ in number.
    """

    def __init__(
        self,
        source: Sequence[Path] | Tensor,
        targets: Tensor,
        speakers: Sequence[str],
        audio: AudioInput,
        silent: bool = False,
    ) -> None:
        if not len(source) == len(targets) == len(speakers):
            raise ValueError(f"{len(source)} clips, {len(targets)} targets and {len(speakers)} speakers")
        self.source, self.targets, self.speakers = source, targets, list(speakers)
        self.audio, self.silent = audio, silent
        self._fits: bool | None = None
        self._clips: Tensor | None = source if isinstance(source, Tensor) else None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Tensor:
        """Clip `index`, int16 [samples].

        Raises:
            UserError: its file can't be read.
        """
        if self._clips is not None:
            return self._clips[index]
        path = self.source[index]
        assert isinstance(path, Path)
        return self.audio.clip(read(path), str(path)) if self.silent else self.audio.decode(path)

    def subset(self, indices: Tensor) -> Clips:
        """The clips at `indices`, int64 [M], as a split of their own."""
        where = indices.tolist()
        source = self.source[indices] if isinstance(self.source, Tensor) else [self.source[i] for i in where]
        return Clips(source, self.targets[indices], [self.speakers[i] for i in where], self.audio, self.silent)

    def in_memory(self) -> Tensor | None:
        """All clips, int16 [N, samples], read by threads on the first call; None where they would not fit.

        They fit when they take at most MEMORY_LIMIT and a quarter of the memory that is free.

        Raises:
            UserError: a file can't be read.
        """
        if self._fits is None:  # decided once, so that every caller gets the same answer
            self._fits = 2 * len(self) * self.audio.samples <= min(MEMORY_LIMIT, available_memory() // 4)
        if self._clips is None and self._fits:
            clips = torch.empty(len(self), self.audio.samples, dtype=torch.int16)
            with ThreadPoolExecutor(cores()) as pool:
                for row, clip in enumerate(pool.map(self.__getitem__, range(len(self)))):
                    clips[row] = clip
            self._clips = clips
        return self._clips


@dataclass(frozen=True)
class AudioData:
    """Disjoint splits of clips.

    Args:
        train, valid, test: the splits; valid is never taken from an official test set.
        unheard: clips of speakers that are not in train or valid; empty where there are none, or speakers are not
            known. Where a data set's own test speakers are all unheard, these are the clips of `test`.
        classes: name of each class.
        audio: what a model trained on these takes for a sound.
        provenance: source, licence or citation, counts and how the splits were made.
        noise: recordings of no speech, float32 [samples] each, to be mixed in; empty where there are none.
        best_accuracy: the highest accuracy that can be reached on test, where it is known (made-up data).
    """

    train: Clips
    valid: Clips
    test: Clips
    unheard: Clips
    classes: list[str]
    audio: AudioInput
    provenance: str
    noise: list[Tensor] = field(default_factory=list)
    best_accuracy: float | None = None


def chosen(speakers: Sequence[str], unheard: str | None, seed: int) -> list[str]:
    """The speakers that training never hears.

    By default a fifth of them, at least one: those of seed 0, 1, ... take turns, so that five seeds leave out every
    speaker once.

    Args:
        speakers: of each clip; empty strings where they are not known.
        unheard: names, separated by commas; NOBODY for none; None for the default.

    Raises:
        UserError: there is no such speaker, the speakers are not known, or nobody would be left.
    """
    names = sorted(set(speakers) - {""})
    if unheard == NOBODY:
        return []
    if unheard is None:
        turns = min(len(names), round(1 / UNHEARD))
        return [name for place, name in enumerate(names) if place % turns == seed % turns] if turns > 1 else []
    if not names:
        raise UserError(f"--unheard {unheard}: who speaks in these clips is not known.", "Use --speaker-pattern.")
    asked = [name.strip() for name in unheard.split(",") if name.strip()]
    for name in asked:
        if name not in names:
            raise UserError(f"--unheard {name}: there is no such speaker.", nearest(name, names))
    if len(set(asked)) == len(names):
        raise UserError("--unheard leaves no speaker to train on.", f"There are {len(names)}; name fewer.")
    return sorted(set(asked))


def split(
    clips: Clips,
    classes: list[str],
    source: str,
    *,
    unheard: str | None,
    seed: int,
    limit: int | None,
    is_test: Tensor | None = None,
    best_accuracy: float | None = None,
) -> AudioData:
    """Unheard speakers first, then train, valid and test of all others, stratified and drawn by `seed`.

    Args:
        source: name, and licence or citation, for the provenance.
        unheard: as of `chosen`.
        limit: most training clips; None for all.
        is_test: which clips an official split tests on, bool [N]; None draws them.
    """
    absent = set(chosen(clips.speakers, unheard, seed))
    away = torch.tensor([name in absent for name in clips.speakers])
    rest = (~away).nonzero().flatten()
    if is_test is None:
        fractions = ((1 - TEST) * (1 - VALID), (1 - TEST) * VALID, TEST)
        files = [clips.source[i] for i in rest.tolist()] if not isinstance(clips.source, Tensor) else []
        groups = duplicates(files) if files else None  # the same file under two names stays on one side
        parts = [rest[part] for part in stratified(clips.targets[rest], fractions, seed, groups)]
        how = f"stratified split, seed {seed}"
    else:
        test, others = rest[is_test[rest]], rest[~is_test[rest]]
        parts = [others[part] for part in stratified(clips.targets[others], (1 - VALID, VALID), seed)] + [test]
        how = f"official test; validation carved from train, seed {seed}"
    train, valid, test_clips = (clips.subset(part) for part in parts)
    data = AudioData(
        train, valid, test_clips, clips.subset(away.nonzero().flatten()), classes, clips.audio, "",
        best_accuracy=best_accuracy,
    )  # fmt: skip
    return finished(data, source, how, seed, limit)


def finished(data: AudioData, source: str, how: str, seed: int, limit: int | None) -> AudioData:
    """The same with the training split limited, its files read, and its provenance.

    Raises:
        UserError: a split is empty, only one class is left, or a file can't be read.
    """
    name, train = source.partition(":")[0], data.train
    for part, clips in (("training", data.train), ("validation", data.valid), ("test", data.test)):
        if not len(clips):
            raise UserError(f"{name} leaves no {part} clips.", "More are needed, ten at least.")
    if len(train.targets.unique()) < 2:
        raise UserError(f"{name} has only one class to train on.", "At least two are needed.")
    if limit is not None and limit < len(train):
        if limit < len(data.classes):
            raise UserError(f"A limit of {limit} training clips leaves none for some of {len(data.classes)} classes.")
        share = limit / len(train)
        train = train.subset(stratified(train.targets, (1 - share, share), seed)[1][:limit])
        how += f"; train limited to {len(train):,}"
    for clips in (train, data.valid, data.test, data.unheard):
        clips.in_memory()
    counts = f"{len(train):,} train / {len(data.valid):,} valid / {len(data.test):,} test"
    if len(data.unheard) and data.unheard is not data.test:
        counts += f" / {len(data.unheard):,} of unheard speakers ({_listed(data.unheard.speakers)})"
    seconds = f"clips of {data.audio.samples / data.audio.rate:g} s at {data.audio.rate:,} Hz"
    return replace(data, train=train, provenance=f"{source}; {counts}; {seconds}; {how}")


def _listed(speakers: Sequence[str]) -> str:
    names = sorted(set(speakers))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
