"""How good generated images are, measured in the features of a small classifier trained on the same data set.

The features of Inception-v3, which the published FID uses, were learnt from photographs and need a download. A
classifier of the very data knows what matters in it, and trains in seconds. Its numbers can be compared with each
other on one data set, and not with any published FID.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.images.sources import ImageData, Images
from common.errors import UserError
from common.machine.device import isolated_rng

FEATURES = 64
FILE = "quality.safetensors"  # the classifier's weights, in a run's folder and in its artifact
SEED = 20_171_206  # of the classifier: the same for every run, so that runs are measured alike
CONFIDENT = 0.5  # a sample counts for a class from this probability on
NEIGHBOURS = 3  # of improved precision and recall
BATCH = 250  # images at once on a CPU, whose caches hold no more
LARGE_BATCH = 2500  # elsewhere, where launching costs more than computing


# --- the classifier ----------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Images [B, C, 32, 32], uint8 or in [0, 255], to features [B, 64]; `head` makes logits [B, K] of them."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        layers: list[nn.Module] = []
        for number, (narrow, wide) in enumerate(pairwise(widths)):
            kernel = 5 if number == 0 else 3
            convolution = nn.Conv2d(narrow, wide, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers, nn.Flatten())  # [B, 64, 4, 4] to [B, 1024]
        self.features = nn.Linear(widths[-1] * 16, FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.features(self.body(x))  # [B, 64], before the rectifier
        return features

    def logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(features))
        return logits


def train_classifier(data: ImageData, device: torch.device) -> Classifier:
    """A classifier of the training split: two passes, or more until it has seen 20,000 images.

    The same data give the same classifier, whatever the run's seed.
    """
    steps, batch = _length(len(data.train))
    with isolated_rng(SEED, device):
        model = Classifier(data.channels, len(data.classes)).to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
        order = torch.cat([torch.randperm(len(data.train)) for _ in range(1 + steps * batch // len(data.train))])
        pixels, targets = data.train.in_memory(), data.train.targets.to(device)
        images = data.train if pixels is None else pixels.to(device)  # once, not for each batch
        for indices in order[: steps * batch].to(targets.device).split(batch):
            features = model(take(images, indices).to(device))
            loss = F.cross_entropy(model.logits(features), targets[indices])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rates.step()
    return model.eval()


def _length(images: int) -> tuple[int, int]:
    """Steps and batch size of the classifier's training."""
    batch = min(128 if images > 10_000 else 64, images)
    return max(2 * images, min(16 * images, 20_000)) // batch, batch


def to_bytes(classifier: Classifier) -> bytes:
    """The classifier's weights, in the safetensors format."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()})


def from_bytes(content: bytes, data: ImageData, device: torch.device) -> Classifier:
    """The reverse of `to_bytes`.

    Raises:
        UserError: these are not the weights of a classifier for this data.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    model = Classifier(data.channels, len(data.classes))
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{FILE} is damaged, or belongs to other data.", "Train the model again.") from error
    return model.to(device).to(memory_format=torch.channels_last).eval()


# --- features ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What a classifier makes of images.

    Attributes:
        features: float64 [N, 64], on the classifier's device where that has float64.
        classes: most probable class, int64 [N], on the CPU.
        confidence: its probability, [N], on the CPU.
    """

    features: Tensor
    classes: Tensor
    confidence: Tensor

    def __len__(self) -> int:
        return len(self.classes)


@torch.inference_mode()
def look(classifier: Classifier, images: Images | Tensor) -> Seen:
    """What the classifier makes of images, a split or uint8 [N, C, S, S], in their order."""
    device = classifier.head.weight.device
    batches = torch.arange(len(images)).split(batch_size(device))
    features = torch.cat([classifier(take(images, indices).to(device)) for indices in batches])  # [N, 64]
    confidence, classes = classifier.logits(features).softmax(1).max(1)
    return Seen(exact(features), classes.cpu(), confidence.cpu())


def batch_size(device: torch.device) -> int:
    """How many images a network takes at once where only its answers are wanted."""
    return BATCH if device.type == "cpu" else LARGE_BATCH


def exact(features: Tensor) -> Tensor:
    """The same as float64, where they are; on the CPU where the device has none."""
    return features.cpu().double() if features.device.type == "mps" else features.double()


def evenly(split: Images, count: int) -> Images:
    """At most `count` images of a split, evenly spaced."""
    return split if len(split) <= count else split.subset(torch.linspace(0, len(split) - 1, count).long())


def take(images: Images | Tensor, indices: Tensor) -> Tensor:
    """The images at `indices`, uint8 [M, C, S, S]."""
    if isinstance(images, Tensor):
        return images[indices]
    pixels = images.in_memory()
    return pixels[indices] if pixels is not None else torch.stack([images[i] for i in indices.tolist()])


# --- distances ---------------------------------------------------------------------------------------------


def frechet_distance(left: Tensor, right: Tensor) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of features, [N, F] and [M, F].

    ‖μ − μ'‖² + tr(Σ + Σ' − 2 (Σ Σ')^½): Dowson and Landau 1982, as in the FID of Heusel et al. 2017 (arXiv
    1706.08500). The trace of the root is the sum of the singular values of Σ^½ Σ'^½, which needs no root of a matrix
    that is not symmetric and stays exact where the covariances are singular.

    Raises:
        ValueError: a set has fewer than two samples, or another number of features.
    """
    if min(len(left), len(right)) < 2 or left.shape[1:] != right.shape[1:]:
        raise ValueError(f"two sets of at least two samples are needed, not {list(left.shape)} and {list(right.shape)}")
    left, right = exact(left), exact(right)
    shift = (left.mean(0) - right.mean(0)).square().sum().cpu()
    # The matrices are small: what follows is faster on the CPU, and the same wherever the features are.
    covariances = [torch.cov(x.T).reshape(x.shape[1], x.shape[1]).cpu() for x in (left, right)]
    roots = [_root(c) for c in covariances]
    spread = covariances[0].trace() + covariances[1].trace() - 2 * torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    return max(0.0, float(shift + spread))  # rounding may leave −1e-12


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), both in [0, 1].

    Precision is the share of fakes that lie within the distance of a real sample to its k-th nearest other real one;
    recall is the same with the sets exchanged.

    Args:
        real, fake: features [N, F] and [M, F]; the measure means what it should for N = M.
        neighbours: k.

    Raises:
        ValueError: a set has not more than k samples.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(f"more than {neighbours} samples are needed in each set, not {len(real)} and {len(fake)}")
    return _covered(real, fake, neighbours), _covered(fake, real, neighbours)


