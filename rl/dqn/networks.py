"""Q-networks: dense or convolutional, with dueling streams, noisy layers and distributions of returns as options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor, nn


class NoisyLinear(nn.Module):
    """A linear layer whose weights carry learned noise while training: exploration that depends on the state.

    Factorised Gaussian noise of Fortunato et al. 2018 (arXiv 1706.10295, section 3.1 b). The noise stays the same
    until `resample`; in evaluation there is none.

    Args:
        sigma: initial noise, as a multiple of 1/sqrt(inputs).
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, inputs: int, outputs: int, sigma: float = 0.5) -> None:
        super().__init__()
        bound, noise = 1 / math.sqrt(inputs), sigma / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), noise))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), noise))
        # Not in the state: whoever trains draws new noise before each use.
        self.register_buffer("noise_in", torch.zeros(inputs), persistent=False)
        self.register_buffer("noise_out", torch.zeros(outputs), persistent=False)

    def resample(self) -> None:
        """Draws new noise."""
        for noise in (self.noise_in, self.noise_out):
            noise.normal_()
            noise.copy_(noise.sign() * noise.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] to [B, outputs]."""
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        weight = torch.addcmul(self.weight, self.weight_sigma, self.noise_out.outer(self.noise_in))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, self.noise_out))


class QNetwork(nn.Module):
    """Values of every action: [B, *shape] to [B, A, Z]; `values` makes [B, A] of it.

    Images uint8 [B, C, 84, 84] go through the three convolutions of Mnih et al. 2015, vectors through dense layers.
    The last hidden layer and the output make a stream; dueling (Wang et al. 2016, arXiv 1511.06581, equation 9) has
    one for the state's value and one for the advantages. With `atoms` > 1 the output is a distribution over `atoms`
    returns from `low` to `high` (C51: Bellemare et al. 2017, arXiv 1707.06887) and the value is its mean.

    Args:
        shape: of an observation, [F] or [C, 84, 84].
        actions: how many, A.
        hidden: widths of the hidden dense layers, at least one.
    """

    support: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        actions: int,
        hidden: Sequence[int],
        *,
        dueling: bool = False,
        noisy: bool = False,
        atoms: int = 1,
        low: float = 0.0,
        high: float = 0.0,
    ) -> None:
        super().__init__()
        self.actions, self.atoms = actions, atoms
        self.register_buffer("support", torch.linspace(low, high, atoms))  # z: [Z]
        self.pixels = len(shape) == 3
        trunk: list[nn.Module] = []
        if self.pixels:
            trunk += [
                nn.Conv2d(shape[0], 32, 8, 4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, 1),
                nn.ReLU(),
                nn.Flatten(),
            ]
            width, trunk_widths = 64 * 7 * 7, hidden[:-1]
        else:
            width, trunk_widths = shape[0], hidden[:-1]
        for outputs in trunk_widths:
            trunk += [nn.Linear(width, outputs), nn.ReLU()]
            width = outputs
        self.trunk = nn.Sequential(*trunk)
        layer = NoisyLinear if noisy else nn.Linear
        self.advantage = nn.Sequential(layer(width, hidden[-1]), nn.ReLU(), layer(hidden[-1], actions * atoms))
        self.value = nn.Sequential(layer(width, hidden[-1]), nn.ReLU(), layer(hidden[-1], atoms)) if dueling else None
        self._noisy = [module for module in self.modules() if isinstance(module, NoisyLinear)]

    def forward(self, observations: Tensor) -> Tensor:
        """Logits of the returns' distribution; for Z = 1 the values themselves."""
        x = observations.float() / 255 if self.pixels else observations
        features = self.trunk(x)
        out: Tensor = self.advantage(features).view(-1, self.actions, self.atoms)
        if self.value is not None:
            # Without the mean, a constant could move between the two streams and neither would mean anything.
            out = self.value(features).view(-1, 1, self.atoms) + out - out.mean(1, keepdim=True)
        return out

    def expected(self, logits: Tensor) -> Tensor:
        """[B, A, Z] to the expected returns, float32 [B, A]."""
        logits = logits.float()
        return logits.squeeze(2) if self.atoms == 1 else logits.softmax(2) @ self.support

    def values(self, observations: Tensor) -> Tensor:
        """[B, *shape] to the expected returns, float32 [B, A]."""
        return self.expected(self(observations))

    def policy(self) -> Callable[[ndarray], ndarray]:
        """Tells the best action of each observation, from arrays [N, *shape] to int64 [N], until the weights change.

        On a few observations PyTorch spends more time on the way to its kernels than in them: dense layers on the
        CPU are multiplied by NumPy here, which takes a third off a step in one environment.
        """
        device = self.support.device
        if device.type != "cpu" or self.pixels or self.value is not None or self.atoms > 1 or self._noisy:

            def best(seen: ndarray) -> ndarray:
                self.resample()
                return self.values(torch.from_numpy(seen).to(device)).argmax(1).cpu().numpy()

            return best

        dense = [layer for layer in (*self.trunk, *self.advantage) if isinstance(layer, nn.Linear)]
        *hidden, last = [(layer.weight.numpy(force=True).T, layer.bias.numpy(force=True)) for layer in dense]

        def best_by_numpy(seen: ndarray) -> ndarray:
            for weight, bias in hidden:
                seen = np.maximum(seen @ weight + bias, 0)
            weight, bias = last
            return (seen @ weight + bias).argmax(1)

        return best_by_numpy

    def resample(self) -> None:
        """Draws new noise in every noisy layer."""
        for module in self._noisy:
            module.resample()
