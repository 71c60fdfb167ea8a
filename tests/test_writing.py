"""Texts written together, token by token: each as it would be alone, whatever begins, ends or is dropped beside it."""

from __future__ import annotations

import random
import string
from typing import Any

import pytest
import torch

from common.kinds.prompt import Prompt
from common.kinds.sampling import Sampling
from common.kinds.writing import stream
from nlp import decoding
from nlp.gpt import model as models
from nlp.gpt.model import FAMILIES, Shape
from nlp.vocabulary import Characters

LIMIT = 24
LETTERS = "abc éß€😀"


@pytest.fixture(scope="module", params=FAMILIES)
def written(request: pytest.FixtureRequest) -> tuple[Any, Characters, int]:
    """A network with random weights, its vocabulary of letters and single bytes, and the tokens that it sees."""
    torch.manual_seed(0)
    words = Characters(LETTERS, by_bytes=True)
    network = models.build(request.param, Shape(len(words), LIMIT, 2, 32, 4, 2))
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return network.eval(), words, LIMIT if request.param == "gpt" else 0


def prompts(count: int) -> list[Prompt]:
    dice = random.Random(1)
    found = []
    for number in range(count):
        text = "".join(dice.choice(LETTERS) for _ in range(dice.randrange(30)))
        stops = [
            "".join(dice.choice(LETTERS + string.ascii_letters) for _ in range(dice.randrange(1, 3)))
            for _ in range(dice.randrange(3))
        ]
        found.append(
            Prompt(text, Sampling(dice.randrange(1, 32), dice.choice([0, 0.7, 1.5]), stop=tuple(stops), seed=number))
        )
    return found


def alone(written: tuple[Any, Characters, int], prompt: Prompt) -> dict[str, Any]:
    network, words, limit = written
    (text,) = decoding.generate(network, words, [prompt.text], [prompt.sampling], limit=limit)
    return text.row(words)


def test_streamed_is_what_is_answered_byte_for_byte(written: tuple[Any, Characters, int]) -> None:
    network, words, limit = written
    for prompt in prompts(24):
        writer = decoding.Writer(network, words, limit=limit)
        news = list(stream(writer, prompt))
        row = alone(written, prompt)
        assert "".join(one.text for one in news) == row["text"]
        assert [one.finish for one in news[:-1]] == [""] * (len(news) - 1)
        assert news[-1].finish == row["finish_reason"]
        assert writer.step() == []
        for stop in prompt.sampling.stop:
            assert stop not in row["text"]


def test_texts_that_come_and_go_are_written_as_alone(written: tuple[Any, Characters, int]) -> None:
    network, words, limit = written
    dice = random.Random(2)
    waiting = prompts(24)
    expected = [alone(written, prompt) for prompt in waiting]
    writer = decoding.Writer(network, words, limit=limit)
    texts: dict[Any, int] = {}
    found: dict[int, str] = {}
    ends: dict[int, str] = {}
    dropped: set[int] = set()
    while waiting or len(ends) + len(dropped) < len(expected):
        for _ in range(dice.randrange(4)):
            if waiting:
                text = writer.add(waiting.pop())
                texts[text] = len(waiting)
        if dice.random() < 0.2 and (going := [t for t, n in texts.items() if n not in ends and n not in dropped]):
            writer.drop(going[0])
            dropped.add(texts[going[0]])
        for one in writer.step():
            number = texts[one.writing]
            found[number] = found.get(number, "") + one.text
            if one.finish:
                ends[number] = one.finish
    assert dropped
    for number, row in enumerate(expected):
        if number in dropped:
            assert row["text"].startswith(found.get(number, ""))
        else:
            assert (found[number], ends[number]) == (row["text"], row["finish_reason"])
