"""Writing: a cache, other prompts in the batch, or a draft change nothing of a text; every option does what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.kinds.sampling import Sampling
from common.machine.device import isolated_rng
from nlp import decoding
from nlp.gpt.model import FAMILIES, GPT, Shape, build
from nlp.speculative import speculate
from nlp.vocabulary import END, Characters

WORDS = Characters("abcdefghij", by_bytes=False)
PROMPTS = ["abcabcabc", "d", "", "jihgfedcbaabcdefgh"]
CONTEXT = 24


class Endless(nn.Module):
    """A network that never ends a text."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.start = model, model.start

    def forward(self, tokens: Tensor) -> Tensor:
        return self._endless(self.model(tokens))

    def extend(self, *given: Any) -> Tensor:
        return self._endless(self.model.extend(*given))

    def _endless(self, logits: Tensor) -> Tensor:
        return torch.cat([logits[..., :1].clamp(max=-50), logits[..., 1:]], -1)


def network(family: str = "gpt", seed: int = 0, width: int = 32, endless: bool = True) -> Any:
    """One that was not trained."""
    shape = Shape(len(WORDS), CONTEXT, depth=2, width=width, heads=4, kv_heads=2, rows=64)
    with isolated_rng(seed, torch.device("cpu")):
        model = build(family, shape).eval()
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.3)
    return Endless(model) if endless else model


def write(model: Any, prompts: list[str], samplings: list[Sampling], **said: Any) -> list[list[int]]:
    limit = CONTEXT if isinstance(model.model, GPT) else 0
    texts = decoding.generate(model, WORDS, prompts, samplings, limit=limit, **said)
    return [[token for token, _ in text.written] for text in texts]


# --- the cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_from_the_cache_are_those_without(family: str) -> None:
    """Read in pieces of any size, in a batch of texts of different lengths."""
    model = network(family)
    texts = [[END, *WORDS.encode([prompt])[0]] for prompt in ("abcdefghij" * 2, "abc", "jjjjjjjjjj")]
    cache = model.start(3)
    with torch.no_grad():
        for begin, end in ((0, 3), (3, 4), (4, 11), (11, 21)):
            rows = [row for row, text in enumerate(texts) if len(text) > begin]
            if len(rows) < len(texts):
                cache.keep(torch.tensor(rows))
                texts = [texts[row] for row in rows]
            tokens, lengths = decoding.padded([text[begin:end] for text in texts], torch.device("cpu"))
            logits = model.extend(tokens, lengths, cache)
            for row, text in enumerate(texts):
                whole = model(torch.tensor([text[:end]]))[0, begin:]
                assert torch.allclose(logits[row, : len(whole)], whole, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_and_without_cache_alone_and_in_a_batch_the_text_is_the_same(family: str) -> None:
    """Also beyond the context, where the window moves, and where some texts end before others."""
    model = network(family)
    samplings = [Sampling(max_tokens=n, temperature=t, seed=n) for n, t in ((50, 0), (5, 0), (40, 0.9), (50, 1.0))]
    together = write(model, PROMPTS, samplings)
    assert [len(ids) for ids in together] == [50, 5, 40, 50]
    assert write(model, PROMPTS, samplings, cached=False) == together
    for prompt, sampling, expected in zip(PROMPTS, samplings, together, strict=True):
        assert write(model, [prompt], [sampling]) == [expected]


def test_a_window_moves_in_steps_and_never_holds_more_than_the_limit() -> None:
    begins = [decoding.window(length, 10) for length in range(40)]
    assert begins == sorted(begins)
    assert all(5 < length - begin <= 10 for length, begin in enumerate(begins) if length > 10)
    assert set(begins) == {0, 5, 10, 15, 20, 25, 30}


def test_what_a_prompt_was_expected_to_be_is_what_one_pass_says() -> None:
    model = network()
    (pieces, *_) = decoding.read(model, WORDS, ["abcd", "j"], CONTEXT)
    shares = model(torch.tensor([[END, 1, 2, 3]])).softmax(2)[0]
    assert [piece for piece, _ in pieces] == list("abcd")
    assert [share for _, share in pieces] == pytest.approx([shares[i, i + 1].item() for i in range(4)], abs=1e-5)


# --- options -----------------------------------------------------------------------------------------------

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"temperature": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        ({"temperature": 1.0, "top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.5}, [1, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.51}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 1.0, "min_p": 0.29}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
    ],
)
def test_options_shape_the_distribution(said: dict[str, Any], expected: list[float]) -> None:
    found = decoding.probabilities(LOGITS, Sampling(**said), [])
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_repetition_penalty_makes_what_was_there_less_likely() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, -2.0])
    found = decoding.probabilities(logits, Sampling(temperature=1.0, repetition_penalty=2.0), [0, 3, 3])
    assert found.tolist() == pytest.approx(torch.tensor([1.0, 1.0, -1.0, -4.0]).softmax(0).tolist())


