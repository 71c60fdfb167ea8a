"""Splits of texts: what every text source returns, and how near-duplicates are kept out of the test split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.data.splits import stratified
from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

NEAR = 0.7  # shared shingles (Jaccard) from which on two texts count as the same
SHINGLE = 5  # letters
BANDS, ROWS = 8, 4  # of the signature: texts that agree in all rows of a band are compared
LONGEST = 10_000  # letters of a text that are looked at
TEST, VALID = 0.1, 0.1  # shares; valid is carved from what test leaves


@dataclass(frozen=True)
class Texts:
    """One split.

    Args:
        texts: as they were found, N of them; a text may be empty.
        targets: class of each, int64 [N].
    """

    texts: list[str]
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.targets):
            raise ValueError(f"{len(self.texts)} texts but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    def subset(self, indices: Tensor) -> Texts:
        """The texts at `indices`, int64 [M], as a split of their own."""
        return Texts([self.texts[i] for i in indices.tolist()], self.targets[indices])


@dataclass(frozen=True)
class TextData:
    """Three disjoint splits of texts, no near-duplicate in two of them.

    Args:
        train, valid, test: the splits; valid is never taken from an official test set.
        classes: name of each class.
        provenance: source, licence or citation, counts and how the split was made.
        best_accuracy: the highest accuracy that can be reached on test, where it is known (made-up data).
    """

    train: Texts
    valid: Texts
    test: Texts
    classes: list[str]
    provenance: str
    best_accuracy: float | None = None


# --- making splits -----------------------------------------------------------------------------------------


def split(
    texts: Texts,
    classes: list[str],
    source: str,
    *,
    seed: int,
    limit: int | None,
    test: float = TEST,
    valid: float = VALID,
) -> TextData:
    """Three splits, stratified and drawn by `seed`, with near-duplicates together in one of them.

    Args:
        source: name, and licence or citation, for the provenance.
        limit: most training texts; None for all.
        test, valid: shares of the whole, and of what test leaves.
    """
    groups = near_duplicates(texts.texts)
    parts = stratified(texts.targets, ((1 - test) * (1 - valid), (1 - test) * valid, test), seed, groups=groups)
    doubles = len(groups) - len(set(groups))
    how = f"stratified split, seed {seed}, {doubles:,} near-duplicates kept beside their like"
    return _finish([texts.subset(part) for part in parts], classes, source, how, limit, seed)


def official(
    train: Texts, valid: Texts | None, test: Texts, classes: list[str], source: str, *, seed: int, limit: int | None
) -> TextData:
    """The splits that a data set comes with; training texts that are in test or valid, or nearly so, are dropped.

    Args:
        valid: None carves a tenth out of train, stratified and drawn by `seed`.
    """
    given = [train, test] if valid is None else [train, test, valid]
    groups = near_duplicates([text for part in given for text in part.texts])
    bounds = torch.tensor([len(part) for part in given]).cumsum(0).tolist()
    in_train, in_test, in_valid = groups[: bounds[0]], set(groups[bounds[0] : bounds[1]]), groups[bounds[1] :]
    if valid is not None:
        valid, dropped_valid = _without(valid, in_valid, in_test)
    train, dropped = _without(train, in_train, in_test | set(in_valid))
    how = f"official split, {dropped:,} training texts dropped that are nearly in test"
    if valid is None:
        kept = [group for group in in_train if group not in in_test]
        rest, held = stratified(train.targets, (1 - VALID, VALID), seed, groups=kept)
        train, valid = train.subset(rest), train.subset(held)
        how += f"; validation carved from train, seed {seed}"
    else:
        how += f" or valid, {dropped_valid:,} validation texts that are in test"
    return _finish([train, valid, test], classes, source, how, limit, seed)


def _without(texts: Texts, groups: Sequence[int], others: set[int]) -> tuple[Texts, int]:
    """The texts whose group is not among `others`, and how many that drops."""
    kept = [i for i, group in enumerate(groups) if group not in others]
    return texts.subset(torch.tensor(kept, dtype=torch.long)), len(texts) - len(kept)


def _finish(
    parts: Sequence[Texts], classes: list[str], source: str, how: str, limit: int | None, seed: int
) -> TextData:
    train, valid, test = parts
    for name, part in (("training", train), ("validation", valid), ("test", test)):
        if not len(part):
            raise UserError(f"{source.split(':')[0]} leaves no {name} texts.", "More texts are needed, ten at least.")
    if len(train.targets.unique()) < 2:
        raise UserError(f"{source.split(':')[0]} has only one class to train on.", "At least two are needed.")
    if limit is not None and limit < len(train):
        if limit < len(classes):
            raise UserError(f"A limit of {limit} training texts leaves none for some of the {len(classes)} classes.")
        share = limit / len(train)
        train = train.subset(stratified(train.targets, (1 - share, share), seed)[1][:limit])
        how += f"; train limited to {len(train):,}"
    counts = f"{len(train):,} train / {len(valid):,} valid / {len(test):,} test, {len(classes)} classes"
    return TextData(train, valid, test, classes, f"{source}; {counts}; {how}")


# --- near-duplicates ---------------------------------------------------------------------------------------


def near_duplicates(texts: Sequence[str]) -> list[int]:
    """The group of each text, numbered from 0: texts in one group are the same but for a few letters.

    Case, punctuation, digits and white space do not count. Two texts are near when they share NEAR of their runs of
    five letters, as estimated by MinHash with locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of
    Massive Datasets, chapter 3); nearness is passed on from text to text.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(texts)
    letters = [fingerprint(text) for text in texts]
    firsts: dict[str, int] = {}
    same = np.array([firsts.setdefault(text, i) for i, text in enumerate(letters)], dtype=np.int64)
    long = np.array([i for i in firsts.values() if len(letters[i]) >= 2 * SHINGLE], dtype=np.int64)
    signatures = _signatures([letters[i][:LONGEST] for i in long])  # [M, BANDS × ROWS]
    left, right = [np.arange(count)], [same]
    for band in range(BANDS):
        rows = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = rows.view([("", rows.dtype)] * ROWS).ravel() if len(rows) else np.empty(0, np.int64)
        order = np.argsort(keys, kind="stable")
        neighbours = keys[order[1:]] == keys[order[:-1]]
        a, b = order[:-1][neighbours], order[1:][neighbours]
        near = (signatures[a] == signatures[b]).mean(1) >= NEAR if len(a) else np.empty(0, bool)
        left.append(long[a[near]])
        right.append(long[b[near]])
    i, j = np.concatenate(left), np.concatenate(right)
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(count, count))
    groups: list[int] = connected_components(graph, directed=False)[1].tolist()
    return groups


