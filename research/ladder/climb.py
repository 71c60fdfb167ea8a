"""What each rung of `research.ladder` reaches, and what each fold of its cross-validation gives."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.training.run import Run


@dataclass
class Climb:
    """What a rung reached: weights [F], bias [], and after each step the loss it began with and the seconds so far."""

    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor = field(default_factory=lambda: torch.empty(()))
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def note(self, loss: Tensor) -> None:
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - self.began)

    @classmethod
    def of(cls, run: Run) -> Climb:
        """A climb that the run timed; its losses are in the run's own log."""
        return cls(seconds=[run.train_seconds / run.step * (i + 1) for i in range(run.step)])

    def end(self, weights: Tensor, bias: Tensor) -> Climb:
        self.weights, self.bias = weights.detach().cpu().clone(), bias.detach().cpu().clone()
        return self


@dataclass(frozen=True)
class Fold:
    """Accuracies of one fold of the cross-validation, ours and scikit-learn's."""

    ours: float
    reference: float
