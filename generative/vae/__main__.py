"""Trains a β-VAE: pictures become a few numbers and pictures again, and how many bits that costs is measured.

python -m generative.vae                                         scikit-learn's digits, no download
python -m generative.vae --beta 4 --latent 8                     fewer dimensions, each of which means more
python -m generative.vae --data mnist                            60,000 digits, fetched once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Range, option
from common.data.images.sources import SOURCES, ImageData
from common.data.loaders import Loader
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.picture import Picture
from common.kinds.seed import Draw, SeedInput
from common.machine import device as devices
from common.machine import distributed
from common.metrics import Metrics
from common.report import frames
from common.report import page as report
from common.training.fit import Schedule, weight_groups
from common.training.run import Run
from common.training.step import MovingAverage, Step
from generative import gallery, quality
from generative.data import image_input
from generative.data import load as load_data
from generative.judge import LOOK, SIDE, Judge, JudgedConfig
from generative.vae.networks import WIDTHS, Coded, Decoder, Encoder, Vae, bits

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set, for every setting that was not given.
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 8, "epochs": 60, "batch_size": 64, "latent": 16},
    "synthetic": {"image_size": 8, "epochs": 6, "batch_size": 32, "latent": 8},
    "mnist": {"image_size": 32, "epochs": 5, "batch_size": 128, "latent": 32},
    "fashion-mnist": {"image_size": 32, "epochs": 5, "batch_size": 128, "latent": 32},
    "photos": {"image_size": 32, "epochs": 60, "batch_size": 128, "latent": 64},
}
ENCODER = "encoder.safetensors"  # beside the decoder, which is the model that is served
ACTIVE = 0.01  # a dimension is active where its mean varies more over images (Burda et al. 2016, arXiv 1509.00519)
EVAL_SEED = 20  # of the noise of evaluations: the same in every run
VALIDATIONS = 6  # of a training


@dataclass(frozen=True)
class VaeConfig(JudgedConfig):
    """Everything that decides the result of one training."""

    data: str = option("digits", "data set", group="Data", choices=tuple(SOURCES), common=True)
    image_size: int = option(None, "side of the pictures in pixels", group="Data", at_least=8, at_most=256,
                                    unset="by data set")  # fmt: skip
    latent: int = option(None, "numbers in a latent", group="Model", at_least=1, at_most=4096, unset="by data set",
                                common=True)  # fmt: skip
    beta: float = option(1.0, "weight of the latent's bits; 1 for the bound itself", group="Model", at_least=0,
                         at_most=1000, tune=Range(0.25, 8, log=True), common=True)  # fmt: skip
    size: str = option("small", "size of both networks", group="Model", choices=tuple(WIDTHS))

    epochs: int = option(
        None, "passes over the training data", at_least=1, unset="by data set", grows=True, common=True
    )
    batch_size: int = option(None, "images per step, over all processes", at_least=1, unset="by data set",
                                    tune=(32, 64, 128), common=True)  # fmt: skip
    lr: float = option(2e-3, "peak learning rate", above=0, at_most=100, tune=Range(3e-4, 6e-3, log=True), common=True)
    schedule: str = option("cosine", "learning-rate schedule", choices=("constant", "cosine", "one-cycle", "wsd"))
    clip: float = option(1.0, "largest norm of the gradient; 0 for none", at_least=0)

    @classmethod
    def tiny(cls) -> VaeConfig:
        return cls(data="synthetic", size="tiny")

    def resolve(self) -> VaeConfig:
        """Fills what was left open from the recipe of the data set."""
        return self.filled(RECIPES.get(self.data, RECIPES["photos"]))

    def check(self) -> None:
        super().check()
        if self.image_size is not None and self.image_size % 4:
            what = f"--image-size {self.image_size}: the networks halve it."
            raise UserError(what, "Use a multiple of 4.")


# --- model -------------------------------------------------------------------------------------------------


def build(config: VaeConfig, channels: int) -> Vae:
    """Pictures and noise to a code and the pixels that it means."""
    shape = (channels, config.image_size, config.latent, WIDTHS[config.size])
    return Vae(Encoder(*shape), Decoder(*shape))


# --- train -------------------------------------------------------------------------------------------------


def train(config: VaeConfig, run: Run) -> Metrics:
    """Trains both networks, measures the bound and what the decoder makes of noise, and saves it."""
    judge = Judge.of_run(run, config)
    data = load_data(config.data, config.data_folder, config.image_size) if config.image_size != SIDE else judge.data
    run.cite(data.provenance)
    config = run.settle(config, samples=len(data.train))
    normalize = image_input(data).normalize

    def noised(pixels: Tensor, classes: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        pictures = normalize(pixels)
        return (pictures, torch.randn(len(pictures), config.latent, device=pictures.device)), pictures

    batches = Loader(data.train, config.batch_size, train=True, device=run.device, seed=config.seed, augment=noised)
    sample = (torch.zeros(1, data.channels, data.size, data.size), torch.zeros(1, config.latent))
    vae = run.place(build(config, data.channels), sample=sample)
    run.progress.say(f"model      β-VAE {config.size}, {sum(p.numel() for p in vae.parameters()):,} weights")
    vae = learn(config, run, judge, data, batches, vae)

    metrics, samples = test(vae, judge, data, config)
    if distributed.rank() == 0:
        make = partial(generate, vae.decoder)
        usual = gallery.sections(make, config.latent, (), data, samples, run.folder)
        run.sections += [usual[0], *sections(vae, data, config), *usual[1:]]
    artifact.save(
        run, vae.decoder, inputs=SeedInput(config.latent), answer=Picture(), metrics=metrics,
        files={quality.FILE: judge.to_bytes(), ENCODER: to_bytes(vae.encoder)},
    )  # fmt: skip
    return metrics


def learn(config: VaeConfig, run: Run, judge: Judge, data: ImageData, batches: Loader, vae: nn.Module) -> Vae:
    """The loop; returns the averaged networks."""
    steps = config.epochs * len(batches)
    optimizer = torch.optim.AdamW(weight_groups(vae, 0.01), config.lr, fused=True)
    schedule = Schedule(config.schedule, optimizer, steps, warmup=max(10, steps // 20))
    average = MovingAverage(vae, min(1 - 1 / max(10.0, steps / 20), 0.9999))

    def loss(coded: Coded, pictures: Tensor) -> Tensor:
        pixels, code = bits(coded, pictures)
        return (pixels + config.beta * code).mean()

    step = Step(run, vae, loss, [optimizer], clip=config.clip, average=average)
    run.track(vae=vae, average=average, optimizer=optimizer, schedule=schedule, scaler=step.scaler)
    averaged = cast(Vae, average.module)
    every = -(-config.epochs // VALIDATIONS)
    step.network.train()

    for inputs, pictures in run.loop(batches, epochs=config.epochs):
        if run.step == 0:
            judge.keep(run.folder)
        run.log(loss=step(inputs, pictures), lr=schedule.get_last_lr()[0])
        schedule.step()
        if run.last_in_epoch and ((run.epoch + 1) % every == 0 or run.epoch + 1 == config.epochs):
            look_in(run, judge, data, averaged, config)
    return averaged


def look_in(run: Run, judge: Judge, data: ImageData, vae: Vae, config: VaeConfig) -> None:
    """How the averaged networks do so far, on the validation split."""
    bound, _ = measure(vae, data.valid, data, config.latent)
    make = partial(generate, vae.decoder)
    distance = judge.distance(make(gallery.fixed_latents(LOOK, config.latent, gallery.SEED + 2), None))
    run.log_now(**{f"val_{name}": value for name, value in bound.items()}, val_frechet_distance=distance)
    if distributed.rank() == 0:
        gallery.keep(run.folder, run.epoch + 1, gallery.sheet(make, config.latent, 0))


# --- evaluate ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def coded_by(vae: Vae, pixels: Tensor, data: ImageData, latent: int) -> tuple[Coded, Tensor]:
    """What the networks make of images uint8 [N, C, S, S], with the noise of evaluations; and the pictures."""
    pictures = image_input(data).normalize(pixels)
    noise = torch.randn(len(pictures), latent, generator=torch.Generator().manual_seed(EVAL_SEED))
    place = next(vae.encoder.parameters()).device
    vae.eval()
    parts = [vae((x.to(place), z.to(place))) for x, z in zip(pictures.split(250), noise.split(250), strict=True)]
    return Coded(*(torch.cat(each).cpu() for each in zip(*parts, strict=True))), pictures


def measure(vae: Vae, split: quality.Images, data: ImageData, latent: int) -> tuple[dict[str, float], Tensor]:
    """The bound over a split (at most 10,000 images) and its two parts, in bits per dimension; and the codes' means."""
    few = quality.evenly(split, 10_000)
    coded, pictures = coded_by(vae, quality.take(few, torch.arange(len(few))), data, latent)
    pixels, code = (part.double().mean().item() for part in bits(coded, pictures))
    figures = {"bits_per_dimension": pixels + code, "reconstruction_bits": pixels, "kl_bits": code}
    return figures, coded.code[:, 0]


