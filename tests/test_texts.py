"""Splits of texts: near-duplicates are found, whatever the script, and never straddle a split."""

from __future__ import annotations

import random

import pytest
import torch

from common.data.texts.splits import Texts, fingerprint, near_duplicates, official, split
from common.errors import UserError


def sentences(count: int, seed: int = 0, words: int = 30) -> list[str]:
    """Unlike each other: random words of random letters."""
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(words))
        for _ in range(count)
    ]


def test_case_punctuation_digits_and_spaces_do_not_count() -> None:
    assert fingerprint("It's 12 o'clock, Sir!") == fingerprint("its o clock  sir")
    groups = near_duplicates(["It's 12 o'clock!", "its o CLOCK", "Straße", "STRASSE", "other"])
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups)) == 3


def test_texts_without_letters_are_told_apart() -> None:
    groups = near_duplicates(["😀", "😀", "😡", "1", "2", "", " "])
    assert groups[0] == groups[1]
    assert groups[5] == groups[6]
    assert len(set(groups)) == 5


@pytest.mark.parametrize(
    "alphabet", ["abcdefghijklmnopqrstuvwxyz", "абвгдежзийклмнопрстуфхцч", "的一是不了人我在有他这为之大来以个中上们"]
)
def test_a_few_changed_letters_are_near_and_others_are_not(alphabet: str) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices(alphabet, k=150)) for _ in range(100)]
    changed = [text[:50] + alphabet[0] * 3 + text[53:] for text in texts]
    groups = near_duplicates(texts + changed)
    found = sum(a == b for a, b in zip(groups[:100], groups[100:], strict=True))
    assert found >= 98
    assert len(set(groups[:100])) == 100


def test_the_estimate_follows_the_true_share_of_shingles() -> None:
    texts, fresh = sentences(60, words=40), sentences(60, 1, 40)
    near, far = [], []
    for share in (0.03, 0.1, 0.3):  # of the words replaced
        rng = random.Random(0)
        pairs = [zip(a.split(), b.split(), strict=True) for a, b in zip(texts, fresh, strict=True)]
        others = [" ".join(new if rng.random() < share else old for old, new in pair) for pair in pairs]
        groups = near_duplicates(texts + others)
        for i, (a, b) in enumerate(zip(map(fingerprint, texts), map(fingerprint, others), strict=True)):
            x, y = ({t[k : k + 5] for k in range(len(t) - 4)} for t in (a, b))
            exact = len(x & y) / len(x | y)  # Jaccard, which the signatures estimate
            if exact > 0.85:
                near.append(groups[i] == groups[60 + i])
            elif exact < 0.5:
                far.append(groups[i] == groups[60 + i])
    assert min(len(near), len(far)) > 30
    assert sum(near) >= 0.95 * len(near)
    assert sum(far) <= 0.05 * len(far)


def test_one_text_of_a_megabyte_and_one_of_nothing() -> None:
    groups = near_duplicates(["word " * 200_000, "", "word " * 200_001])
    assert groups[0] == groups[2] != groups[1]


def test_no_group_is_in_two_parts() -> None:
    base = sentences(200)
    texts = [text + ending for text in base for ending in ("", " indeed", "!")]
    data = split(Texts(texts, torch.arange(600) // 3 % 2), ["a", "b"], "made: up", seed=3, limit=None)
    origins = [{text[:40] for text in part.texts} for part in (data.train, data.valid, data.test)]
    assert not origins[0] & origins[1]
    assert not origins[0] & origins[2]
    assert not origins[1] & origins[2]
    assert sum(len(part) for part in (data.train, data.valid, data.test)) == 600
    assert "400 near-duplicates kept beside their like" in data.provenance


def test_an_official_test_set_stays_whole_and_what_is_nearly_in_it_leaves_train() -> None:
    texts = sentences(120)
    train = Texts([*texts[:100], texts[110] + "!", texts[111].upper()], torch.arange(102) % 2)
    test = Texts(texts[100:], torch.arange(20) % 2)
    data = official(train, None, test, ["a", "b"], "made: up", seed=0, limit=None)
    assert data.test.texts == test.texts
    assert sorted(data.train.texts + data.valid.texts) == sorted(texts[:100])
    assert "2 training texts dropped" in data.provenance
    valid = Texts([texts[0], texts[105], "quite another thing altogether"], torch.tensor([0, 1, 0]))
    data = official(train, valid, test, ["a", "b"], "made: up", seed=0, limit=50)
    assert data.valid.texts == [texts[0], "quite another thing altogether"]
    assert texts[0] not in data.train.texts
    assert len(data.train) == 50


def test_too_few_texts_are_named() -> None:
    with pytest.raises(UserError, match=r"leaves no (validation|test) texts"):
        split(Texts(["one", "two"], torch.tensor([0, 1])), ["a", "b"], "csv: x", seed=0, limit=None)
    many = Texts(sentences(50), torch.arange(50) % 5)
    with pytest.raises(UserError, match="A limit of 3"):
        split(many, list("abcde"), "csv: x", seed=0, limit=3)
    with pytest.raises(ValueError, match="2 texts but 1 targets"):
        Texts(["a", "b"], torch.tensor([0]))
