"""Trains a classifier of spoken words, and measures it on speakers that it never heard.

python -m nlp.speech                                              words spoken by a synthesiser, no download
python -m nlp.speech --data fsdd --data-dir DIR                   recorded digits; one of the speakers is left out
python -m nlp.speech --data fsdd --data-dir DIR --seeds 0,1,2,3,4 each speaker is left out once
python -m nlp.speech --data folder:clips --speaker-pattern "^([a-z]+)_"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.data.audio import espeak
from common.data.audio.sources import SOURCES, AudioData, Clips, load_audio
from common.data.loaders import Loader
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.audio import AudioInput
from common.kinds.labels import Labels
from common.machine.distributed import first
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, predict_all
from common.training.run import Run
from nlp.speech import baseline, pages
from nlp.speech.augment import Perturb
from nlp.speech.networks import SIZES, Network

# --- config ------------------------------------------------------------------------------------------------

WORDS = "words"
# What suits a data set, for every setting that was not given.
RECIPE: dict[str, Any] = {
    "epochs": 25, "batch_size": 64, "lr": 8e-3, "speed": 0.15, "warp": 0.15, "shift": 0.1, "noise": 0.3, "masks": 1,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "synthetic": {"epochs": 6, "batch_size": 16, "speed": 0.1, "warp": 0.1, "masks": 0},
    "espeak": {"epochs": 20},
    "speech-commands": {"epochs": 20, "batch_size": 128},
}


@dataclass(frozen=True)
class SpeechConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option(
        WORDS, "data set; words is espeak where the extra speech is installed, else synthetic", group="Data",
        choices=(WORDS, *SOURCES), common=True,
    )  # fmt: skip
    unheard: str | None = option(
        None, "speakers that training never hears, separated by commas; none for nobody", group="Data", common=True,
        unset="a fifth of them, by turns of the seed",
    )  # fmt: skip
    speaker_pattern: str | None = option(
        None, "regular expression that finds the speaker in CLASS/RECORDING, of a folder", group="Data", unset="unknown"
    )
    rate: int | None = option(
        None, "samples a second that the model hears", group="Data", at_least=4_000, at_most=48_000,
        unset="the data set's",
    )  # fmt: skip
    seconds: float | None = option(
        None, "length of a clip: shorter ones get silence around them, of longer ones the loudest part is kept",
        group="Data", at_least=0.1, at_most=30, unset="1",
    )  # fmt: skip
    limit: int | None = option(None, "most training clips", group="Data", at_least=1, unset="all")

    size: str = option("small", "size of the network", group="Model", choices=tuple(SIZES))

    batch_size: int = changed(FitConfig, "batch_size", help="clips per step, over all processes")
    lr: float = changed(FitConfig, "lr", tune=Range(1e-3, 3e-2, log=True))
    weight_decay: float = changed(FitConfig, "weight_decay", default=0.05)
    dropout: float = option(0.3, "share of the features dropped", at_least=0, at_most=0.95, tune=Range(0.0, 0.6))

    speed: float = option(None, "largest change of speed and pitch, as a share", group="Augmentation", at_least=0,
                          at_most=0.5, unset="by data set", tune=Range(0.0, 0.3))  # fmt: skip
    warp: float = option(None, "largest stretch of the frequencies, as of other throats", group="Augmentation",
                         at_least=0, at_most=0.5, unset="by data set", tune=Range(0.0, 0.3))  # fmt: skip
    shift: float = option(None, "largest move within the clip, as a share", group="Augmentation", at_least=0,
                          at_most=0.5, unset="by data set")  # fmt: skip
    noise: float = option(None, "strongest noise, as a share of the clip's loudness", group="Augmentation", at_least=0,
                          at_most=10, unset="by data set")  # fmt: skip
    masks: int = option(None, "runs of frequencies, and of time, that are hidden", group="Augmentation", at_least=0,
                        at_most=8, unset="by data set")  # fmt: skip
    mixup: float = option(0.0, "mixup alpha; 0 for none", group="Augmentation", at_least=0, at_most=10)
    label_smoothing: float = option(0.1, "share of the target spread over all classes", group="Augmentation",
                                    at_least=0, at_most=0.9)  # fmt: skip

    @classmethod
    def tiny(cls) -> SpeechConfig:
        return cls(data="synthetic", size="tiny")

    def resolve(self) -> SpeechConfig:
        """Fills what was left open from the recipe of the data set, and says which data set `words` is here."""
        data = ("espeak" if espeak.is_installed() else "synthetic") if self.data == WORDS else self.data
        return replace(self, data=data).filled(RECIPE | RECIPES.get(data.partition(":")[0], {}))


# --- data --------------------------------------------------------------------------------------------------


def prepare(config: SpeechConfig) -> AudioData:
    """The splits, and what unheard speakers say; validation is carved from train, test is looked at once."""
    with first():
        return load_audio(
            config.data,
            data_dir=config.data_folder,
            rate=config.rate,
            seconds=config.seconds,
            unheard=config.unheard,
            speaker_pattern=config.speaker_pattern,
            seed=config.seed,
            limit=config.limit,
        )


def batches(config: SpeechConfig, clips: Clips, device: torch.device, augment: Perturb | None = None) -> Loader:
    """Batches of waveforms on the device; shuffled and perturbed if `augment` is given."""
    return Loader(
        clips,
        config.batch_size if augment else 256,
        train=augment is not None,
        device=device,
        seed=config.seed,
        prepare=clips.audio.scale,
        augment=augment,
    )


# --- model -------------------------------------------------------------------------------------------------


def build(config: SpeechConfig, classes: int, rate: int) -> Network:
    """The network of a config: waveforms [B, samples] to logits [B, classes]."""
    return Network(rate, config.size, classes, dropout=config.dropout, warp=config.warp, masks=config.masks)


# --- train -------------------------------------------------------------------------------------------------


def train(config: SpeechConfig, run: Run) -> Metrics:
    """Trains, evaluates on the test split and on unheard speakers, and saves the model."""
    data = prepare(config)
    run.cite(data.provenance)
    if config.data == "synthetic" and not espeak.is_installed():
        run.progress.say("hint       these are tones; pip install -e '.[speech]' has words spoken in many voices")
    config = run.settle(config.fitted(data), samples=len(data.train))
    answer = Labels(data.classes)

    model: nn.Module = build(config, len(data.classes), data.audio.rate)
    model = run.place(model, sample=torch.zeros(1, data.audio.samples))
    run.progress.say(f"model      {config.size}, {sum(p.numel() for p in model.parameters()):,} weights")

    augment = Perturb(config.speed, config.shift, config.noise, config.mixup, len(data.classes), data.noise)
    model = fit(
        run,
        model,
        nn.CrossEntropyLoss(label_smoothing=config.label_smoothing),
        batches(config, data.train, run.device, augment),
        config,
        validate=batches(config, data.valid, run.device),
        score=answer.validate,
        monitor="val_loss",
    )

    logits = {name: predict_all(model, batches(config, clips, run.device)) for name, clips in tested(data).items()}
    metrics = measure(data, logits)
    run.sections += pages.sections(data, tested(data), logits, metrics)
    artifact.save(run, model, inputs=data.audio, answer=answer, metrics=metrics)
    return metrics


# --- evaluate ----------------------------------------------------------------------------------------------


def tested(data: AudioData) -> dict[str, Clips]:
    """What is measured: the test split, and clips of unheard speakers where there are any besides."""
    return {"heard": data.test, "unheard": data.unheard} if pages.has_strangers(data) else {"heard": data.test}


def measure(data: AudioData, logits: dict[str, Tensor]) -> Metrics:
    """The suite of a classifier, over unheard speakers where there are any, else over the test split.

    `accuracy` is always that of the test split; beside both stands the baseline.

    Args:
        logits: [N, K] of each of `tested`.
    """
    answer = Labels(data.classes)
    heard = answer.measure(logits["heard"], data.test.targets)
    simple = baseline.accuracies(data)
    if not len(data.unheard):
        return replace(heard, values=heard.values | simple, notes=[*heard.notes, _NOBODY])
    suite = answer.measure(logits["unheard"], data.unheard.targets) if "unheard" in logits else heard
    interval = ("", "_low", "_high")
    values = {f"accuracy_unheard{end}": suite.values[f"accuracy{end}"] for end in interval}
    values |= suite.values | {f"accuracy{end}": heard.values[f"accuracy{end}"] for end in interval}
    note = "all speakers of the test split are unheard"
    if "unheard" in logits:
        values["n_heard"] = len(data.test)
        note = _BOTH
    return Metrics("accuracy_unheard", values | simple, [*suite.notes, note], suite.details)


_NOBODY = "no speaker is known to be unheard, so that there is no accuracy_unheard"
_BOTH = "accuracy is that of the test split, whose speakers training heard; all else is of speakers that it never heard"


def evaluate(saved: Artifact, config: SpeechConfig) -> Metrics:
    """Measures a saved model again, and the baseline."""
    data = prepare(config)
    model, cpu = load_model(saved), torch.device("cpu")
    logits = {name: predict_all(model, batches(config, clips, cpu)) for name, clips in tested(data).items()}
    return measure(data, logits)


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> nn.Module:
    """The trained network, ready to be used."""
    config = SpeechConfig().with_values(saved.config)
    inputs: AudioInput = AudioInput.from_json(saved.inputs)
    return saved.load_into(build(config, len(saved.classes), inputs.rate))


def load(saved: Artifact) -> Predictor:
    """A sound in, its class and the probability of every class out."""
    inputs: AudioInput = AudioInput.from_json(saved.inputs)
    answer, model = Labels(saved.classes), load_model(saved)

    @torch.inference_mode()
    def predict(clips: Sequence[Tensor]) -> list[Row]:
        return answer.rows(model(inputs.network_input(clips)))  # logits [B, K]

    return Predictor(inputs, answer, predict, model=model)


example = Example(
    name="nlp.speech",
    task="Spoken digits and keywords",
    model="depthwise CNN over log-mel spectrograms",
    seconds=31,
    headline="accuracy_unheard",
    config=SpeechConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    prepare=prepare,
    tag=lambda config: f"{config.size}-{config.data.split(':')[0]}",
    objective="val_loss",  # on speakers that are heard accuracy is nearly 1 for many settings
    goal="minimize",
    extras=("speech",),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
