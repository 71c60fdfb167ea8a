"""Trains a generative adversarial network on images of 32 × 32, and measures what it makes.

python -m generative.gan                                         scikit-learn's digits, no download
python -m generative.gan --loss r3gan --conditional              by class, with the newest of three losses
python -m generative.gan --data mnist --size base                60,000 digits, fetched once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, option
from common.data.images.sources import SOURCES
from common.data.loaders import Loader
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.picture import Picture
from common.kinds.seed import Draw, SeedInput
from common.machine import device as devices
from common.machine import distributed
from common.machine.device import mix_seed
from common.metrics import Metrics
from common.training.fit import Schedule
from common.training.run import Run
from common.training.step import MovingAverage
from generative import gallery, quality
from generative.data import image_input
from generative.gan.losses import OBJECTIVES, discriminator_loss, generator_loss
from generative.gan.networks import SIDE, SIZES, Discriminator, Generator
from generative.judge import LOOK, Judge, JudgedConfig

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set and a loss, for every setting that was not given.
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 36, "batch_size": 32},
    "synthetic": {"epochs": 6, "batch_size": 32},
    "mnist": {"epochs": 12, "batch_size": 64},
    "fashion-mnist": {"epochs": 12, "batch_size": 64},
    "photos": {"epochs": 60, "batch_size": 64},
}
LOSSES: dict[str, dict[str, Any]] = {
    "dcgan": {"lr": 1e-3, "discriminator_lr": 5e-4, "discriminator_steps": 1, "penalty": 0.0},
    "wgan-gp": {"lr": 1e-3, "discriminator_lr": 1e-3, "discriminator_steps": 2, "penalty": 10.0},
    "r3gan": {"lr": 1e-3, "discriminator_lr": 1e-3, "discriminator_steps": 1, "penalty": 1.0},
}
BETAS = {"dcgan": (0.5, 0.999), "wgan-gp": (0.0, 0.9), "r3gan": (0.0, 0.99)}  # of Adam, from the papers

FRAMES = 40  # sheets of samples that a run keeps


@dataclass(frozen=True)
class GanConfig(JudgedConfig):
    """Everything that decides the result of one training."""

    data: str = option("digits", "data set", group="Data", choices=tuple(SOURCES), common=True)
    loss: str = option("dcgan", "adversarial objective", group="Model", choices=tuple(OBJECTIVES), common=True)
    conditional: bool = option(False, "generate by class", group="Model")
    size: str = option("small", "size of both networks", group="Model", choices=tuple(SIZES))
    latent: int = option(100, "numbers in a latent", group="Model", at_least=1, at_most=4096)

    epochs: int = option(
        None, "passes over the training data", at_least=1, unset="by data set", grows=True, common=True
    )
    batch_size: int = option(None, "real images per step, over all processes", at_least=1, unset="by data set",
                                    tune=(16, 32, 64), common=True)  # fmt: skip
    lr: float = option(None, "learning rate of the generator", above=0, at_most=100, unset="by loss",
                              tune=Range(1e-4, 5e-3, log=True), common=True)  # fmt: skip
    discriminator_lr: float = option(None, "learning rate of the discriminator", above=0, at_most=100,
                                            unset="by loss", tune=Range(1e-4, 5e-3, log=True))  # fmt: skip
    discriminator_steps: int = option(
        None, "steps of the discriminator for each of the generator", at_least=1, at_most=100, unset="by loss"
    )
    penalty: float = option(None, "weight of the gradient penalty", at_least=0, unset="by loss")
    schedule: str = option("constant", "learning-rate schedule", choices=("constant", "cosine"))
    ema: float | None = option(
        None, "decay per step of the averaged generator", at_least=0, at_most=0.99999, unset="by length of training"
    )

    @classmethod
    def tiny(cls) -> GanConfig:
        return cls(data="synthetic", size="tiny", latent=32)

    def resolve(self) -> GanConfig:
        """Fills what was left open from the recipes of the data set and the loss."""
        return self.filled(RECIPES.get(self.data, RECIPES["photos"]) | LOSSES[self.loss])

    def check(self) -> None:
        super().check()
        if self.loss == "dcgan" and self.penalty:
            raise UserError("--penalty: dcgan has no gradient penalty.", "Use --loss wgan-gp or --loss r3gan.")
        if self.precision == "fp16":
            raise UserError("--precision fp16: two losses would need two scalers.", "Use bf16, fp32 or auto.")


# --- model -------------------------------------------------------------------------------------------------


def build_generator(config: GanConfig, classes: int, channels: int) -> Generator:
    """Latents [B, Z] and labels [B] to images; `classes` is 0 without `--conditional`."""
    return Generator(config.latent, classes, channels, SIZES[config.size][0], OBJECTIVES[config.loss].generator_norm)


def build_discriminator(config: GanConfig, classes: int, channels: int) -> Discriminator:
    """Images and labels [B] to logits [B]."""
    return Discriminator(classes, channels, SIZES[config.size][1], OBJECTIVES[config.loss].norm)


# --- train -------------------------------------------------------------------------------------------------


def train(config: GanConfig, run: Run) -> Metrics:
    """Trains both networks, measures the averaged generator, and saves it."""
    judge = Judge.of_run(run, config)
    data = judge.data
    classes = len(data.classes) if config.conditional else 0
    run.cite(data.provenance)
    config = run.settle(config, samples=len(data.train))

    generator: nn.Module = build_generator(config, classes, data.channels)
    generator = run.place(generator, sample=torch.zeros(1, config.latent, 1, 1))
    discriminator: nn.Module = build_discriminator(config, classes, data.channels)
    discriminator = run.place(discriminator, sample=torch.zeros(1, data.channels, SIDE, SIDE))
    assert run.plan is not None
    sizes = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
    run.progress.say(f"model      {config.loss} {config.size}, {sizes[0]:,} + {sizes[1]:,} weights")

    batches = Loader(
        data.train, config.batch_size, train=True, device=run.device, seed=config.seed,
        prepare=image_input(data).normalize, memory_format=run.plan.memory_format,
    )  # fmt: skip

    average = adversarial(config, run, judge, batches, generator, discriminator)

    make = partial(generate, average)
    metrics, samples = test(make, judge, config)
    if distributed.rank() == 0:
        run.sections += gallery.sections(make, config.latent, data.classes[:classes], data, samples, run.folder)
    artifact.save(
        run, average, inputs=SeedInput(config.latent, tuple(data.classes[:classes])),
        answer=Picture(), metrics=metrics, files={quality.FILE: judge.to_bytes()},
    )  # fmt: skip
    return metrics


def adversarial(
    config: GanConfig,
    run: Run,
    judge: Judge,
    batches: Loader,
    generator: nn.Module,
    discriminator: nn.Module,
) -> nn.Module:
    """The loop: the discriminator learns at every step, the generator at every few. Returns the averaged generator."""
    every = config.discriminator_steps
    steps = config.epochs * len(batches)
    if steps < every:
        raise UserError(
            f"--discriminator-steps {every}: the training has {steps} steps, in which the generator would never learn.",
            "Use fewer, or more --epochs.",
        )
    betas = BETAS[config.loss]
    generator_optimizer = torch.optim.Adam(generator.parameters(), config.lr, betas, fused=True)
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), config.discriminator_lr, betas, fused=True)
    generator_schedule = Schedule(config.schedule, generator_optimizer, steps, every=every)
    discriminator_schedule = Schedule(config.schedule, discriminator_optimizer, steps)
    decay = config.ema if config.ema is not None else ema_decay(steps // every)
    average = MovingAverage(generator, decay)
    run.track(
        generator=generator, discriminator=discriminator, average=average,
        generator_optimizer=generator_optimizer, discriminator_optimizer=discriminator_optimizer,
        generator_schedule=generator_schedule, discriminator_schedule=discriminator_schedule,
    )  # fmt: skip
    if distributed.world() > 1:
        distributed.synchronize_batch_norm(generator)
        distributed.synchronize_batch_norm(discriminator)
    generator.train()
    discriminator.train()

    for real, targets in run.loop(batches, epochs=config.epochs):
        if run.step == 0:
            judge.keep(run.folder)
        labels = targets if config.conditional else None
        latents, mix = noise(config, run.step, batches.batch_size, run.device)
        generator_learns = (run.step + 1) % every == 0

        with torch.set_grad_enabled(generator_learns), run.autocast():
            fake = generator(latents, labels)  # [B, C, 32, 32], also for the generator's own step: one pass less
        discriminator.requires_grad_(True)
        parts = discriminator_loss(
            config.loss, discriminator, real, fake.detach(), labels, penalty=config.penalty, mix=mix,
            autocast=run.autocast,
        )  # fmt: skip
        learn(discriminator, discriminator_optimizer, parts["loss"])
        discriminator_schedule.step()
        run.log(**{f"discriminator_{name}": value for name, value in parts.items()})

        if generator_learns:
            discriminator.requires_grad_(False)  # spares its gradients of the weights, half of its backward pass
            loss = generator_loss(config.loss, discriminator, real, fake, labels, run.autocast)
            learn(generator, generator_optimizer, loss)
            generator_schedule.step()
            average.update_parameters(generator)
            run.log(generator_loss=loss)

        if run.last_in_epoch and (run.epoch + 1) % -(-config.epochs // FRAMES) == 0:
            look_in(config, run, judge, average.module)
    return average.module


def learn(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of one of the two networks, by the gradient over all processes."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    distributed.average_gradients(network)
    optimizer.step()


def noise(config: GanConfig, step: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """This process's share of a step's latents, [B, Z, 1, 1], and of WGAN-GP's mixing shares, [B, 1, 1, 1].

    Drawn for the whole batch from the seed and the step: N processes see what one would, and a resumed run repeats
    what it would have drawn.
    """
    source = torch.Generator().manual_seed(mix_seed(config.seed, "noise", step))
    latents = torch.randn(batch, config.latent, 1, 1, generator=source)
    mix = torch.rand(batch, 1, 1, 1, generator=source)
    rank, world = distributed.rank(), distributed.world()
    mine, mixed = (part.tensor_split(world)[rank] for part in (latents, mix))
    return mine.to(device, non_blocking=True), mixed.to(device, non_blocking=True)


def ema_decay(steps: int) -> float:
    """A decay that averages over about a tenth of the training, but not over less than 10 steps."""
    return min(1 - 1 / max(10.0, steps / 10), 0.9999)


def look_in(config: GanConfig, run: Run, judge: Judge, average: nn.Module) -> None:
    """What the averaged generator makes so far: a sheet of samples, and their distance to the validation split."""
    make = partial(generate, average)
    run.log_now(val_frechet_distance=judge.distance(samples_of(make, config, judge.data.valid.targets, LOOK)))
    if distributed.rank() == 0:
        sheet = gallery.sheet(make, config.latent, len(judge.data.classes) if config.conditional else 0)
        gallery.keep(run.folder, run.epoch + 1, sheet)
        run.tracker.image("samples", sheet, run.step + 1)


# --- evaluate ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def generate(generator: nn.Module, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images uint8 [N, C, S, S] on the CPU, in evaluation mode and fp32, whatever the training's number format.

    Args:
        latents: [N, Z].
        labels: int64 [N], or None for an unconditional generator.
    """
    training = generator.training
    place = devices.of(generator)
    generator.eval()
    parts = []
    for indices in torch.arange(len(latents)).split(quality.batch_size(place)):
        classes = labels[indices].to(place) if labels is not None else None
        parts.append(gallery.to_pixels(generator(latents[indices].to(place), classes)))
    generator.train(training)
    return torch.cat(parts).cpu().contiguous()


