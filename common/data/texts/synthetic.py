"""Made-up texts with a known best score."""

from __future__ import annotations

import random

import torch

from common.data.splits import stratified
from common.data.texts.splits import TextData, Texts

CLASSES, TEXTS, FLIPPED = 4, 600, 0.05
TOPIC_WORDS, OTHER_WORDS = 12, 300  # per class; shared by all


def synthetic(seed: int, limit: int | None) -> TextData:
    """Sentences of invented words: three or more of the topic of their class among many that say nothing.

    In each split exactly FLIPPED of the labels are replaced by another class, so that 1 − FLIPPED (to rounding) is
    the best accuracy.
    """
    rng = random.Random(seed)
    words = _words(rng, CLASSES * TOPIC_WORDS + OTHER_WORDS)
    topics = [words[k * TOPIC_WORDS : (k + 1) * TOPIC_WORDS] for k in range(CLASSES)]
    others = words[CLASSES * TOPIC_WORDS :]
    often = [1 / rank for rank in range(1, len(others) + 1)]  # as Zipf's law has it
    texts = []
    for number in range(TEXTS):
        said = rng.choices(topics[number % CLASSES], k=rng.randint(3, 5))
        said += rng.choices(others, often, k=rng.randint(4, 20))
        rng.shuffle(said)
        texts.append(" ".join(said).capitalize() + ".")
    targets = torch.arange(TEXTS) % CLASSES
    parts = stratified(targets, (2 / 3, 2 / 15, 1 / 5), seed)
    for part in parts:
        for index in rng.sample(part.tolist(), round(FLIPPED * len(part))):
            targets[index] = (targets[index] + rng.randint(1, CLASSES - 1)) % CLASSES
    train, valid, test = (Texts([texts[i] for i in part.tolist()], targets[part]) for part in parts)
    how = f"seed {seed}"
    if limit is not None and limit < len(train):
        train, how = train.subset(torch.arange(limit)), f"{how}; train limited to {limit}"
    best = 1 - round(FLIPPED * len(test)) / len(test)
    source = f"synthetic: made-up words with {FLIPPED:.0%} wrong labels, best possible accuracy {best:.3f}"
    counts = f"{len(train):,} train / {len(valid):,} valid / {len(test):,} test, {CLASSES} classes"
    return TextData(train, valid, test, [f"topic {k}" for k in range(CLASSES)], f"{source}; {counts}; {how}", best)


def _words(rng: random.Random, count: int) -> list[str]:
    """Different words of two to four syllables that can be spoken."""
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = (rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))
        found["".join(syllables)] = None
    return list(found)