def test_tokens_come_as_often_as_they_are_likely() -> None:
    model = network()
    sampling = [Sampling(max_tokens=1, temperature=1.0, seed=seed) for seed in range(2000)]
    drawn = torch.tensor(write(model, ["ab"] * 2000, sampling)).flatten().bincount(minlength=len(WORDS)) / 2000
    shares = model(torch.tensor([[END, 1, 2]]))[0, -1].softmax(0)
    assert (drawn - shares).abs().max() < 0.05


def test_a_stop_string_ends_a_text_before_it_even_across_tokens() -> None:
    model = network()
    (ids,) = write(model, ["abc"], [Sampling(max_tokens=20, temperature=1.0)])
    said = WORDS.decode(ids).decode()
    stop = said[6:9]
    place = said.index(stop)
    texts = decoding.generate(
        model, WORDS, ["abc"], [Sampling(max_tokens=20, temperature=1.0, stop=("never", stop))], limit=CONTEXT
    )
    row = texts[0].row(WORDS)
    assert (row["text"], row["finish_reason"]) == (said[:place], "stop")
    assert "".join(piece for piece, _ in row["pieces"]) == row["text"]
    assert row["tokens"] == place + 3


def test_the_end_of_a_document_ends_a_text() -> None:
    model = network(endless=False)
    with torch.no_grad():
        model.head.weight[END] = 50 * model.head.weight[1]  # very likely, or very unlikely
        model.head.weight[END] *= model(torch.tensor([[END, 1]]))[0, -1, 1].sign()
    row = decoding.generate(model, WORDS, ["a"], [Sampling(temperature=0)], limit=CONTEXT)[0].row(WORDS)
    assert (row["text"], row["tokens"], row["finish_reason"]) == ("", 0, "stop")


def test_a_character_of_several_tokens_is_one_piece() -> None:
    euro = "€".encode()
    pieces = [(b"a", 0.5), (euro[:1], 0.5), (euro[1:2], 0.5), (euro[2:], 0.5), (b"\xff", 0.5), (b"b", 0.5)]
    assert decoding.readable(pieces) == [("a", 0.5), ("€", 0.125), ("\ufffd", 0.5), ("b", 0.5)]
    assert decoding.readable(pieces[:3]) == [("a", 0.5), ("\ufffd", 0.25)]
    assert decoding.readable(pieces, cut=4) == [("a", 0.5), ("€", 0.125)]


# --- speculative decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("draft_seed", [0, 1])
def test_with_a_draft_the_likeliest_text_is_the_same(draft_seed: int) -> None:
    model, draft = network(width=64), network(seed=draft_seed, width=64 if draft_seed == 0 else 32)
    for prompt in PROMPTS:
        sampling = Sampling(max_tokens=40, temperature=0, repetition_penalty=1.1)
        found = speculate(model, draft, WORDS, prompt, sampling, limit=CONTEXT)
        (plain,) = write(model, [prompt], [sampling])
        assert [token for token, _ in found.text.written] == plain
        if draft_seed == 0:  # it is the same network
            assert found.accepted >= found.proposed - 4
        else:
            assert found.accepted < found.proposed


class Table(nn.Module):
    """Logits that depend on the last token alone, with a cache that only counts."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(len(WORDS), len(WORDS), generator=torch.Generator().manual_seed(seed)))
        with torch.no_grad():
            self.logits[:, END] = -50

    def start(self, batch: int) -> Any:
        return SimpleNamespace(lengths=torch.zeros(batch, dtype=torch.int64))

    def extend(self, tokens: Tensor, lengths: Tensor, cache: Any) -> Tensor:
        cache.lengths += lengths
        return self.logits[tokens]


def test_with_a_draft_tokens_come_as_often_as_without() -> None:
    model, draft = Table(0), Table(1)
    drawn = torch.zeros(3, len(WORDS))
    for seed in range(1500):
        sampling = Sampling(max_tokens=3, temperature=1.0, seed=seed)
        found = speculate(model, draft, WORDS, "a", sampling, limit=CONTEXT, ahead=2)
        for place, (token, _) in enumerate(found.text.written):
            drawn[place, token] += 1
    shares = model.logits.detach().softmax(1)
    expected = shares[1]
    for place in range(3):
        assert (drawn[place] / 1500 - expected).abs().max() < 0.05
        expected = expected @ shares
