"""What a language model has to beat: counted n-grams of bytes, and a general compressor."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LONGEST = 8  # bytes of an n-gram: as many as fit into a key of 64 bits
END = 0xFF  # stands for the end of a document: no byte of UTF-8
MOST_COUNTED = 2**26  # bytes of the training text; of a longer one the last are counted
MOST_COMPRESSED = 2**22  # bytes of the training text that the compressor has seen before
AT_ONCE = 2**18  # queries


class NGrams:
    """Probabilities of the next byte by n-grams of 1 to LONGEST bytes, smoothed by Witten and Bell's method.

    P_n(w | h) = (c(h w) + t(h) P_{n−1}(w | h')) / (c(h) + t(h)), where h are the n − 1 bytes before w, c counts in
    the training text, t(h) is the number of different bytes that follow h there, and h' is h without its first byte.
    Where h was never seen P_n is P_{n−1}; P_0 is 1/256 (Witten and Bell 1991, method C; Chen and Goodman 1998, 2.6).
    LONGEST − 1 times END stands before and behind the text.

    Args:
        text: that is counted; of more than MOST_COUNTED bytes the last.
    """

    def __init__(self, text: bytes) -> None:
        import numpy as np

        self.counted = min(len(text), MOST_COUNTED)
        edge = bytes([END]) * (LONGEST - 1)
        # All n-grams of one length are the beginnings of these: one sort serves every length.
        self._keys = np.sort(_windows(edge + text[-self.counted :] + edge, self.counted + LONGEST - 1))
        self._different: dict[int, np.ndarray[Any, Any]] = {}

    def bits(self, text: bytes) -> list[float]:
        """The mean bits that each byte of a text takes, by the longest n-gram that is used: of 1, 2, ... LONGEST bytes.

        Args:
            text: at least a byte.
        """
        import numpy as np

        windows, counts = np.unique(_windows(bytes([END]) * (LONGEST - 1) + text, len(text)), return_counts=True)
        totals = [0.0] * LONGEST
        for start in range(0, len(windows), AT_ONCE):
            weights = counts[start : start + AT_ONCE]
            for number, probabilities in enumerate(self._probabilities(windows[start : start + AT_ONCE])):
                totals[number] -= float((np.log2(probabilities) * weights).sum())
        return [total / len(text) for total in totals]

    def distribution(self, before: bytes, longest: int) -> np.ndarray[Any, Any]:
        """The probability of each byte after a text, float64 [256], by n-grams of up to `longest` bytes."""
        edge = bytes([END]) * (LONGEST - 1)
        context = (edge + before)[-(LONGEST - 1) :]
        windows = _windows(b"".join(context + bytes([byte]) for byte in range(256)), 256, step=LONGEST)
        return self._probabilities(windows)[longest - 1]

    def _probabilities(self, windows: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """Of the last byte of each window, after those before it, by the longest n-gram that is used."""
        import numpy as np

        found = []
        probability = np.full(len(windows), 1 / 256)
        for length in range(1, LONGEST + 1):
            both, _, _ = self._count(windows, length, length)
            context, first, last = self._count(windows >> np.uint64(8), length - 1, length)
            kinds = self._kinds(length, first, last)
            seen = context > 0
            mixed = (both + kinds * probability) / np.where(seen, context + kinds, 1)
            probability = np.where(seen, mixed, probability)
            found.append(probability)
        return found

    def _count(self, windows: np.ndarray[Any, Any], length: int, before: int) -> tuple[np.ndarray[Any, Any], ...]:
        """How often the last `length` bytes of each window were counted, and the places of the keys that begin so."""
        import numpy as np

        if not length:
            none = np.zeros(len(windows), np.int64)
            return none + len(self._keys), none, none + len(self._keys)
        low = windows << np.uint64(8 * (LONGEST - length))
        high = low | np.uint64(2 ** (8 * (LONGEST - length)) - 1)
        order = np.argsort(low)  # neighbours are found near each other: ten times faster on a large text
        first, last = np.empty(len(low), np.int64), np.empty(len(low), np.int64)
        first[order] = np.searchsorted(self._keys, low[order])
        last[order] = np.searchsorted(self._keys, high[order], side="right")
        return last - first, first, last

    def _kinds(self, length: int, first: np.ndarray[Any, Any], last: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """How many different n-grams of a length begin in each range of keys."""
        import numpy as np

        if length not in self._different:
            begins = self._keys >> np.uint64(8 * (LONGEST - length))
            self._different[length] = np.concatenate([[0, 1], 1 + np.cumsum(begins[1:] != begins[:-1], dtype=np.int32)])
        numbers = self._different[length]  # [M + 1]: different n-grams among the first keys
        # A range begins with an n-gram that the key before it has not: its context is another.
        return numbers[last] - numbers[first]


def _windows(text: bytes, count: int, step: int = 1) -> np.ndarray[Any, Any]:
    """The LONGEST bytes from every `step`th place on as one number, the first byte its highest: uint64 [count]."""
    import numpy as np

    points = np.frombuffer(text, np.uint8)
    keys = np.zeros(count, np.uint64)
    for offset in range(LONGEST):
        keys = (keys << np.uint64(8)) | points[offset : offset + step * (count - 1) + 1 : step].astype(np.uint64)
    return keys


@dataclass(frozen=True)
class Counted:
    """How well a text is predicted without a network, in bits per byte.

    Attributes:
        ngram: by n-grams of up to `length` bytes.
        all: by n-grams of up to 1, 2, ... LONGEST bytes.
        lzma: by a compressor that has seen the end of the training text.
        seen: bytes of that end.
    """

    ngram: float
    length: int
    all: list[float]
    lzma: float
    seen: int


def joined(documents: Sequence[str]) -> bytes:
    """Documents with END between them."""
    return bytes([END]).join(document.encode() for document in documents)


def measure(ngrams: NGrams, train: bytes, text: bytes, length: int | None = None) -> Counted:
    """Bits per byte of a text.

    Args:
        length: of the longest n-grams that are used; the best for this text by default.
    """
    found = ngrams.bits(text)
    length = length or min(range(LONGEST), key=lambda n: found[n]) + 1
    seen = min(len(train), MOST_COMPRESSED)
    return Counted(found[length - 1], length, found, compressed(train[-seen:], text), seen)


def compressed(train: bytes, text: bytes) -> float:
    """Bits per byte that a text adds to what LZMA packs the training text into."""
    sizes = [len(lzma.compress(part, format=lzma.FORMAT_RAW, filters=_FILTERS)) for part in (train, train + text)]
    return 8 * (sizes[1] - sizes[0]) / len(text)


_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**24}]


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)
