"""What language models are measured by: how likely they find the tokens that come."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORED = -1  # target of a place that does not count


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [B, T, V], over the targets [B, T] that count."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def count_of(targets: Tensor) -> Tensor:
    """Over how many targets it is a mean."""
    return (targets != IGNORED).sum()


def sums(logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The loss of a batch as a sum, and its number of targets."""
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return {"loss": (total, count_of(targets))}


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each target that counts, [B, T]; 0 elsewhere."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -flat.view(targets.shape)