def _covered(centres: Tensor, points: Tensor, neighbours: int) -> float:
    """The share of points in the union of the balls around the centres, each as far as its k-th neighbour."""
    middle, rows = centres.mean(0), 500 if centres.device.type == "cpu" else 4000
    centres, points = exact(centres - middle), exact(points - middle)
    # The first neighbour of each centre is itself.
    radii = [_squared(c, centres).topk(neighbours + 1, largest=False).values[:, -1] for c in centres.split(rows)]
    # Samples that are equal must count as such in spite of rounding, also where a ball has shrunk to a point.
    reach = torch.cat(radii) + 1e-12 * centres.square().sum(1)
    inside = [(_squared(p, centres) <= reach).any(1) for p in points.split(rows)]
    return torch.cat(inside).double().mean().item()


def _squared(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances [N, M]; by a matrix product, four times as fast as torch.cdist's exact way."""
    lengths = left.square().sum(1, keepdim=True) + right.square().sum(1)
    return torch.addmm(lengths, left, right.T, alpha=-2)


def modes_covered(classes: Tensor, confidence: Tensor, count: int) -> int:
    """How many of `count` classes the samples reach: at least a fifth of an even share, by confident predictions."""
    hits = torch.bincount(classes[confidence >= CONFIDENT], minlength=count)
    return int((hits >= max(1.0, len(classes) / (5 * count))).sum())


def class_shift(left: Tensor, right: Tensor, count: int) -> float:
    """Total variation, in [0, 1], between how often each class occurs in two sets of int64 [N] and [M]."""
    shares = [torch.bincount(x, minlength=count).double() / len(x) for x in (left, right)]
    return float((shares[0] - shares[1]).abs().sum() / 2)


# --- Inception ---------------------------------------------------------------------------------------------


def inception(weights: str, device: torch.device) -> nn.Module:
    """torchvision's Inception-v3 up to its 2048 pooled features, for images in [−1, 1], [B, 3, 299, 299].

    Args:
        weights: "imagenet" (downloaded once, 104 MB) or a file with torchvision's state dict.

    Raises:
        UserError: the weights can't be had.
    """
    from torchvision import models

    model = models.inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
    source = models.Inception_V3_Weights.IMAGENET1K_V1
    try:
        if weights == "imagenet":
            state: Any = source.get_state_dict(progress=False, check_hash=True)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except OSError as error:  # no network is one too
        where = source.url if weights == "imagenet" else weights
        hint = f"Download {source.url} elsewhere, and name the file: --inception FILE."
        raise UserError(f"--inception {weights}: can't read {where}.", hint) from error
    except Exception as error:  # torch.load raises nearly anything on a file that is none of its own
        raise UserError(f"--inception {weights}: these are not torchvision's weights of Inception-v3.") from error
    model.fc = nn.Identity()
    return model.to(device).eval()


@torch.inference_mode()
def inception_features(model: nn.Module, images: Images | Tensor, device: torch.device) -> Tensor:
    """Features float64 [N, 2048] of a split or of uint8 [N, C, S, S]."""
    parts = []
    for indices in torch.arange(len(images)).split(BATCH // 5):
        pixels = take(images, indices).to(device).float() / 127.5 - 1
        pixels = pixels.expand(-1, 3, -1, -1)  # grey as three equal channels
        pixels = F.interpolate(pixels, (299, 299), mode="bilinear", antialias=True, align_corners=False)
        parts.append(exact(model(pixels)))
    return torch.cat(parts)


def stored(folder: Path) -> bytes | None:
    """The classifier that a run keeps beside its checkpoints, or None."""
    file = folder / FILE
    return file.read_bytes() if file.exists() else None
