"""How samples are divided into train, validation and test, whatever they are."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def stratified(
    targets: Tensor, fractions: Sequence[float], seed: int, groups: Sequence[Hashable] | None = None
) -> list[Tensor]:
    """Split indices at random, each class in the given fractions and the totals exact to rounding.

    The first part gets what the others leave, and at least one sample of each class; the others get at least one of
    each class that has enough for all parts. A group counts as one sample of the class of its first.

    Args:
        targets: class of each sample, int64 [N].
        fractions: of the parts, summing to 1.
        seed: of the shuffling; the same seed gives the same split.
        groups: of each sample; samples of one group stay in one part. None where each is alone.

    Returns:
        Sorted indices of each part, int64.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    labels = targets.numpy()
    first = np.arange(len(labels))  # of the group of each sample
    if groups is not None:
        seen: dict[Hashable, int] = {}
        first = np.array([seen.setdefault(group, index) for index, group in enumerate(groups)])
    heads = np.flatnonzero(first == np.arange(len(labels)))
    part_of = np.zeros(len(labels), dtype=np.int64)
    carry = [0.0] * len(fractions)  # rounding errors go on to the next class, so that totals are exact
    for label in np.unique(labels[heads]):
        queue = generator.permutation(heads[labels[heads] == label])
        least = 1 if len(queue) >= len(fractions) else 0
        start = 1  # one stays in the first part
        for part in range(1, len(fractions)):
            wanted = len(queue) * fractions[part] + carry[part]
            size = min(max(round(wanted), least), len(queue) - start)
            part_of[queue[start : start + size]] = part
            carry[part] = wanted - size
            start += size
    return [torch.from_numpy(np.flatnonzero(part_of[first] == part)) for part in range(len(fractions))]


def duplicates(files: Sequence[Path]) -> list[Hashable]:
    """A key for each file that byte-identical files share; only files of equal length are read."""
    sizes = [file.stat().st_size for file in files]
    often = Counter(sizes)
    return [
        (size, hashlib.blake2b(file.read_bytes(), digest_size=16).digest()) if often[size] > 1 else file
        for file, size in zip(files, sizes, strict=True)
    ]
