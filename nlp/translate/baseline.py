"""What needs no network: the text as it is, and each word replaced by the likeliest, by IBM model 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ROUNDS = 5  # of expectation and maximisation
LONGEST = 100  # words of a sentence that is learnt from


class WordByWord:
    """IBM model 1 (Brown et al. 1993, J93-2003): the probability that a word is said for another, whatever the order.

    Every word becomes the one that it is likeliest said by; one that training did not have stays as it is.

    Args:
        pairs: texts and their translations.
        letters: whether sources are read letter by letter.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], letters: bool) -> None:
        import numpy as np

        self._letters = letters
        left: dict[str, int] = {"": 0}  # nothing, from which any word may come
        right: dict[str, int] = {}
        rows, columns, places = [], [], []  # of every meeting of two words; the place is that of the word on the right
        place = 0
        for source, target in pairs:
            words, said = self.words(source), target.split()
            if not 0 < len(words) <= LONGEST or not 0 < len(said) <= LONGEST:
                continue
            numbers = [0, *(left.setdefault(word, len(left)) for word in words)]
            for word in said:
                column = right.setdefault(word, len(right))
                rows += numbers
                columns += [column] * len(numbers)
                places += [place] * len(numbers)
                place += 1
        keys, kinds = np.unique(np.array(rows, np.int64) * len(right) + columns, return_inverse=True)
        source_of, target_of = keys // max(1, len(right)), keys % max(1, len(right))
        where = np.array(places, np.int64)
        shares = np.ones(len(keys))
        for _ in range(ROUNDS):
            weights = shares[kinds]
            weights = weights / np.bincount(where, weights)[where]
            counts = np.bincount(kinds, weights, minlength=len(keys))
            shares = counts / np.bincount(source_of, counts, minlength=len(left))[source_of]
        best: dict[int, int] = {}
        for key in np.lexsort((target_of, -shares)).tolist():  # the likeliest first
            best.setdefault(int(source_of[key]), int(target_of[key]))
        names = list(right)
        self._said = {word: names[best[number]] for word, number in left.items() if word and number in best}

    def words(self, text: str) -> list[str]:
        return list(text) if self._letters else text.split()

    def translate(self, texts: Sequence[str]) -> list[str]:
        """Each word of each text by its likeliest."""
        return [" ".join(self._said.get(word, word) for word in self.words(text)) for text in texts]
