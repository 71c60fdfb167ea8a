"""Trains a detector: which objects are in a photo, and where.

python -m vision.detect                                          digits on photographs, composed here, no download
python -m vision.detect --data bccd --data-dir DIR               blood cells
python -m vision.detect --data coco:annotations.json             your own; also voc:PATH and yolo:PATH
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
from common.data.loaders import Loader
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.boxes import Boxes, check_metrics
from common.kinds.photo import Fitted, Photo
from common.machine.distributed import first
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, predict_all
from common.training.run import Run
from vision.detect import data as sources
from vision.detect import model as models
from vision.detect import pages
from vision.detect.augment import Mosaic
from vision.detect.data import SOURCES, DetectionData, Photos
from vision.detect.loss import DetectionLoss, objects
from vision.detect.model import Outputs, Selecting, select
from vision.models import check_name, weights_mean_std

# --- config ------------------------------------------------------------------------------------------------

# What suits a data set, for every setting that was not given.
PHOTOS: dict[str, Any] = {
    "size": "small", "epochs": 60, "batch_size": 8, "lr": 2e-3, "mosaic": 0.5, "scale": 1.5, "flip": True,
    "colour": 0.2, "ema": 0.99,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "scenes": {"size": "small", "image_size": 128, "epochs": 6, "batch_size": 16, "lr": 5e-3, "mosaic": 0.0,
               "scale": 1.25, "flip": False, "colour": 0.2, "ema": 0.98},
    "synthetic": {"size": "tiny", "image_size": 64, "epochs": 12, "batch_size": 8, "lr": 8e-3, "mosaic": 0.25,
                  "scale": 1.25, "flip": True, "colour": 0.1, "ema": 0.9},
    "bccd": PHOTOS,
}  # fmt: skip
FEWEST_STEPS = 2000  # of a training on the user's own data, by as many epochs as that takes


@dataclass(frozen=True)
class DetectConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option("scenes", "data set", group="Data", choices=tuple(SOURCES), common=True)
    image_size: int | None = option(
        None, "longer side of the canvas that photos are fitted to, in pixels", group="Data", at_least=32, at_most=2048,
        unset="the photos', up to 320", common=True,
    )  # fmt: skip

    size: str = option(None, "size of the network", group="Model", choices=tuple(models.SIZES), unset="by data set",
                       common=True)  # fmt: skip

    backbone: str = option(
        models.OWN, "what looks at the photo first: ours, or a classifier of torchvision", group="Model",
        choices=(models.OWN, "torchvision/NAME"),
    )  # fmt: skip
    weights: str = option(
        "none", "weights that a torchvision backbone starts from: imagenet, none, or a file", group="Model", path=True
    )

    batch_size: int = changed(FitConfig, "batch_size", help="photos per step, over all processes", tune=(4, 8, 16))
    lr: float = changed(FitConfig, "lr", tune=Range(5e-4, 1e-2, log=True))
    weight_decay: float = changed(FitConfig, "weight_decay", default=0.05)
    ema: float = changed(FitConfig, "ema", default=None, unset="by data set")
    clip: float = changed(FitConfig, "clip", default=10.0)

    mosaic: float = option(None, "share of images that are put together from four", group="Augmentation", at_least=0,
                           at_most=1, unset="by data set", tune=Range(0.0, 1.0))  # fmt: skip
    scale: float = option(None, "largest factor by which images are enlarged or reduced", group="Augmentation",
                          at_least=1, at_most=4, unset="by data set", tune=Range(1.0, 2.0))  # fmt: skip
    flip: bool = option(None, "mirror images left to right", group="Augmentation", unset="by data set")
    colour: float = option(None, "largest change of brightness and contrast, as a share", group="Augmentation",
                           at_least=0, at_most=0.9, unset="by data set")  # fmt: skip

    @classmethod
    def tiny(cls) -> DetectConfig:
        return cls(data="synthetic")

    def check(self) -> None:
        super().check()
        if self.backbone == models.OWN and self.weights != "none":
            raise UserError(
                f"--weights {self.weights}: there are none for our backbone.", "--backbone torchvision/NAME"
            )
        if self.backbone != models.OWN:
            check_name(self.backbone)

    def resolve(self) -> DetectConfig:
        """Fills what was left open from the recipe of the data set; of the user's own data `fitted` does."""
        return self.filled(RECIPES.get(self.data, {}))

    def fitted(self, data: DetectionData) -> DetectConfig:
        """Fills what is still open: few photos get many epochs."""
        fitted = self.filled(PHOTOS)
        if self.is_open("epochs"):
            steps = max(1, len(data.train) // fitted.batch_size)
            fitted = replace(fitted, epochs=max(12, -(-FEWEST_STEPS // steps)))
        return fitted


# --- data --------------------------------------------------------------------------------------------------


def prepare(config: DetectConfig) -> DetectionData:
    """The three splits; validation is never a part of test, and test is looked at once."""
    with first():
        return sources.load(
            config.data,
            config.data_folder,
            config.image_size,
            config.seed,
            weights_mean_std("imagenet" if config.weights != "none" else "none", config.backbone),
        )


def batches(config: DetectConfig, photos: Photos, device: torch.device, augment: Mosaic | None = None) -> Loader:
    """Batches of a split on the device, ready for the network; shuffled and augmented if `augment` is given."""
    return Loader(
        photos,
        config.batch_size if augment else 32,
        train=augment is not None,
        device=device,
        seed=config.seed,
        prepare=lambda fitted: photos.photo.normalize(fitted.image),
        augment=augment,
    )


# --- train -------------------------------------------------------------------------------------------------


def train(config: DetectConfig, run: Run) -> Metrics:
    """Trains, evaluates on the test split, and saves the model."""
    check_metrics()
    data = prepare(config)
    run.cite(data.provenance)
    config = run.settle(config.fitted(data), samples=len(data.train))
    photo, answer = data.photo, Boxes(data.classes)

    canvas = (photo.height, photo.width)
    detector = models.build(config.size, len(data.classes), canvas, config.backbone, config.weights)
    placed = run.place(detector, sample=torch.zeros(1, 3, photo.height, photo.width))
    weights = sum(p.numel() for p in detector.parameters())
    run.progress.say(f"model      {config.size}, {weights:,} weights, canvas {photo.width} × {photo.height} px")

    fill = tuple(255 * value for value in photo.mean)
    augment = Mosaic(config.mosaic, config.scale, config.flip, config.colour, fill)
    checks = batches(config, data.valid, run.device)

    def validate(network: nn.Module) -> dict[str, float]:
        with run.autocast():
            return answer.validate(detect(network, data.valid, checks), data.valid.truths)

    placed = fit(
        run,
        placed,
        DetectionLoss(detector.points),
        batches(config, data.train, run.device, augment),
        config,
        count=objects,
        validate=validate,
        monitor="val_map",
    )

    found = {name: detect(placed, split, batches(config, split, run.device)) for name, split in tested(data).items()}
    metrics = measure(data, found)
    run.sections += pages.sections(data, found["test"], metrics)
    artifact.save(run, placed, inputs=photo, answer=answer, metrics=metrics)
    return metrics


# --- evaluate ----------------------------------------------------------------------------------------------


def detect(network: nn.Module, photos: Photos, loader: Loader) -> list[Tensor]:
    """What is found in every photo of a split, [D, 6] each as of `Boxes.rows`, in the photo's own pixels."""
    kept = predict_all(Selecting(network), loader)  # [N, D, 6] on the canvas
    boxes = photos.photo.to_photo(kept[..., :4], photos.sizes())
    return list(torch.cat([boxes, kept[..., 4:]], dim=-1))


def tested(data: DetectionData) -> dict[str, Photos]:
    """The test split; and validation, on which the threshold is chosen from which boxes are shown."""
    return {"valid": data.valid, "test": data.test}


def measure(data: DetectionData, found: dict[str, list[Tensor]]) -> Metrics:
    """COCO's figures on the test split; and the threshold from which boxes are shown."""
    metrics = Boxes(data.classes).measure(found["test"], data.test.truths)
    threshold = pages.best_threshold(found["valid"], data.valid.truths)
    return replace(metrics, values={**metrics.values, "threshold": threshold})


def evaluate(saved: Artifact, config: DetectConfig) -> Metrics:
    """Measures a saved model again."""
    check_metrics()
    data, model, cpu = prepare(config), load_model(saved), torch.device("cpu")
    found = {name: detect(model, split, batches(config, split, cpu)) for name, split in tested(data).items()}
    return measure(data, found)


# --- predict -----------------------------------------------------------------------------------------------


def load_model(saved: Artifact) -> nn.Module:
    """The trained network, ready to be used."""
    config = DetectConfig().with_values(saved.config)
    photo = Photo.from_json(saved.inputs)
    detector = models.build(config.size, len(saved.classes), (photo.height, photo.width), config.backbone)
    return saved.load_into(detector)


def load(saved: Artifact) -> Predictor:
    """A photo in, the boxes of its objects out, in pixels of the photo as it came."""
    photo, model = Photo.from_json(saved.inputs), load_model(saved)
    answer = Boxes(saved.classes, saved.metrics.get("threshold", pages.USUAL))

    @torch.inference_mode()
    def predict(photos: Sequence[Fitted]) -> list[Row]:
        kept = select(Outputs(*model(photo.network_input(photos))))  # [B, D, 6] on the canvas
        sizes = torch.stack([one.size for one in photos])
        return answer.rows(torch.cat([photo.to_photo(kept[..., :4], sizes), kept[..., 4:]], dim=-1), sizes)

    return Predictor(photo, answer, predict, model=model)


example = Example(
    name="vision.detect",
    task="Object detection",
    model="FCOS-like detector with a quality head",
    seconds=90,
    headline="map",
    config=DetectConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    prepare=prepare,
    tag=lambda config: f"{config.size or 'auto'}-{config.data.split(':')[0]}",
    objective="val_map",
    extras=("detect",),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
