"""Image classifiers: nine families of our own, one file each, and every classifier of torchvision.

`vision.models.pretrained` builds torchvision's and loads weights; it is imported when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.config import Config, option
from common.errors import UserError, nearest
from vision.models import alexnet, densenet, efficientnet, inception, lenet, mobilenet, resnet, vgg, vit

FAMILIES = {
    "lenet": lenet.build,
    "alexnet": alexnet.build,
    "vgg": vgg.build,
    "resnet": resnet.build,
    "inception": inception.build,
    "densenet": densenet.build,
    "efficientnet": efficientnet.build,
    "mobilenet": mobilenet.build,
    "vit": vit.build,
}
SIZES = ("tiny", "small", "base", "large")
TORCHVISION = "torchvision/"
EXAMPLES = "Such as torchvision/resnet18, torchvision/mobilenet_v3_small or torchvision/efficientnet_b0."


@dataclass(frozen=True)
class ModelConfig(Config):
    """Which network an example of this domain trains, and from where."""

    model: str = option(
        None, "network", group="Model", choices=(*FAMILIES, "torchvision/NAME"), unset="by data set", common=True
    )
    size: str = option("small", "size of the network", group="Model", choices=SIZES)
    weights: str = option(
        "none", "weights to start from, of a torchvision model: imagenet, none, or a file", group="Model", path=True
    )
    freeze: bool = option(False, "train only the last layer", group="Model")

    def check(self) -> None:
        super().check()
        if not self.is_open("model"):
            check_name(self.model)
            if self.weights == "imagenet" and not self.model.startswith(TORCHVISION):
                what = f"--weights imagenet: there are none for {self.model}."
                raise UserError(what, "Use --model torchvision/NAME.")
        if self.weights not in ("imagenet", "none") and not Path(self.weights).is_file():
            raise UserError(f"--weights {self.weights}: no such file.", "Use imagenet, none, or the path of a file.")
        if self.freeze and self.weights == "none":
            raise UserError("--freeze trains only the last layer; the others need --weights.")

    def build(self, classes: int, channels: int, image_size: int) -> nn.Module:
        """The network: images [B, channels, image_size, image_size] to logits [B, classes]."""
        return build(
            self.model,
            self.size,
            classes=classes,
            channels=channels,
            image_size=image_size,
            weights=self.weights,
            freeze=self.freeze,
        )


def check_name(name: str) -> None:
    """Raises UserError unless `name` is a family or `torchvision/NAME` for one of its classifiers."""
    if name.startswith(TORCHVISION):
        from vision.models.pretrained import torchvision_names

        choices = [TORCHVISION + known for known in torchvision_names()]
        if name not in choices:
            known = nearest(name.removeprefix(TORCHVISION), torchvision_names())  # without what all begin with
            hint = known.replace("mean ", f"mean {TORCHVISION}") if known.startswith("Did") else EXAMPLES
            raise UserError(f"torchvision has no classifier {name.removeprefix(TORCHVISION)!r}.", hint)
    elif name not in FAMILIES:
        raise UserError(f"Unknown model {name!r}.", f"{nearest(name, FAMILIES)} Or torchvision/NAME, such as resnet18.")


def required_channels(name: str | None) -> int | None:
    """The channels that a model insists on: 3 for torchvision's, None (1 or 3) for ours or one not chosen yet."""
    return 3 if name and name.startswith(TORCHVISION) else None


def minimum_size(name: str) -> int:
    """The smallest side of an image in pixels that a model takes."""
    check_name(name)
    if not name.startswith(TORCHVISION):
        return 28
    from vision.models.pretrained import torchvision_minimum_size

    return torchvision_minimum_size(name.removeprefix(TORCHVISION))


def build(
    name: str,
    size: str = "small",
    *,
    classes: int,
    channels: int,
    image_size: int,
    weights: str = "none",
    freeze: bool = False,
) -> nn.Module:
    """A classifier: images [B, channels, image_size, image_size] -> logits [B, classes].

    Args:
        name: one of FAMILIES, or `torchvision/NAME`.
        size: one of SIZES; torchvision's names carry their own size, so there it is not used.
        classes: outputs of the new head.
        channels: 1 or 3; 3 for torchvision's.
        image_size: at least `minimum_size(name)`.
        weights: "none", "imagenet" (torchvision's only; downloaded once) or the path of a .safetensors or .pt
            state_dict. A head for another number of classes is replaced.
        freeze: train nothing but the head; batch norm layers before it keep their statistics too.

    Raises:
        UserError: unknown name or size, image too small, weights missing, damaged or of another model.
    """
    check_name(name)
    if size not in SIZES:
        raise UserError(f"Unknown model size {size!r}.", nearest(size, SIZES))
    if image_size < minimum_size(name):
        raise UserError(f"{name} needs images of at least {minimum_size(name)} px, not {image_size}.")
    if channels not in ((1, 3) if required_channels(name) is None else (required_channels(name),)):
        raise UserError(f"{name} does not take images with {channels} channel(s).")
    if name.startswith(TORCHVISION):
        from vision.models.pretrained import build_torchvision

        model = build_torchvision(name.removeprefix(TORCHVISION), classes, image_size)
    else:
        model = FAMILIES[name](size, classes=classes, channels=channels, image_size=image_size)
    if weights != "none":
        from vision.models.pretrained import load_weights

        load_weights(model, name, weights, image_size)
    if freeze:
        from vision.models.pretrained import freeze_all_but_head

        freeze_all_but_head(model)
    return model


def weights_mean_std(
    weights: str, name: str = ""
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """The mean and standard deviation per channel (of pixels in 0..1) that pretrained weights expect.

    Args:
        weights: as for `build`; None is returned for anything but "imagenet".
        name: the model; torchvision's EfficientNet-V2-L differs from the others.
    """
    if weights != "imagenet":
        return None
    if name == "torchvision/efficientnet_v2_l":
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