def samples_of(make: gallery.Generator, config: GanConfig, targets: Tensor, count: int) -> Tensor:
    """Images uint8 [count, C, S, S] from the fixed seed of evaluations, their classes as often as in `targets`."""
    latents = gallery.fixed_latents(count, config.latent, seed=gallery.SEED + 2)
    return make(latents, targets[torch.arange(count) % len(targets)] if config.conditional else None)


def test(make: gallery.Generator, judge: Judge, config: GanConfig) -> tuple[Metrics, Tensor]:
    """How samples compare with the test split, and the samples."""
    images = samples_of(make, config, judge.data.test.targets, judge.count)
    return judge.measure(images, judge.wanted(judge.count) if config.conditional else None), images


def evaluate(saved: Artifact, config: GanConfig) -> Metrics:
    """Measures a saved generator again, by the classifier that lies beside it."""
    return test(partial(generate, load_generator(saved)), Judge.of_artifact(saved, config), config)[0]


# --- predict -----------------------------------------------------------------------------------------------


def load_generator(saved: Artifact) -> nn.Module:
    """The averaged generator, ready to be used."""
    config = GanConfig().with_values({**saved.config, "inception": "none"})  # its file may be gone; only tests need it
    channels = saved.shapes()["to_image.bias"][0]
    classes = SeedInput.from_json(saved.inputs).classes
    generator = saved.load_into(build_generator(config, len(classes), channels))
    return generator.to(memory_format=torch.channels_last)


def load(saved: Artifact) -> Predictor:
    """A seed or a latent, and a class, in; an image out. Without a class, seeds go through the classes in turn."""
    inputs, answer = SeedInput.from_json(saved.inputs), Picture()
    generator = load_generator(saved)

    def answered(draw: Draw) -> Row:
        row: Row = {"seed": draw.seed}
        label = None
        if inputs.classes:
            number = draw.label if draw.label is not None else (draw.seed or 0) % len(inputs.classes)
            row["class"], label = inputs.classes[number], torch.tensor([number])
        # One at a time: in batches of another size sums are rounded otherwise, and the same seed gave other pixels.
        return row | answer.rows(generate(generator, draw.latent[None], label))[0]

    def predict(draws: Sequence[Draw]) -> list[Row]:
        return [answered(draw) for draw in draws]

    return Predictor(inputs, answer, predict)


example = Example(
    name="generative.gan",
    task="Image generation with a GAN",
    model="DCGAN",
    seconds=80,
    headline="frechet_distance",
    config=GanConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    tag=lambda config: f"{config.loss}-{config.data.split(':')[0]}",
    objective="val_frechet_distance",
    goal="minimize",
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
