"""Backbones of torchvision: its classifiers, cut where they have the strides of the pyramid."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from common.errors import UserError
from vision.detect.model import STRIDES
from vision.models import TORCHVISION, check_name

CLASSES, SIDE = 1000, 224  # of the classifier that the weights belong to
PROBE = 64  # pixels of the image by which strides are found


class Cut(nn.Module):
    """The layers of a classifier up to its last features.

    Attributes:
        channels: of each of STRIDES.
    """

    def __init__(self, layers: list[nn.Module], name: str) -> None:
        super().__init__()
        x, ends = torch.zeros(2, 3, PROBE, PROBE), {}
        with torch.no_grad():
            for number, layer in enumerate(layers, start=1):
                x = layer.eval()(x)
                if x.dim() == 4 and PROBE % x.shape[-1] == 0:
                    ends[PROBE // x.shape[-1]] = (number, x.shape[1])
        if not all(stride in ends for stride in STRIDES):
            what = f"{TORCHVISION}{name} has no features at strides {', '.join(map(str, STRIDES))}."
            raise UserError(what, "Such as torchvision/resnet18, torchvision/mobilenet_v3_large or efficientnet_b0.")
        places = [0, *(ends[stride][0] for stride in STRIDES)]
        self.channels = [ends[stride][1] for stride in STRIDES]
        self.levels = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in pairwise(places))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


def build(name: str, weights: str) -> Cut:
    """The backbone of one of torchvision's classifiers, `torchvision/NAME`.

    Args:
        weights: "none", "imagenet" (downloaded once), or the file of a state_dict of that classifier.

    Raises:
        UserError: torchvision has no such classifier, it has no such features, or the weights do not fit it.
    """
    from vision.models.pretrained import build_torchvision, load_weights

    check_name(name)
    short = name.removeprefix(TORCHVISION)
    model = build_torchvision(short, CLASSES, SIDE)
    if weights != "none":
        load_weights(model, name, weights, SIDE)
    children = dict(model.named_children())
    inside = children.get("features")
    # Of a ResNet and its kin everything before the pooling, in order.
    chain = [child for key, child in children.items() if key not in ("avgpool", "fc", "classifier", "heads", "head")]
    try:
        return Cut(list(inside) if isinstance(inside, nn.Sequential) else chain, short)
    except UserError:
        raise
    except Exception:  # what is no chain of layers fails in ways of its own
        raise UserError(f"{name} can't be cut into a backbone.", "Such as torchvision/resnet18.") from None
