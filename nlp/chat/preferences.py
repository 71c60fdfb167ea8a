"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): the better answer becomes likelier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.machine.device import of
from common.training.fit import predict_all
from nlp.chat.rows import Pairs, RowLoader
from nlp.losses import IGNORED, log_probabilities


class Answers(nn.Module):
    """How likely a network finds two answers to each question: nats [B, 2], and by token of an answer, [B, 2]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pairs: dict[str, Tensor]) -> Tensor:
        tokens, targets = pairs["tokens"], pairs["targets"]  # [B, 2, T]
        found = log_probabilities(self.network(tokens.flatten(0, 1)), targets.flatten(0, 1))  # [2B, T]
        whole = found.sum(1).view(tokens.shape[:2])
        return torch.stack([whole, whole / (targets != IGNORED).sum(2).clamp(min=1)], 2)  # [B, 2, 2]


class PreferenceLoss:
    """−log σ(β (r_chosen − r_rejected)), where r is how much likelier an answer is than the reference found it.

    Args:
        beta: how little the network may leave the reference.
        sft: weight of the chosen answer's own mean loss per token, which keeps it from becoming less likely too.
    """

    def __init__(self, beta: float, sft: float = 0.0) -> None:
        self.beta, self.sft = beta, sft

    def __call__(self, found: Tensor, reference: Tensor) -> Tensor:
        """Of log-probabilities [B, 2, 2], as Answers gives them, and the reference's [B, 2]; a scalar."""
        gains = found[:, :, 0] - reference
        loss = -F.logsigmoid(self.beta * (gains[:, 0] - gains[:, 1])).mean()
        return loss - self.sft * found[:, 0, 1].mean() if self.sft else loss

    def figures(self, found: Tensor, reference: Tensor) -> dict[str, float]:
        """Of a whole set: the loss; how often, and by how much, the chosen answer has gained more; what became of both.

        Args: as of a call, of all pairs.
        """
        gains = found[:, :, 0] - reference
        margins = self.beta * (gains[:, 0] - gains[:, 1])
        return {
            "preference_loss": float(self(found, reference)),
            "preference_accuracy": float((margins > 0).float().mean()),
            "preference_margin": float(margins.mean()),
            "chosen_log_probability": float(found[:, 0, 0].mean()),
            "chosen_log_probability_before": float(reference[:, 0].mean()),
            "rejected_log_probability": float(found[:, 1, 0].mean()),
            "rejected_log_probability_before": float(reference[:, 1].mean()),
        }

    def validate(self, found: Tensor, reference: Tensor) -> dict[str, float]:
        """The figures of a validation."""
        figures = self.figures(found, reference)
        names = {
            "val_loss": "preference_loss",
            "val_accuracy": "preference_accuracy",
            "val_margin": "preference_margin",
        }
        return {name: figures[found] for name, found in names.items()}


def likelihoods(network: Any, pairs: Pairs, batch_size: int) -> Tensor:
    """What Answers says of all pairs, [N, 2, 2], in fp32 on the CPU."""
    loader = RowLoader(pairs, batch_size, train=False, device=of(network))
    found: Tensor = predict_all(Answers(network), loader)
    return found