def test(vae: Vae, judge: Judge, data: ImageData, config: VaeConfig) -> tuple[Metrics, Tensor]:
    """The bound on the test split, and how samples compare with it; and the samples."""
    bound, means = measure(vae, data.test, data, config.latent)
    images = generate(vae.decoder, gallery.fixed_latents(judge.count, config.latent, gallery.SEED + 2))
    judged = judge.measure(images)
    values = {**bound, "active_dimensions": int((means.var(0) > ACTIVE).sum()), **judged.values}
    note = (
        "bits per dimension bound the negative logarithm of the likelihood of the pixels' 256 values from above, with "
        f"one sample of the code; of the {config.latent} dimensions of the code the active ones tell images apart"
    )
    return Metrics("bits_per_dimension", values, [note, *judged.notes]), images


def evaluate(saved: Artifact, config: VaeConfig) -> Metrics:
    """Measures saved networks again, by the classifier that lies beside them."""
    judge = Judge.of_artifact(saved, config)
    data = load_data(config.data, config.data_folder, config.image_size) if config.image_size != SIDE else judge.data
    vae = build(config, data.channels)
    from_bytes(saved.file(ENCODER), vae.encoder)
    vae.encoder.to(memory_format=torch.channels_last)
    return test(Vae(vae.encoder, load_decoder(saved)), judge, data, config)[0]


