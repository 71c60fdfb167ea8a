"""Trains a language model from scratch: a Transformer, an LSTM or a GRU, beside n-grams that are only counted.

python -m nlp.gpt                                                docstrings of installed packages, no download
python -m nlp.gpt --data tinyshakespeare --data-dir DIR          character by character
python -m nlp.gpt --data text:notes/ --depth 4                   your own text, and a larger network
python -m common.predict RUN --value "To be"                     goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.data.texts.corpora import CORPORA, Corpus, load_corpus
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.continuation import Continuation
from common.kinds.prompt import Prompt, PromptInput
from common.machine import distributed
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, mean_figures
from common.training.run import Run
from nlp import decoding, vocabulary
from nlp.gpt import gallery, ngram
from nlp.gpt import model as networks
from nlp.gpt.data import Split, Windows, check_length, runs, split_of, vocabulary_of
from nlp.gpt.model import GPT, Recurrent, Shape
from nlp.losses import count_of, loss_of, sums
from nlp.optim import optimizers
from nlp.vocabulary import Vocabulary

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set, for every setting that was not given.
TEXT: dict[str, Any] = {"tokenizer": "bpe", "vocabulary": 2048, "context": 128, "depth": 2, "rows": 2**15}
RECIPES: dict[str, dict[str, Any]] = {
    "tinyshakespeare": {
        "tokenizer": "char",
        "vocabulary": 512,
        "context": 128,
        "depth": 4,
        "width": 128,
        "heads": 4,
        "batch_size": 16,
        "steps": 180,
    },
    "markov": {
        "tokenizer": "char",
        "vocabulary": 256,
        "context": 64,
        "depth": 1,
        "width": 64,
        "heads": 2,
        "rows": 0,
        "batch_size": 16,
        "epochs": 4,
        "steps": 60,
        "lr": 0.05,
        "embedding_lr": 0.03,
    },
}
HEAD = 64  # numbers of an attention head
BATCH_TOKENS = 1024  # of a step for each layer, unless the batch size is given


@dataclass(frozen=True)
class GPTConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option("docstrings", "text", group="Data", choices=tuple(CORPORA), common=True)
    tokenizer: str = option(
        None,
        "tokens are characters, or pieces of words (byte-pair encoding)",
        group="Data",
        choices=("char", "bpe"),
        unset="by data set",
    )
    vocabulary: int = option(
        None,
        "tokens in all; with characters, so many at most",
        group="Data",
        at_least=2,
        at_most=1_000_000,
        unset="by data set",
    )

    model: str = option("gpt", "network", group="Model", choices=networks.FAMILIES, common=True)
    depth: int = option(
        None,
        "layers, from which the other sizes follow",
        group="Model",
        at_least=1,
        at_most=96,
        unset="by data set",
        common=True,
    )
    width: int = option(
        None, "numbers that stand for a token", group="Model", at_least=2, at_most=16_384, unset=f"{HEAD} × depth"
    )
    heads: int = option(None, "attention heads", group="Model", at_least=1, unset=f"width / {HEAD}")
    kv_heads: int = option(
        None, "heads of keys and values, each shared by several", group="Model", at_least=1, unset="heads"
    )
    context: int = option(
        None,
        "tokens that are seen at once",
        group="Model",
        at_least=2,
        at_most=65_536,
        unset="by data set",
    )
    rows: int = option(
        None,
        "of a table of embeddings for pairs and triples of tokens; 0 for none",
        group="Model",
        at_least=0,
        at_most=2**24,
        unset="by data set",
    )
    mlp: str = option("relu2", "the MLP of a block", group="Model", choices=("relu2", "swiglu"))
    tied: bool = option(False, "the head is the embedding", group="Model")
    cap: float = option(0.0, "logits are bent to at most so much; 0 for no bounds", group="Model", at_least=0)

    dropout: float = option(
        0.0, "share of what layers add that is left out in training", group="Model", at_least=0, at_most=0.9
    )

    epochs: int = changed(FitConfig, "epochs", help="rounds of --steps, each ends with a validation")
    steps: int = option(None, "optimiser steps of an epoch", at_least=1, unset="by data set", common=True)
    batch_size: int = changed(
        FitConfig, "batch_size", help="runs of tokens per step, over all processes", tune=(8, 16, 32, 64)
    )
    optimizer: str = changed(
        FitConfig,
        "optimizer",
        default=None,
        choices=("muon", "adamw"),
        unset="by model",
        help="optimiser of the matrices; AdamW for the rest",
    )
    lr: float = changed(FitConfig, "lr", unset="by optimiser", tune=Range(1e-3, 1e-1, log=True))
    embedding_lr: float = option(
        None,
        "peak learning rate of embeddings, beside Muon; the head's is a third",
        above=0,
        at_most=100,
        unset="by model",
        tune=Range(1e-3, 1e-1, log=True),
    )
    schedule: str = changed(FitConfig, "schedule", default="wsd")
    weight_decay: float = changed(FitConfig, "weight_decay", default=0.0, tune=Range(0.0, 0.3))

    @classmethod
    def tiny(cls) -> GPTConfig:
        return cls(data="markov")

    def resolve(self) -> GPTConfig:
        """Fills what was left open: by the data set, then by the depth and the family of the network."""
        found = self.filled(TEXT | {"epochs": 5, "steps": 250} | RECIPES.get(self.data.partition(":")[0], {}))
        found = found.filled({"width": HEAD * found.depth, "optimizer": "muon" if found.model == "gpt" else "adamw"})
        found = found.filled({"heads": max(1, found.width // HEAD)})
        narrow = (128 / found.width) ** 0.5  # what is wider learns from smaller steps, but for Muon's
        rates = {"lr": 0.02 if found.optimizer == "muon" else 3e-3 * narrow, "embedding_lr": 0.03 * narrow}
        batch = max(1, BATCH_TOKENS * found.depth // found.context)
        return found.filled({"kv_heads": found.heads, "batch_size": batch, **rates})

    def check(self) -> None:
        super().check()
        if any(self.is_open(name) for name in ("width", "heads", "kv_heads")):
            return
        if self.width % self.heads or (self.width // self.heads) % 2:
            what = f"--width {self.width} can't be shared among --heads {self.heads} as even numbers."
            raise UserError(what, f"Use a multiple of {2 * self.heads}.")
        if self.heads % self.kv_heads:
            raise UserError(f"--kv-heads {self.kv_heads} does not divide --heads {self.heads}.")

    @property
    def limit(self) -> int:
        """Tokens that the network sees at once when it writes; 0 for any number."""
        return self.context if self.model == "gpt" else 0

    def shape(self, vocabulary: int) -> Shape:
        return Shape(
            vocabulary,
            self.context,
            self.depth,
            self.width,
            self.heads,
            self.kv_heads,
            self.rows,
            self.mlp,
            self.tied,
            self.cap,
            self.dropout,
        )


# --- data --------------------------------------------------------------------------------------------------


def prepare(config: GPTConfig) -> Corpus:
    """The documents of each split."""
    with distributed.first():
        return load_corpus(config.data, config.data_folder)


# --- model -------------------------------------------------------------------------------------------------


def build(config: GPTConfig, vocabulary: int) -> GPT | Recurrent:
    """Tokens [B, T] to logits [B, T, V]."""
    return networks.build(config.model, config.shape(vocabulary))


def optimizers_of(config: GPTConfig, model: nn.Module, device: torch.device) -> list[Optimizer]:
    """What changes its weights."""
    rates = {"lr": config.lr, "embedding_lr": config.embedding_lr, "weight_decay": config.weight_decay}
    return optimizers(config.optimizer, model, device, **rates)


# --- train -------------------------------------------------------------------------------------------------


def train(config: GPTConfig, run: Run) -> Metrics:
    """Trains, measures the network beside the n-grams on whole texts, and saves it."""
    corpus = prepare(config)
    run.cite(corpus.provenance)
    words = vocabulary_of(corpus, config.tokenizer, config.vocabulary)
    split, valid = split_of(corpus.train, words), split_of(corpus.valid, words)
    check_length(split, config.context)
    config = run.settle(config, samples=runs(split, config.context, train=True))
    loader = Windows(
        split, config.context, config.batch_size, train=True, device=run.device, seed=config.seed, steps=config.steps
    )
    model: nn.Module = build(config, len(words))
    model = run.place(model, sample=next(loader.epoch(0))[0][:1].cpu())
    weights = sum(p.numel() for p in model.parameters())
    per_token = len(split.content) / len(split)
    run.progress.say(f"model      {config.model}, {weights:,} weights, {len(words):,} tokens of {per_token:.2f} bytes")

    diary = gallery.Diary(run, words, gallery.opening(corpus), config.limit)
    measured = Windows(valid, config.context, config.batch_size, train=False, device=run.device)

    def validate(network: nn.Module) -> dict[str, float]:
        loss = mean_figures(network, measured, sums, run.autocast())["loss"]
        diary.note(network, loss)
        return {"val_loss": loss, "val_bits_per_byte": bits_per_byte(loss, valid)}

    model = fit(
        run,
        model,
        loss_of,
        loader,
        config,
        optimizer=optimizers_of(config, model, run.device),
        count=count_of,
        validate=validate,
    )

    metrics = test(model, corpus, words, config, run.device)
    if distributed.rank() == 0:
        run.sections += gallery.sections(
            model,
            words,
            corpus.valid[0][: gallery.SHOWN],
            config.limit,
            metrics,
            diary,
            per_byte=len(valid) / len(valid.content),
            flops=6 * weights * config.batch_size * config.context,
        )
    inputs = PromptInput(gallery.opening(corpus), words.alphabet)
    artifact.save(
        run, model, inputs=inputs, answer=Continuation(), metrics=metrics, files={vocabulary.FILE: words.to_bytes()}
    )
    return metrics


# --- evaluate ----------------------------------------------------------------------------------------------


def bits_per_byte(loss: float, split: Split) -> float:
    """What nats per token are in bits per byte, which no vocabulary can change."""
    return ngram.bits(loss) * len(split) / len(split.content)


def test(model: nn.Module, corpus: Corpus, words: Vocabulary, config: GPTConfig, device: torch.device) -> Metrics:
    """The loss over whole texts, each token once, and what the same texts take without a network."""
    counted = distributed.share(_count(corpus) if distributed.rank() == 0 else None)
    values: dict[str, float | int] = {}
    for name, documents in (("val", corpus.valid), ("test", corpus.test)):
        if not documents:
            continue
        split = split_of(documents, words)
        loader = Windows(split, config.context, config.batch_size, train=False, device=device)
        loss = mean_figures(model, loader, sums)["loss"]
        prefix = "" if name == "val" else "test_"
        values |= {f"{name}_loss": loss, f"{prefix}bits_per_byte": bits_per_byte(loss, split)}
        values |= {
            f"ngram_{prefix}bits_per_byte": counted[name].ngram,
            f"lzma_{prefix}bits_per_byte": counted[name].lzma,
        }
        if name == "val":
            values["n"] = len(split)
    length = counted["val"].length
    notes = [
        f"losses are nats per token over the whole text, each token once, in runs of {config.context}: on average half "
        "of that is seen before a token",
        f"an end of a document counts as a byte, for the network as for the n-grams; {len(corpus.valid) - 1:,} of them",
        f"the n-grams are of up to {length} bytes, the best length for the validation text, with Witten and Bell's "
        f"smoothing, from all of the training text; lzma had seen its last {counted['val'].seen:,} bytes",
        "the weights kept are the best of all validations, so that only a test text is wholly new to them",
    ]
    if corpus.entropy is not None:
        values["entropy"] = corpus.entropy
        notes.append("the entropy, in nats per token, is what the text's own rule takes for the validation text")
    return Metrics("bits_per_byte", values, notes, {"ngrams": counted["val"].all})


def _count(corpus: Corpus) -> dict[str, ngram.Counted]:
    """The n-grams on validation and test text."""
    train = ngram.joined(corpus.train)
    ngrams = ngram.NGrams(train)
    found = {"val": ngram.measure(ngrams, train, ngram.joined(corpus.valid))}
    if corpus.test:
        found["test"] = ngram.measure(ngrams, train, ngram.joined(corpus.test), found["val"].length)
    return found


def evaluate(saved: Artifact, config: GPTConfig) -> Metrics:
    """Measures a saved model again, and the n-grams."""
    corpus = prepare(config)
    model, words = load_model(saved)
    return test(model, corpus, words, config, torch.device("cpu"))


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> tuple[nn.Module, Vocabulary]:
    """The trained network, ready to be used, with its vocabulary."""
    config = GPTConfig().with_values(saved.config)
    words = vocabulary.from_bytes(saved.file(vocabulary.FILE))
    return saved.load_into(build(config, len(words))), words


def load(saved: Artifact) -> Predictor:
    """A prompt in, its continuation out."""
    config = GPTConfig().with_values(saved.config)
    model, words = load_model(saved)
    inputs: PromptInput = PromptInput.from_json(saved.inputs)
    # An exported program has no cache: it reads all of the text for each token.
    write = partial(decoding.generate, model, words, limit=config.limit, cached=saved.export is None)

    def predict(prompts: Sequence[Prompt]) -> list[Row]:
        read = decoding.read(model, words, [prompt.text for prompt in prompts], config.limit)
        texts = write([prompt.text for prompt in prompts], [prompt.sampling for prompt in prompts])
        return [text.row(words) | {"prompt_pieces": pieces} for text, pieces in zip(texts, read, strict=True)]

    writer = partial(decoding.Writer, model, words, limit=config.limit, cached=saved.export is None)
    return Predictor(inputs, Continuation(), predict, model=model, writer=writer)


example = Example(
    name="nlp.gpt",
    task="Language modelling: a GPT from scratch",
    model="Transformer decoder",
    seconds=120,
    headline="bits_per_byte",
    config=GPTConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    tag=lambda config: f"{config.model}-{config.data.split(':')[0]}",
    objective="val_loss",
    goal="minimize",
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
