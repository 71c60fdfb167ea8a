"""Judges what a generator makes: the same figures, by the same classifier, for every model of this domain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from common.artifact import Artifact
from common.config import Config, option
from common.data.images.sources import ImageData
from common.errors import UserError
from common.files import write_whole
from common.kinds.image import ImageInput
from common.machine import distributed
from common.metrics import Metrics
from common.training.run import Run
from generative import quality
from generative.data import load

SIDE = 32  # of the images that are judged; others are scaled to it as the data were
SAMPLES = (1_000, 10_000)  # least and most that an evaluation generates
LOOK = 500  # samples that are measured during training


@dataclass(frozen=True)
class JudgedConfig(Config):
    """What a training takes whose samples are judged."""

    inception: str = option("none", "also measure in Inception-v3's features: imagenet (downloads its weights), none, "
                            "or a file", group="Evaluation", path=True)  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.inception not in ("imagenet", "none") and not Path(self.inception).is_file():
            raise UserError(
                f"--inception {self.inception}: no such file.", "Use imagenet, none, or the path of a file."
            )


class Judge:
    """A classifier of one data set, and what it makes of the real images, which it looks at once.

    Args:
        data: as images of SIDE × SIDE.
        classifier: of its training split.
        inception: measures too, where it is given.
    """

    def __init__(self, data: ImageData, classifier: quality.Classifier, inception: nn.Module | None = None) -> None:
        self.data, self.classifier, self.inception = data, classifier, inception
        self.device = classifier.head.weight.device
        self.count = min(SAMPLES[1], max(len(data.test), SAMPLES[0]))  # samples that `measure` wants

    @classmethod
    def of_run(cls, run: Run, config: JudgedConfig) -> Judge:
        """The judge of a training; a resumed one has its classifier already."""
        inception = _inception(config, run.device)
        data = load(config.data, config.data_folder, SIDE)
        content = quality.stored(run.folder) if run.resume else None
        if content is not None:
            return cls(data, quality.from_bytes(content, data, run.device), inception)
        return cls(data, quality.train_classifier(data, run.device), inception)

    @classmethod
    def of_artifact(cls, saved: Artifact, config: JudgedConfig) -> Judge:
        """The judge that lies beside a saved model, on the CPU."""
        device = torch.device("cpu")
        data = load(config.data, config.data_folder, SIDE)
        classifier = quality.from_bytes(saved.file(quality.FILE), data, device)
        return cls(data, classifier, _inception(config, device))

    def to_bytes(self) -> bytes:
        """What `of_artifact` finds again."""
        return quality.to_bytes(self.classifier)

    def keep(self, folder: Path) -> None:
        """Writes the classifier beside a run's checkpoints, so that a resumed run need not train it again."""
        if distributed.rank() == 0:
            with write_whole(folder / quality.FILE) as file:
                file.write(self.to_bytes())

    def distance(self, images: Tensor) -> float:
        """The Fréchet distance of a few samples, uint8 [N, C, S, S], to the validation split."""
        seen = quality.look(self.classifier, as_judged(images))
        return quality.frechet_distance(seen.features, self._valid.features)

    def look(self, images: Tensor) -> quality.Seen:
        """What the classifier makes of samples, uint8 [N, C, S, S] of any side."""
        return quality.look(self.classifier, as_judged(images))

    @cached_property
    def real(self) -> quality.Seen:
        """Of test images, as many as are compared."""
        return quality.look(self.classifier, self._reference)

    @cached_property
    def train(self) -> quality.Seen:
        """Of as many training images as there are samples."""
        return quality.look(self.classifier, self._known)

    @cached_property
    def _valid(self) -> quality.Seen:
        return quality.look(self.classifier, self.data.valid)

    @cached_property
    def _reference(self) -> quality.Images:
        return quality.evenly(self.data.test, SAMPLES[1])

    @cached_property
    def _known(self) -> quality.Images:
        return quality.evenly(self.data.train, self.count)

    def wanted(self, count: int) -> Tensor:
        """Classes int64 [count] to ask for: as often as in the test split."""
        return self.data.test.targets[torch.arange(count) % len(self.data.test)]

    def precision_recall(self, fake: quality.Seen) -> tuple[float, float]:
        """Improved precision and recall of samples, over sets of one size."""
        return quality.precision_recall(self.real.features[: self._same(fake)], fake.features[: self._same(fake)])

    def _same(self, fake: quality.Seen) -> int:
        return min(len(self.real), len(fake), len(self.train))

    def measure(self, images: Tensor, asked: Tensor | None = None) -> Metrics:
        """How samples, uint8 [N, C, S, S], compare with the test split.

        Args:
            asked: the classes that were asked for, int64 [N], where there were any.
        """
        classes = len(self.data.classes)
        images = as_judged(images)
        fake = quality.look(self.classifier, images)
        precision, recall = self.precision_recall(fake)
        same = self._same(fake)
        ceiling = quality.precision_recall(self.real.features[:same], self.train.features[:same])
        values: dict[str, float | int] = {
            "frechet_distance": quality.frechet_distance(fake.features, self.real.features),
            "frechet_floor": quality.frechet_distance(self.train.features, self.real.features),
            "precision": precision,
            "recall": recall,
            "modes": quality.modes_covered(fake.classes, fake.confidence, classes),
            "class_shift": quality.class_shift(fake.classes, self.real.classes, classes),
            "classifier_accuracy": float((self.real.classes == self._reference.targets).double().mean()),
        }
        if asked is not None:
            values["class_accuracy"] = float((fake.classes == asked).double().mean())
        notes = [
            f"distances are in the {quality.FEATURES} features of a classifier trained by us on this data's training "
            "split; they are not Inception FIDs and compare on this data set only",
            f"the Fréchet floor is the distance of {len(self.train):,} training images from the test split, which "
            f"{len(images):,} samples can hardly beat; training images reach precision {ceiling[0]:.2f} and recall "
            f"{ceiling[1]:.2f}",
            f"modes are the classes, of {classes}, that samples reach",
        ]
        if self.inception is not None:
            every = (images, self._reference, self._known)
            far = [quality.inception_features(self.inception, x, self.device) for x in every]
            values["inception_distance"] = quality.frechet_distance(far[0], far[1])
            values["inception_floor"] = quality.frechet_distance(far[2], far[1])
            notes.append("inception distances use torchvision's weights, not the TensorFlow port of published FIDs")
        return Metrics("frechet_distance", values | {"samples": len(images), "n": len(self.real)}, notes)


def as_judged(images: Tensor) -> Tensor:
    """Samples uint8 [N, C, S, S] scaled to SIDE as the data's images are."""
    if images.shape[-1] == SIDE:
        return images
    half = (0.5,) * images.shape[1]
    scale = ImageInput(SIDE, images.shape[1], half, half).fit
    return torch.stack([scale(image) for image in images])


def _inception(config: JudgedConfig, device: torch.device) -> nn.Module | None:
    return quality.inception(config.inception, device) if config.inception != "none" else None