def sections(vae: Vae, data: ImageData, config: VaeConfig, count: int = 10) -> list[report.Section]:
    """What only a VAE has for its report: test images and what their code keeps, and what its dimensions mean."""
    pixels = quality.take(data.test, torch.arange(min(count, len(data.test))))
    coded, _ = coded_by(vae, pixels, data, config.latent)
    back = gallery.to_pixels(coded.pixels.chunk(2, 1)[0])
    _, means = measure(vae, data.valid, data, config.latent)
    order = means.var(0).argsort(descending=True)[: min(6, config.latent)]
    latents = means[0].repeat(len(order), count, 1)
    for row, dimension in enumerate(order.tolist()):
        latents[row, :, dimension] = torch.linspace(-3, 3, count)
    walked = generate(vae.decoder, latents.flatten(0, 1))
    both = f"First row: test images. Second row: what comes back out of the {config.latent} numbers that each became."
    each = "A row for each of the most active dimensions of the code, from −3 to 3; the others are those of one image."
    return [
        report.image("Reconstructions", frames.grid(torch.cat([pixels, back]), len(pixels)), "images and theirs", both),
        report.image("Dimensions of the code", frames.grid(walked, count), "pictures along each dimension", each),
    ]


def to_bytes(network: nn.Module) -> bytes:
    """A network's weights, in the safetensors format."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()})


def from_bytes(content: bytes, network: nn.Module) -> None:
    """The reverse of `to_bytes`, into a network; UserError where it is another's."""
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    try:
        network.load_state_dict(read(content))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{ENCODER} is damaged, or belongs to other settings.", "Train the model again.") from error
    network.eval()


# --- predict -----------------------------------------------------------------------------------------------


@torch.inference_mode()
def generate(decoder: nn.Module, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """Pictures uint8 [N, C, S, S] on the CPU of latents [N, Z]: the middle of each pixel. There are no labels."""
    decoder.eval()
    place = devices.of(decoder)
    parts = [decoder(z.to(place)).chunk(2, dim=1)[0] for z in latents.split(quality.batch_size(place))]
    return gallery.to_pixels(torch.cat(parts)).cpu().contiguous()


def load_decoder(saved: Artifact) -> nn.Module:
    """The averaged decoder, ready to be used."""
    config = VaeConfig().with_values({**saved.config, "inception": "none"})  # its file may be gone; only tests need it
    channels = saved.shapes()["last.bias"][0] // 2
    decoder = saved.load_into(build(config, channels).decoder)
    return decoder.to(memory_format=torch.channels_last)  # as in training: sums are rounded alike


def load(saved: Artifact) -> Predictor:
    """A seed or a latent in, a picture out."""
    inputs, answer, decoder = SeedInput.from_json(saved.inputs), Picture(), load_decoder(saved)

    def predict(draws: Sequence[Draw]) -> list[Row]:
        # One at a time: in batches of another size sums are rounded otherwise, and the same seed gave other pixels.
        return [{"seed": draw.seed} | answer.rows(generate(decoder, draw.latent[None]))[0] for draw in draws]

    return Predictor(inputs, answer, predict)


example = Example(
    name="generative.vae",
    task="Image compression and generation with a VAE",
    model="β-VAE",
    seconds=40,
    headline="bits_per_dimension",
    config=VaeConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    tag=lambda config: f"{config.data.split(':')[0]}-beta{config.beta:g}",
    objective="val_bits_per_dimension",
    goal="minimize",
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
