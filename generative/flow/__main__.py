"""Trains a network to turn noise into pictures, by flow matching or by diffusion, and measures what it makes.

python -m generative.flow                                        scikit-learn's digits, no download
python -m generative.flow --objective ddpm --sampler ddim        the same network, taught to predict noise
python -m generative.flow --data mnist --guidance 1.5            60,000 digits, fetched once; clearer, less varied
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, option
from common.data.images.sources import SOURCES, ImageData
from common.data.loaders import Loader
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.denoising import Denoising
from common.kinds.noise import NoiseInput, Wish
from common.machine import distributed
from common.metrics import Metrics
from common.training.fit import Schedule, weight_groups
from common.training.run import Run
from common.training.step import MovingAverage, Step
from generative import gallery, quality
from generative.data import image_input
from generative.data import load as load_data
from generative.flow import views
from generative.flow.networks import SIZES, UNet, step_of
from generative.flow.painter import Painter
from generative.flow.paths import MOST_GUIDANCE, MOST_STEPS, PATHS, SAMPLERS, Known, Path, Way
from generative.judge import LOOK, SIDE, Judge, JudgedConfig

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set, for every setting that was not given.
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 8, "epochs": 40, "batch_size": 64},
    "synthetic": {"image_size": 8, "epochs": 4, "batch_size": 32},
    "mnist": {"image_size": 32, "epochs": 4, "batch_size": 128},
    "fashion-mnist": {"image_size": 32, "epochs": 4, "batch_size": 128},
    "photos": {"image_size": 32, "epochs": 60, "batch_size": 128},
}
VALIDATIONS = 4  # of a training
CHEAP = {"flow": Way("euler", 5), "ddpm": Way("ddim", 10)}  # samplers of a validation
VALID_SEED = 11  # of the noise that validation images are mixed with: the same in every run
FRAMES = 40  # sheets of samples that a run keeps at most


@dataclass(frozen=True)
class FlowConfig(JudgedConfig):
    """Everything that decides the result of one training."""

    data: str = option("digits", "data set", group="Data", choices=tuple(SOURCES), common=True)
    image_size: int = option(None, "side of the pictures in pixels", group="Data", at_least=8, at_most=256,
                                    unset="by data set")  # fmt: skip
    objective: str = option("flow", "what the network learns to predict", group="Model", choices=tuple(PATHS),
                            common=True)  # fmt: skip
    conditional: bool = option(True, "generate by class", group="Model")
    size: str = option("small", "size of the network", group="Model", choices=tuple(SIZES))

    epochs: int = option(
        None, "passes over the training data", at_least=1, unset="by data set", grows=True, common=True
    )
    batch_size: int = option(None, "images per step, over all processes", at_least=1, unset="by data set",
                                    tune=(32, 64, 128), common=True)  # fmt: skip
    lr: float = option(2e-3, "peak learning rate", above=0, at_most=100, tune=Range(3e-4, 6e-3, log=True), common=True)
    schedule: str = option("cosine", "learning-rate schedule", choices=("constant", "cosine", "one-cycle", "wsd"))
    clip: float = option(1.0, "largest norm of the gradient; 0 for none", at_least=0)
    class_dropout: float = option(0.1, "share of images whose class is hidden, for guidance", at_least=0, at_most=0.9)
    ema: float | None = option(
        None, "decay per step of the averaged network", at_least=0, at_most=0.99999, unset="by length of training"
    )

    sampler: str = option(None, "how pictures are drawn", group="Sampling", unset="by objective",
                                 choices=tuple(s for known in SAMPLERS.values() for s in known))  # fmt: skip
    steps: int = option(None, "steps from noise to picture", group="Sampling", at_least=1, at_most=MOST_STEPS,
                               unset="by sampler", common=True)  # fmt: skip
    guidance: float = option(1.0, "strength of the class; 1 as in training", group="Sampling",
                                    at_least=0, at_most=MOST_GUIDANCE, common=True)  # fmt: skip

    @classmethod
    def tiny(cls) -> FlowConfig:
        return cls(data="synthetic", size="tiny", steps=4)

    def resolve(self) -> FlowConfig:
        """Fills what was left open from the recipe of the data set and the objective's first sampler."""
        config = self.filled(RECIPES.get(self.data, RECIPES["photos"]))
        known = SAMPLERS[self.objective]
        config = config.filled({"sampler": next(iter(known))})
        return config.filled({"steps": known.get(config.sampler)})

    def check(self) -> None:
        super().check()
        if self.sampler is not None and self.sampler not in SAMPLERS[self.objective]:
            known = " or ".join(SAMPLERS[self.objective])
            raise UserError(f"--sampler {self.sampler}: --objective {self.objective} has none such.", f"Use {known}.")
        if self.guidance != 1 and not self.conditional:
            raise UserError("--guidance asks for a class, and --no-conditional knows none.", "Leave one of them out.")
        if self.guidance != 1 and not self.class_dropout:
            raise UserError(
                "--guidance needs a network that also knows pictures without their class.", "Use --class-dropout 0.1."
            )
        if self.image_size is not None and self.image_size % step_of(self.image_size, self.size):
            fits = step_of(self.image_size, self.size)
            raise UserError(
                f"--image-size {self.image_size}: the network halves it, down to whole pixels.",
                f"Use a multiple of {fits}.",
            )

    @property
    def way(self) -> Way:
        """How the final samples are drawn."""
        return Way(self.sampler, self.steps, self.guidance)


