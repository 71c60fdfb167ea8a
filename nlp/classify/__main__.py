"""Trains a text classifier: one of four networks written here, with naive-Bayes n-grams or not, or a pretrained one.

python -m nlp.classify                                          which package is this docstring from? no download
python -m nlp.classify --data rotten-tomatoes --data-dir DIR    sentiment analysis of film reviews
python -m nlp.classify --data csv:mails.csv --text-column body --label-column folder
python -m nlp.classify --data sst2 --model hf:microsoft/MiniLM-L12-H384-uncased --lora
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.data.sequences import SequenceLoader, Sequences
from common.data.texts.sources import SOURCES, TextData, Texts, load_texts
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.labels import Labels
from common.machine.distributed import first
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, predict_all
from common.training.run import Run
from nlp.classify import baseline, explain, pretrained
from nlp.classify import networks as models
from nlp.classify.networks import Classifier, NGrams
from nlp.pretrained import PREFIX
from nlp.tokens import TokenInput, encode, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set, for every setting that was not given; picked on validation splits of seeds 100 to 102.
SCRATCH: dict[str, Any] = {
    "model": "bag", "vocabulary": 1300, "ngrams": 3, "max_length": 512, "epochs": 4, "batch_size": 64, "lr": 2e-3,
    "dropout": 0.5, "word_dropout": 0.0, "label_smoothing": 0.0, "weight_decay": 0.01,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "synthetic": {"model": "cnn", "ngrams": 0, "epochs": 12, "batch_size": 16, "lr": 1e-2},
    "docstrings": {"vocabulary": 2500, "epochs": 6, "lr": 6e-3},
    "ag-news": {"vocabulary": 8000, "lr": 4e-3},
}
# For every `--model hf:`; with --lora ten times the rate.
PRETRAINED: dict[str, Any] = {
    "ngrams": 0, "vocabulary": 0, "max_length": 128, "epochs": 2, "batch_size": 16, "lr": 5e-5, "dropout": 0.1,
    "word_dropout": 0.0, "label_smoothing": 0.0, "weight_decay": 0.01,
}  # fmt: skip
SMALLEST = 300  # vocabulary: 256 bytes and a few pieces


@dataclass(frozen=True)
class ClassifyConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option("docstrings", "data set", group="Data", choices=tuple(SOURCES), common=True)
    text_column: str | None = option(None, "column of the texts, of a CSV file", group="Data", unset="text")
    label_column: str | None = option(None, "column of the labels, of a CSV file", group="Data", unset="label")
    limit: int | None = option(None, "most training texts", group="Data", at_least=1, unset="all")
    max_length: int = option(None, "word pieces after which a text is cut", group="Data", at_least=1,
                                    at_most=models.LONGEST, unset="by data set")  # fmt: skip

    model: str = option(
        None, "network; hf:MODEL is a folder, an installed package or a name on the Hugging Face hub", group="Model",
        choices=(*models.FAMILIES, "hf:MODEL"), unset="by data set", common=True)  # fmt: skip
    size: str = option("small", "size of a network of ours", group="Model", choices=models.SIZES)
    vocabulary: int = option(None, "pieces into which words are cut, in networks of ours", group="Model",
                                    at_most=1_000_000, unset="by data set")  # fmt: skip
    ngrams: int = option(None, "add naive-Bayes features of runs of so many pieces; 0 for none", group="Model",
                                at_least=0, at_most=3, unset="by data set")  # fmt: skip
    lora: bool = option(False, "train low-rank adapters of a pretrained network", group="Model")

    batch_size: int = changed(FitConfig, "batch_size", help="texts per step, over all processes")
    lr: float = changed(FitConfig, "lr", tune=Range(5e-4, 3e-2, log=True))
    weight_decay: float = changed(FitConfig, "weight_decay", default=None, unset="by data set")
    clip: float = changed(FitConfig, "clip", default=1.0)
    dropout: float = option(None, "share of embeddings and features dropped, in networks of ours", at_least=0,
                                   at_most=0.95, unset="by data set", tune=Range(0.0, 0.8))  # fmt: skip
    word_dropout: float = option(None, "share of words hidden, in networks of ours", group="Augmentation",
                                        at_least=0, at_most=0.95, unset="by data set")  # fmt: skip
    label_smoothing: float = option(None, "share of the target spread over all classes", group="Augmentation",
                                           at_least=0, at_most=0.9, unset="by data set")  # fmt: skip

    @classmethod
    def tiny(cls) -> ClassifyConfig:
        return cls(data="synthetic", size="tiny")

    @property
    def pretrained(self) -> str:
        """What comes after `hf:`; empty for a network of ours."""
        return "" if self.is_open("model") else self.model.partition(PREFIX)[2]

    def resolve(self) -> ClassifyConfig:
        """Fills what was left open from the recipe of the data set."""
        recipe = PRETRAINED if self.pretrained else SCRATCH | RECIPES.get(self.data.partition(":")[0], {})
        if self.lora:
            recipe = recipe | {"lr": 10 * recipe["lr"]}
        return self.filled(recipe)

    def check(self) -> None:
        super().check()
        if self.lora and not self.pretrained:
            raise UserError("--lora adapts a pretrained network.", "Use it with --model hf:MODEL.")
        if not self.pretrained and not self.is_open("vocabulary") and self.vocabulary < SMALLEST:
            raise UserError(f"--vocabulary is {self.vocabulary}; it must be at least {SMALLEST}.")


# --- data --------------------------------------------------------------------------------------------------


def prepare(config: ClassifyConfig) -> TextData:
    """The three splits; validation is carved from train, test is looked at once."""
    with first():
        return load_texts(
            config.data,
            data_dir=config.data_folder,
            seed=config.seed,
            text_column=config.text_column,
            label_column=config.label_column,
            limit=config.limit,
        )


@dataclass(frozen=True)
class Batches:
    """How texts become batches: tokens int64 [B, T] of similar length, and targets [B]."""

    tokenizer: Tokenizer
    inputs: TokenInput
    device: torch.device
    seed: int = 0

    def __call__(self, split: Texts, batch_size: int = 256, train: bool = False) -> SequenceLoader:
        tokens = Sequences(encode(self.tokenizer, self.inputs, split.texts), split.targets, self.inputs.pad)
        return SequenceLoader(tokens, batch_size, train=train, device=self.device, seed=self.seed)


# --- model -------------------------------------------------------------------------------------------------


def build(config: ClassifyConfig, classes: int, vocabulary: int, ngrams: NGrams | None) -> Classifier:
    """A network of ours: tokens [B, T] to logits [B, classes]."""
    return Classifier(
        config.model, config.size, vocabulary, classes, ngrams=ngrams, dropout=config.dropout,
        word_dropout=config.word_dropout,
    )  # fmt: skip


def naive_bayes(config: ClassifyConfig, data: TextData, tokenizer: Tokenizer, inputs: TokenInput) -> NGrams | None:
    """The n-grams of the training split, as naive Bayes weighs them; None where none were asked for."""
    if not config.ngrams:
        return None
    tokens, vocabulary = encode(tokenizer, inputs, data.train.texts), tokenizer.get_vocab_size()
    known, ratios = models.count_ngrams(tokens, data.train.targets, len(data.classes), vocabulary, config.ngrams)
    ngrams = NGrams(len(known), len(data.classes), vocabulary, config.ngrams)
    ngrams.learn(known, ratios)
    return ngrams


def start(config: ClassifyConfig, data: TextData) -> tuple[nn.Module, Tokenizer, TokenInput, dict[str, bytes]]:
    """The network that is trained, its tokenizer, and the files that its artifact needs."""
    if config.pretrained:
        network, tokenizer, inputs, files = pretrained.load(
            config.pretrained, len(data.classes), config.max_length, config.lora
        )
        network.ngrams = naive_bayes(config, data, tokenizer, inputs)
        return network, tokenizer, inputs, files
    inputs = TokenInput(max_length=config.max_length)
    tokenizer = train_tokenizer(data.train.texts, config.max_length, config.vocabulary)
    ngrams = naive_bayes(config, data, tokenizer, inputs)
    model = build(config, len(data.classes), tokenizer.get_vocab_size(), ngrams)
    return model, tokenizer, inputs, {"tokenizer.json": tokenizer.to_str().encode()}


# --- train -------------------------------------------------------------------------------------------------


def train(config: ClassifyConfig, run: Run) -> Metrics:
    """Trains, evaluates on the test split beside the baseline, and saves the model."""
    data = prepare(config)
    run.cite(data.provenance)
    config = run.settle(config, samples=len(data.train))
    model, tokenizer, inputs, files = start(config, data)
    batches = Batches(tokenizer, inputs, run.device, config.seed)
    loader = batches(data.train, config.batch_size, train=True)
    answer = Labels(data.classes)
    model = run.place(model, sample=next(loader.epoch(0))[0][:1].cpu())
    weights = sum(p.numel() for p in model.parameters())
    run.progress.say(f"model      {config.model}, {weights:,} weights, {tokenizer.get_vocab_size():,} word pieces")

    model = fit(
        run,
        model,
        nn.CrossEntropyLoss(label_smoothing=config.label_smoothing),
        loader,
        config,
        validate=batches(data.valid),
        score=answer.validate,
        monitor="val_accuracy",
    )
    if isinstance(model, pretrained.Pretrained):
        model = pretrained.merged(model)

    simple = baseline.tfidf(data)
    metrics, logits = test(model, data, batches(data.test), simple)
    correct = logits.argmax(1) == data.test.targets
    run.sections.append(baseline.section(config.model, metrics, correct, simple))
    run.sections.append(explain.mistakes(model.eval(), tokenizer, inputs, data.test, logits, data.classes))
    saved = pretrained.to_save(model) if isinstance(model, pretrained.Pretrained) else model
    artifact.save(run, saved, inputs=inputs, answer=answer, metrics=metrics, files=files)
    return metrics


# --- evaluate ----------------------------------------------------------------------------------------------


def test(model: nn.Module, data: TextData, loader: SequenceLoader, simple: baseline.Baseline) -> tuple[Metrics, Tensor]:
    """Metrics over the whole test split at once, those of the baseline beside them, and the logits [N, K]."""
    logits = predict_all(model, loader)
    metrics = Labels(data.classes).measure(logits, data.test.targets)
    return baseline.compared(metrics, logits, data.test.targets, simple), logits


def evaluate(saved: Artifact, config: ClassifyConfig) -> Metrics:
    """Measures a saved model again, and the baseline."""
    data = prepare(config)
    model, tokenizer, inputs = load_model(saved)
    loader = Batches(tokenizer, inputs, torch.device("cpu"))(data.test)
    return test(model, data, loader, baseline.tfidf(data))[0]


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> tuple[nn.Module, Tokenizer, TokenInput]:
    """The trained network, ready to be used, with its tokenizer."""
    config = ClassifyConfig().with_values(saved.config)
    tokenizer = pretrained.tokenizer_from_artifact(saved)
    inputs: TokenInput = TokenInput.from_json(saved.inputs)
    classes, vocabulary, ngrams = len(saved.classes), tokenizer.get_vocab_size(), None
    if config.ngrams:
        ngrams = NGrams(saved.shapes()["ngrams.known"][0], classes, vocabulary, config.ngrams)
    if config.pretrained:
        return pretrained.from_artifact(saved, ngrams), tokenizer, inputs
    return saved.load_into(build(config, classes, vocabulary, ngrams)), tokenizer, inputs


def load(saved: Artifact) -> Predictor:
    """A text in, its class and the probability of every class out."""
    model, tokenizer, inputs = load_model(saved)
    answer = Labels(saved.classes)

    @torch.inference_mode()
    def predict(texts: Sequence[str]) -> list[Row]:
        tokens = Sequences(encode(tokenizer, inputs, texts), torch.zeros(len(texts)), inputs.pad)
        return answer.rows(model(tokens.padded(torch.arange(len(texts)))))  # logits [B, K]

    tell = partial(explain.telling_tokens, model, tokenizer, inputs)
    return Predictor(inputs, answer, predict, explain=tell)


def telling_tokens(saved: Artifact, text: str, target: int | None = None) -> list[tuple[str, float]]:
    """The tokens of a text and what each says for a class, the predicted one by default, in nats.

    Args:
        target: number of the class in the artifact's classes.
    """
    model, tokenizer, inputs = load_model(saved)
    if target is None:
        with torch.inference_mode():
            target = int(model(torch.tensor(encode(tokenizer, inputs, [text]))).argmax())
    marks = explain.telling_tokens(model, tokenizer, inputs, text, target)
    return [(text[start:end], score) for start, end, score in marks]


example = Example(
    name="nlp.classify",
    task="Text classification, sentiment analysis",
    model="bag of embeddings with naive-Bayes n-grams",
    seconds=30,
    headline="accuracy",
    config=ClassifyConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    prepare=prepare,
    tag=lambda config: f"{config.model}-{config.data.split(':')[0]}".replace("/", "-").replace(":", "-"),
    extras=("lora",),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
