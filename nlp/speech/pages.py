"""What a report shows of spoken words: who is understood, what is confused, and the worst mistakes to listen to."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.data.audio.splits import AudioData, Clips
from common.kinds.audio import wav
from common.metrics import Metrics, wilson
from common.report import page as report
from common.report.sounds import Heard, sounds
from nlp.speech.networks import LogMel

MOST = 12  # mistakes that can be listened to
MOST_SPEAKERS = 40  # in the table


def has_strangers(data: AudioData) -> bool:
    """Whether there are clips of unheard speakers besides those of the test split."""
    return bool(len(data.unheard)) and data.unheard is not data.test


def sections(
    data: AudioData, tested: dict[str, Clips], logits: dict[str, Tensor], metrics: Metrics
) -> list[report.Section]:
    """A table of the speakers, where they are known, and players of the most confident mistakes.

    Args:
        tested: the test split as "heard", clips of unheard speakers as "unheard".
        logits: [N, K] of each.
    """
    listed = [speakers(tested, logits)] if any(data.test.speakers) or len(data.unheard) else []
    hardest = "unheard" if "unheard" in tested else "heard"
    return [*listed, mistakes(tested[hardest], logits[hardest], data.classes)]


def speakers(tested: dict[str, Clips], logits: dict[str, Tensor]) -> report.Section:
    """The accuracy of each speaker, the least understood first."""
    rows = []
    for kind, clips in tested.items():
        right = (logits[kind].argmax(1) == clips.targets).tolist()
        for name in sorted(set(clips.speakers)):
            mine = [hit for hit, speaker in zip(right, clips.speakers, strict=True) if speaker == name]
            low, high = wilson(sum(mine), len(mine))
            rows.append((name or "unknown", kind, sum(mine) / len(mine), low, high, len(mine)))
    rows.sort(key=lambda row: (row[1] == "heard", row[2], row[0]))
    columns = ("speaker", "in training", "accuracy", "accuracy, low", "accuracy, high", "n")
    table = report.table("Speakers", columns, rows[:MOST_SPEAKERS], "With the 95 % interval (Wilson) of these clips.")
    return replace(table, wide=True, first=True)


def mistakes(clips: Clips, logits: Tensor, classes: list[str]) -> report.Section:
    """The clips that the model got wrong with the most confidence, each with its spectrogram and a player."""
    confidence, predicted = torch.softmax(logits.double(), dim=1).max(dim=1)
    wrong = (predicted != clips.targets).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MOST].tolist()
    spectrogram = LogMel(clips.audio.rate)
    shown = []
    for index in worst:
        bands = spectrogram(clips.audio.network_input([clips[index]]))[0, 0].flip(0)  # high tones above
        grey = (bands - bands.min()) / (bands.max() - bands.min()).clamp(min=1e-6)
        who = f", {clips.speakers[index]}" if clips.speakers[index] else ""
        shown.append(
            Heard(
                wav(clips[index], clips.audio.rate),
                classes[int(predicted[index])],
                f"{confidence[index]:.1%} sure, is {classes[int(clips.targets[index])]}{who}",
                (255 * (1 - grey)).to(torch.uint8).unsqueeze(0),
            )
        )
    note = f"{len(wrong)} of {len(logits)} clips are misclassified; these are the most confident ones."
    return sounds("Most confident mistakes", shown, note)
