"""nlp.gpt: it learns what can be known, counts as the formulas say, writes the same with a cache as without."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.machine.device import isolated_rng
from nlp import optim, vocabulary
from nlp.gpt import __main__ as gpt
from nlp.gpt import data, ngram
from nlp.gpt.model import FAMILIES, Shape, build

CPU = torch.device("cpu")
SMALL = Shape(vocabulary=11, context=32, depth=2, width=32, heads=4, kv_heads=2, rows=64)


def network(family: str = "gpt", shape: Shape = SMALL, seed: int = 0) -> Any:
    """A small network whose weights are all random: at the start of training the outputs are 0."""
    with isolated_rng(seed, CPU):
        model = build(family, shape)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.2)
    return model.eval()


def tokens(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(1, SMALL.vocabulary, size, generator=torch.Generator().manual_seed(seed))


def run(out: Path, **said: Any) -> dict[str, Any]:
    return execute(gpt.example, Options(out=str(out), tiny=True, quiet=True), said)


# --- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"mlp": "swiglu", "tied": True, "cap": 9.0, "rows": 0, "kv_heads": 4}])
def test_nothing_is_seen_before_it_comes(family: str, changes: dict[str, Any]) -> None:
    model = network(family, Shape(**(vars(SMALL) | changes)))
    text = tokens(2, 20)
    other = text.clone()
    other[:, 12:] = tokens(2, 8, seed=1)
    with torch.no_grad():
        before, after = model(text), model(other)
    assert before.shape == (2, 20, 11)
    assert torch.allclose(before[:, :12], after[:, :12], atol=1e-5)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-2)


def test_the_attention_that_is_shown_is_the_one_that_counts() -> None:
    model = network()
    text = tokens(2, 9)
    seen: list[tuple[Any, ...]] = []
    outputs: list[Tensor] = []
    layer = model.blocks[1].attention
    with torch.inference_mode():
        before = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
        after = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        weights = model.attention(text)[1]  # [B, H, T, T]
        before.remove()
        after.remove()
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-6)
        assert not weights.triu(1).any()
        _, _, v = layer._read(*seen[0][:2])
        by_hand = layer.output((weights @ layer._shared(v)).transpose(1, 2).flatten(2))
    assert torch.allclose(by_hand, outputs[0], atol=1e-5)


def test_a_gpt_knows_distances_not_places() -> None:
    """Rotary positions: logits depend on how far apart tokens are. The same text further on gives the same."""
    model = network()
    text = tokens(1, 10)
    with torch.no_grad():
        before = [torch.zeros_like(text)] * 2
        here = model.read(text, before, torch.arange(10), None)
        there = model.read(text, before, torch.arange(20, 30), None)
    assert torch.allclose(here, there, atol=1e-4)


def test_a_new_gpt_expects_every_token_alike() -> None:
    model = build("gpt", SMALL)
    assert gpt.loss_of(model(tokens(2, 8)), tokens(2, 8)).item() == pytest.approx(math.log(11))


def test_logits_are_bent_to_the_cap() -> None:
    model = network(shape=Shape(**(vars(SMALL) | {"cap": 2.0})))
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 100
        assert model(tokens(2, 20)).abs().max() <= 2.0


@pytest.mark.parametrize("form", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_muon_takes_the_steps_of_pytorchs(shape: tuple[int, int], form: torch.dtype) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    theirs, ours = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, ns_coefficients=optim.COEFFICIENTS),
        optim.Muon([ours], 0.02, 0.1, form=form),
    ]
    for step in range(3):
        for weight, optimizer in zip((theirs, ours), optimizers, strict=True):
            weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # theirs rounds to bf16
    singular = torch.linalg.svdvals(
        optim.orthogonal(torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)))
    )
    assert singular.min() > 0.3
    assert singular.max() < 1.4


def test_muon_takes_matrices_and_adamw_the_rest() -> None:
    model = network()
    matrices, rest = optim.optimizers("muon", model, CPU, lr=0.02, embedding_lr=0.003, weight_decay=0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    first, second = ({names[id(p)] for g in o.param_groups for p in g["params"]} for o in (matrices, rest))
    assert second == {"embedding.weight", "ngrams.weight", "head.weight"}
    assert first | second == set(names.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_for_training_only(family: str) -> None:
    model = network(family, replace(SMALL, dropout=0.5)).train()
    text = tokens(1, 12)
    assert not torch.equal(model(text), model(text))
    model.eval()
    assert torch.equal(model(text), model(text))


# --- data --------------------------------------------------------------------------------------------------


def split(count: int) -> data.Split:
    return data.Split(torch.arange(count + 1), b"")


def test_every_token_is_measured_once_and_knows_what_came_before() -> None:
    loader = data.Windows(split(25), 10, 2, train=False, device=CPU)
    batches = list(loader.epoch(0))
    assert [len(x) for x, _ in batches] == [2, 1]
    seen = torch.cat([y[y != data.IGNORED] for _, y in batches])
    assert seen.tolist() == list(range(1, 26))
    assert all(torch.equal(x[y != data.IGNORED] + 1, y[y != data.IGNORED]) for x, y in batches)


def test_training_windows_depend_on_seed_and_step_alone() -> None:
    def windows(steps: int, epoch: int, start: int = 0, seed: int = 0) -> list[list[int]]:
        loader = data.Windows(split(100), 10, 3, train=True, device=CPU, seed=seed, steps=steps)
        return [x[:, 0].tolist() for x, _ in loader.epoch(epoch, start)]

    whole = windows(12, 0)
    assert windows(4, 0) + windows(4, 1) + windows(4, 2) == whole
    assert windows(12, 0, 5) == whole[5:]
    assert windows(12, 0, seed=1) != whole
    first_pass = sorted(begin for batch in whole[:3] for begin in batch)
    assert len({begin % 10 for begin in first_pass}) == 1  # side by side,
    assert len(set(first_pass)) == 9  # and each once
    assert sorted(begin for batch in whole[3:6] for begin in batch) != first_pass


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_every_vocabulary_gives_its_text_back(kind: str) -> None:
    texts = ["The quick brown fox, <|endoftext|> and a naïve 狐 🦊\n\tjumps  over", ""]
    corpus = gpt.Corpus(texts, ["über"], [], "")
    words = data.vocabulary_of(corpus, kind, 300)
    again = vocabulary.from_bytes(words.to_bytes())
    for text in [*texts, "über", "never seen: Ж"]:
        (ids,) = again.encode([text])
        assert words.encode([text]) == [ids]
        assert again.decode(ids) == text.encode()
        assert vocabulary.END not in ids
    assert again.pieces == words.pieces


def test_characters_that_a_model_lacks_are_named() -> None:
    words = vocabulary.characters(["abc", "cab"], ["ba"], 100)
    assert len(words) == 4
    with pytest.raises(UserError, match="knows 3 characters, and not 'x' 'é'"):
        words.encode(["axb", "é"])


def test_of_too_many_characters_the_rare_ones_are_bytes() -> None:
    words = vocabulary.characters(["aaabbc"], [], 2)
    assert words.characters == "ab"
    assert len(words) == 1 + 2 + 256
    assert [words.pieces[i] for i in words.encode(["acé"])[0]] == [b"a", b"c", b"\xc3", b"\xa9"]


# --- n-grams -----------------------------------------------------------------------------------------------


def reference(train: bytes, before: bytes, byte: int, longest: int) -> float:
    """P(byte | before) by counting in the plainest way."""
    edge = bytes([ngram.END]) * (ngram.LONGEST - 1)
    text, context = edge + train + edge, edge + before
    probability = 1 / 256
    for length in range(1, longest + 1):
        follow: dict[bytes, Counter[int]] = defaultdict(Counter)
        for place in range(len(text) - ngram.LONGEST + 1):  # where the longest n-gram begins, all begin
            follow[text[place : place + length - 1]][text[place + length - 1]] += 1
        found = follow.get(context[len(context) - length + 1 :] if length > 1 else b"")
        if found:
            kinds = len(found)
            probability = (found[byte] + kinds * probability) / (found.total() + kinds)
    return probability


def test_ngrams_are_witten_and_bells() -> None:
    rng = random.Random(0)
    train, text = (bytes(rng.choices(b"abcd", (4, 3, 2, 1), k=size)) for size in (300, 60))
    ngrams = ngram.NGrams(train)
    bits = ngrams.bits(text)
    for longest in (1, 2, 5, ngram.LONGEST):
        expected = [-math.log2(reference(train, text[:i], text[i], longest)) for i in range(len(text))]
        assert bits[longest - 1] == pytest.approx(sum(expected) / len(text), abs=1e-9)
        shares = ngrams.distribution(text[:7], longest)
        assert shares.sum() == pytest.approx(1.0, abs=1e-12)
        assert shares[ord("b")] == pytest.approx(reference(train, text[:7], ord("b"), longest), abs=1e-12)
    assert ngrams.distribution(b"never seen", 5).sum() == pytest.approx(1.0, abs=1e-12)


def test_lzma_needs_little_for_what_it_has_seen() -> None:
    rng = random.Random(0)
    train = bytes(rng.choices(b"abcdefgh", k=20_000))
    assert ngram.compressed(train, train[5000:9000]) < 0.3
    assert 3 <= ngram.compressed(train, bytes(rng.choices(b"abcdefgh", k=4000))) < 3.5


# --- training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("gpt"))


def test_it_learns_all_there_is_to_know_of_made_up_text(trained: dict[str, Any]) -> None:
    metrics = trained["metrics"]
    assert metrics["val_loss"] < 1.06 * metrics["entropy"]
    assert metrics["val_loss"] > 0.97 * metrics["entropy"]
    assert metrics["bits_per_byte"] == pytest.approx(metrics["val_loss"] / math.log(2))
    assert metrics["ngram_bits_per_byte"] > metrics["entropy"] / math.log(2)
    assert metrics["n"] == 4000


def test_the_report_shows_what_it_writes_and_what_surprises_it(trained: dict[str, Any]) -> None:
    page = (Path(trained["run"]) / "report.html").read_text(encoding="utf-8")
    for title in ("What it writes", "Beside what only counts", "N-grams by length", "What surprises it"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("temperature 0.8") == 1
    assert page.count('<pre style="white-space: pre-wrap"><strong>') == 4


@pytest.mark.parametrize("family", ["lstm", "gru"])
def test_a_recurrent_network_learns(family: str, tmp_path: Path) -> None:
    metrics = run(tmp_path, model=family, epochs=1, steps=60)["metrics"]
    assert metrics["val_loss"] < 1.5  # all letters alike would be 2.08


def test_pieces_of_words_are_learnt_from_ones_own_text(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.md").write_text(f"Note {number}: the naïve cat sat on mat {number}.\n" * 40)
    (folder / "binary.bin").write_bytes(b"\0\xff")
    said = {"data": f"text:{folder}", "tokenizer": "bpe", "vocabulary": 300, "epochs": 1, "steps": 10}
    metrics = run(tmp_path / "runs", **said)["metrics"]
    assert metrics["bits_per_byte"] == pytest.approx(
        metrics["val_loss"] / math.log(2) * metrics["n"] / _bytes(folder), rel=0.2
    )
    assert "test_loss" not in metrics


def _bytes(folder: Path) -> float:
    """Of the validation text: two of twelve files."""
    return 2 * sum(len(file.read_bytes()) for file in folder.glob("*.md")) / 12


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"heads": 3}, "--width 64 can't be shared among --heads 3 as even numbers"),
        ({"heads": 4, "kv_heads": 3}, "--kv-heads 3 does not divide --heads 4"),
        ({"tokenizer": "bpe", "vocabulary": 100}, "--vocabulary is 100; with --tokenizer bpe it must be at least 257"),
        ({"context": 40_000}, "The training text has 40000 tokens, too few for a context of 40000"),
        ({"data": "text:nowhere"}, "There is no file or folder nowhere"),
        ({"data": "tinyshakespeare", "data_dir": "nowhere"}, "--data tinyshakespeare: input.txt not found in nowhere"),
        ({"data": "wikitext-2", "data_dir": "nowhere"}, "wiki.train.tokens and wiki.valid.tokens and wiki.test.tokens"),
        ({"batch_size": 10_000}, "--batch-size 10000 is larger than the training data"),
    ],
)
def test_mistakes_are_one_line(said: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path / "runs", **said)
    assert words in str(caught.value)
    assert not (tmp_path / "runs").exists()