def fingerprint(text: str) -> str:
    """A text without case, punctuation, digits and spaces; as it stands where nothing else is in it."""
    return re.sub(r"[\W\d_]+", "", text.casefold()) or text.strip()


def _signatures(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """MinHash signatures, uint32 [M, BANDS × ROWS], of texts of at least SHINGLE letters each."""
    import numpy as np

    draws = np.random.default_rng(0).integers(1, 2**32, (BANDS * ROWS, 2), dtype=np.uint32)
    out = np.empty((len(texts), BANDS * ROWS), np.uint32)
    start = 0
    while start < len(texts):  # a few million letters at a time
        end, size = start, 0
        while end < len(texts) and size < 2**21:
            size, end = size + len(texts[end]), end + 1
        points = np.frombuffer("".join(texts[start:end]).encode("utf-32-le", "surrogatepass"), np.uint32)
        lengths = np.array([len(text) for text in texts[start:end]])
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        codes = np.zeros(len(points) - SHINGLE + 1, np.uint32)
        for offset in range(SHINGLE):  # a polynomial of the letters, modulo 2^32
            codes = codes * np.uint32(0x01000193) + points[offset : len(points) - SHINGLE + 1 + offset]
        codes ^= codes >> np.uint32(15)
        # Shingles that run over the end of a text belong to none: they repeat the first one of their text.
        place = np.arange(len(codes))
        owner = np.searchsorted(begins, place, side="right") - 1
        over = place + SHINGLE > begins[owner] + lengths[owner]
        codes[over] = codes[begins[owner[over]]]
        for number, (factor, shift) in enumerate(draws):
            mixed = (codes ^ shift) * (factor | np.uint32(1))
            mixed ^= mixed >> np.uint32(16)
            mixed *= np.uint32(0x85EBCA6B)
            out[start:end, number] = np.minimum.reduceat(mixed, begins)
        start = end
    return out