# --- data --------------------------------------------------------------------------------------------------


class Noising:
    """Makes of images and classes what the network learns from: noisy pictures, times, labels; and the target.

    The times of a batch are spread evenly over all that there are: it halves the noise of the loss.
    """

    def __init__(self, data: ImageData, path: Path, conditional: bool, dropout: float) -> None:
        self._normalize = image_input(data).normalize
        self._path, self._classes, self._dropout = path, len(data.classes) if conditional else 0, dropout

    def __call__(self, pixels: Tensor, classes: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        picture = self._normalize(pixels)  # [B, C, S, S] in [−1, 1]
        count, place = len(picture), picture.device
        noise = torch.randn_like(picture)
        places = torch.randperm(count, device=place) + torch.rand(count, device=place)
        time = self._path.times(places / count)  # [B]
        a, s = (weight[:, None, None, None] for weight in self._path.weights(time))
        inputs = (a * picture + s * noise, time)
        target = self._path.target(picture, noise)
        if not self._classes:
            return inputs, target
        hidden = torch.rand(count, device=place) < self._dropout
        return (*inputs, classes.masked_fill(hidden, self._classes)), target


# --- model -------------------------------------------------------------------------------------------------


def build(config: FlowConfig, classes: int, channels: int) -> nn.Module:
    """Noisy pictures, times and, with classes, labels to the target; `classes` is 0 without `--conditional`."""
    return UNet(channels, classes, config.image_size, config.size)


# --- train -------------------------------------------------------------------------------------------------


def train(config: FlowConfig, run: Run) -> Metrics:
    """Trains the network, measures what the averaged one makes, and saves it."""
    judge = Judge.of_run(run, config)
    data = load_data(config.data, config.data_folder, config.image_size) if config.image_size != SIDE else judge.data
    classes = data.classes if config.conditional else []
    run.cite(data.provenance)
    config = run.settle(config, samples=len(data.train))

    path = PATHS[config.objective]
    noising = Noising(data, path, config.conditional, config.class_dropout)
    batches = Loader(data.train, config.batch_size, train=True, device=run.device, seed=config.seed, augment=noising)
    sample = (torch.zeros(1, data.channels, data.size, data.size), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    network = run.place(build(config, len(classes), data.channels), sample=sample)
    weights = sum(p.numel() for p in network.parameters())
    run.progress.say(f"model      U-Net {config.size}, {config.objective}, {weights:,} weights")

    painter = Painter(network, path, config.way, (data.channels, data.size, data.size), len(classes))
    painter = learn(config, run, judge, data, batches, painter)

    metrics, samples = test(painter, judge)
    if distributed.rank() == 0:
        make = gallery.sections(painter, painter.latent_size, classes, data, samples, run.folder)
        run.sections += views.sections(painter, judge, data, samples, loss_by_time(painter, data), make)
    inputs = NoiseInput(painter.latent_size, tuple(classes), *painter.shape[:2], config.steps, config.guidance)
    artifact.save(
        run, painter.network, inputs=inputs, answer=Denoising(), metrics=metrics,
        files={quality.FILE: judge.to_bytes()},
    )  # fmt: skip
    return metrics


def learn(config: FlowConfig, run: Run, judge: Judge, data: ImageData, batches: Loader, painter: Painter) -> Painter:
    """The loop; returns what paints with the averaged network."""
    network, steps = painter.network, config.epochs * len(batches)
    optimizer = torch.optim.AdamW(weight_groups(network, 0.01), config.lr, betas=(0.9, 0.99), fused=True)
    schedule = Schedule(config.schedule, optimizer, steps, warmup=max(10, steps // 20))
    decay = config.ema if config.ema is not None else min(1 - 1 / max(10.0, steps / 10), 0.9999)
    average = MovingAverage(network, decay)
    step = Step(run, network, F.mse_loss, [optimizer], clip=config.clip, average=average)
    run.track(network=network, average=average, optimizer=optimizer, schedule=schedule, scaler=step.scaler)
    painter = replace(painter, network=average.module)
    every = -(-config.epochs // VALIDATIONS)
    step.network.train()

    for inputs, target in run.loop(batches, epochs=config.epochs):
        if run.step == 0:
            judge.keep(run.folder)
        run.log(loss=step(inputs, target), lr=schedule.get_last_lr()[0])
        schedule.step()
        if run.last_in_epoch and ((run.epoch + 1) % every == 0 or run.epoch + 1 == config.epochs):
            look_in(run, judge, data, painter.along(CHEAP[config.objective]))
    return painter


def look_in(run: Run, judge: Judge, data: ImageData, painter: Painter) -> None:
    """How the averaged network does so far: its loss on the validation split, and what it makes in a few steps."""
    losses = loss_by_time(painter, data)
    images = samples_of(painter, judge, LOOK)
    run.log_now(val_loss=sum(losses) / len(losses), val_frechet_distance=judge.distance(images))
    if distributed.rank() == 0:
        sheet = gallery.sheet(painter, painter.latent_size, painter.classes)
        gallery.keep(run.folder, run.epoch + 1, sheet)
        run.tracker.image("samples", sheet, run.step + 1)


@torch.inference_mode()
def loss_by_time(painter: Painter, data: ImageData, parts: int = 10) -> list[float]:
    """The mean loss on validation images in each tenth of the time, with the same noise in every run."""
    split, losses, network = quality.evenly(data.valid, LOOK), [], painter.network
    pixels, classes = quality.take(split, torch.arange(len(split))), split.targets
    picture = image_input(data).normalize(pixels)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(VALID_SEED))
    place, target = next(network.parameters()).device, painter.path.target(picture, noise)
    network.eval()
    for part in range(parts):
        time = torch.full((len(picture),), (part + 0.5) / parts)
        a, s = (weight[:, None, None, None] for weight in painter.path.weights(time))
        inputs = [a * picture + s * noise, time, *([classes] if painter.classes else [])]
        predicted = [
            network(tuple(x.to(place) for x in each)).cpu()
            for each in zip(*(x.split(250) for x in inputs), strict=True)
        ]
        losses.append(F.mse_loss(torch.cat(predicted), target).item())
    return losses


# --- evaluate ----------------------------------------------------------------------------------------------


def samples_of(painter: Painter, judge: Judge, count: int) -> Tensor:
    """Images uint8 [count, C, S, S] from the fixed seed of evaluations, their classes as often as in the test split."""
    latents = gallery.fixed_latents(count, painter.latent_size, seed=gallery.SEED + 2)
    return painter(latents, judge.wanted(count) if painter.classes else None)


def test(painter: Painter, judge: Judge) -> tuple[Metrics, Tensor]:
    """How samples compare with the test split, and the samples."""
    images = samples_of(painter, judge, judge.count)
    return judge.measure(images, judge.wanted(judge.count) if painter.classes else None), images


def evaluate(saved: Artifact, config: FlowConfig) -> Metrics:
    """Measures a saved network again, by the classifier that lies beside it."""
    return test(load_painter(saved), Judge.of_artifact(saved, config))[0]


# --- predict -----------------------------------------------------------------------------------------------


def load_painter(saved: Artifact) -> Painter:
    """What paints with the averaged network, ready to be used."""
    config = FlowConfig().with_values({**saved.config, "inception": "none"})  # its file may be gone; only tests need it
    inputs = NoiseInput.from_json(saved.inputs)
    network = saved.load_into(build(config, len(inputs.classes), inputs.channels))
    shape = (inputs.channels, inputs.side, inputs.side)
    network = network.to(memory_format=torch.channels_last)  # as in training: sums are rounded alike
    return Painter(network, PATHS[config.objective], config.way, shape, len(inputs.classes))


def load(saved: Artifact) -> Predictor:
    """A seed or a latent, a class, steps and guidance in; a picture out. Without a class, seeds take them in turn."""
    inputs, answer, painter = NoiseInput.from_json(saved.inputs), Denoising(), load_painter(saved)

    def answered(wish: Wish) -> Row:
        row: Row = {"seed": wish.seed}
        label = None
        if inputs.classes:
            number = wish.label if wish.label is not None else (wish.seed or 0) % len(inputs.classes)
            row["class"], label = inputs.classes[number], torch.tensor([number])
        way = Way(painter.way.sampler, wish.steps, wish.guidance)
        known = Known(wish.picture, wish.mask, wish.start) if wish.picture is not None else None
        # One at a time: in batches of another size sums are rounded otherwise, and the same seed gave other pixels.
        moments = painter.along(way).moments(wish.latent[None], label, known, every=wish.path)
        pictures = gallery.to_pixels(torch.cat([moments[-1].points, *(m.expected for m in moments)]))
        return row | answer.rows(pictures[:1], pictures[1:] if wish.path else None)[0]

    def predict(wishes: Sequence[Wish]) -> list[Row]:
        return [answered(wish) for wish in wishes]

    return Predictor(inputs, answer, predict)


example = Example(
    name="generative.flow",
    task="Image generation by flow matching or diffusion",
    model="U-Net",
    seconds=90,
    headline="frechet_distance",
    config=FlowConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    tag=lambda config: f"{config.objective}-{config.data.split(':')[0]}",
    objective="val_frechet_distance",
    goal="minimize",
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
