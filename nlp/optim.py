"""Muon for the matrices within a network, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.machine.device import cpu_has_bf16
from common.training.fit import make_optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that drives singular values towards 1
STEPS = 5
HEAD_SHARE = 1 / 3  # of the embeddings' learning rate
BETAS = (0.9, 0.95)  # of AdamW, as usual for language models


def optimizers(
    name: str, model: nn.Module, device: torch.device, *, lr: float, embedding_lr: float, weight_decay: float
) -> list[Optimizer]:
    """The optimisers of a model that reads and writes tokens.

    Args:
        name: "muon", or "adamw" for all weights at `lr`.
        lr: of the matrices that Muon takes.
        embedding_lr: of the embeddings and of biases; of a layer called `head` it is HEAD_SHARE of that.
        weight_decay: of what `lr` is for.
    """
    if name == "adamw":
        return [make_optimizer(name, model, lr, weight_decay)]
    parts: dict[str, list[nn.Parameter]] = {"embeddings": [], "head": [], "matrices": []}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for part, weight in model.named_parameters():
        matrix = weight.dim() == 2 and id(weight) not in embeddings
        parts["head" if part.startswith("head") else "matrices" if matrix else "embeddings"].append(weight)
    rates = {"embeddings": embedding_lr, "head": embedding_lr * HEAD_SHARE}
    groups = [{"params": parts[part], "lr": rate} for part, rate in rates.items() if parts[part]]
    adam = torch.optim.AdamW(groups, lr=embedding_lr, betas=BETAS, weight_decay=0.0, fused=True)
    fast = device.type == "cuda" or (device.type == "cpu" and cpu_has_bf16())
    form = torch.bfloat16 if fast else torch.float32  # without such arithmetic bf16 is five times slower
    return [Muon(parts["matrices"], lr, weight_decay, form=form), adam]


class Muon(Optimizer):
    """Steps whose singular values are all about 1, from momentum (Jordan 2024, kellerjordan.github.io/posts/muon).

    The steps of torch.optim.Muon with its defaults. That takes matrices one by one and its rate as a number; here those
    of one shape go together, and the rate may be a tensor, so that a CUDA graph holds the whole step.

    Args:
        matrices: parameters of two dimensions.
        form: in which the iteration is done.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        form: torch.dtype = torch.float32,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "capturable": False}
        super().__init__(matrices, defaults)
        self._form = form

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                directions = orthogonal(self._momentum(matrices, group["momentum"]).to(self._form)).float()
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                if group["weight_decay"]:
                    torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(matrices, (directions * rate).unbind())

    def _momentum(self, matrices: list[Tensor], momentum: float) -> Tensor:
        """Nesterov's, [N, R, C], with the averages of gradients kept in the state."""
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        return torch.stack(torch._foreach_lerp(gradients, averages, momentum))


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices with orthonormal rows, or columns: [N, R, C], by Newton and Schulz's iteration."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
