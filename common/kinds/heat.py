"""Where a network looks in an image.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the last feature map that is a picture; a network without one,
such as a vision Transformer or an export, is explained by occlusion (Zeiler and Fergus 2014, arXiv 1311.2901).
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_MAP = 5  # sides of a feature map; a smaller one says too little about where
PATCHES = 7  # hidden in turn along each side of an image


class Looker:
    """Heat maps of one network; a copy of it with the same tensors carries the hooks."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._network: nn.Module | None = None
        self._layer: nn.Module | None = None

    def __call__(self, batch: Tensor, target: int) -> tuple[Tensor, str]:
        """What speaks for a class, [h, w] in 0..1 over the image, and the method's name.

        Args:
            batch: one normalised image, [1, C, H, W].
        """
        if self._network is None:
            self._network = copy_with_shared_weights(self._model)
            self._layer = last_picture(self._network, batch)
        if self._layer is None:
            return occlusion(self._network, batch, target), "occlusion"
        return grad_cam(self._network, self._layer, batch, target), "Grad-CAM"


def copy_with_shared_weights(model: nn.Module) -> nn.Module:
    """The same network with the same tensors, to put hooks on without those who predict noticing."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


@torch.no_grad()
def last_picture(model: nn.Module, batch: Tensor) -> nn.Module | None:
    """The module that gives the last feature map [B, C, H, W] worth looking at; None where tokens come after it.

    Args:
        batch: normalised images [B, C, H, W], to try the network with.
    """
    found: list[tuple[nn.Module, int]] = []
    last_tokens = -1

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal last_tokens
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append((module, min(output.shape[2:])))
            last_tokens = -1
        elif output.ndim == 3:  # [B, N, D]: from here on places are no longer rows and columns
            last_tokens = len(found)

    hooks = [module.register_forward_hook(watch) for module in model.modules() if module is not model]
    model(batch)
    for hook in hooks:
        hook.remove()
    if last_tokens >= 0 or not found:
        return None
    large = [module for module, side in found if side >= SMALLEST_MAP]
    return large[-1] if large else found[-1][0]


def grad_cam(model: nn.Module, layer: nn.Module, batch: Tensor, target: int) -> Tensor:
    """Where the evidence for a class lies: [h, w] in 0..1, over the feature map of `layer`, for one image.

    Args:
        layer: gives [1, C, h, w].
        batch: the normalised image [1, C, H, W].
    """
    held: list[Tensor] = []

    def hold(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        held[:] = [output.detach().requires_grad_()]
        return held[0].clone()  # what comes next may write in place

    hook = layer.register_forward_hook(hold)
    try:
        with torch.enable_grad():
            score = model(batch)[0, target]
            (slope,) = torch.autograd.grad(score, held)
    finally:
        hook.remove()
    weights = slope.float().mean((2, 3), keepdim=True)  # [1, C, 1, 1]
    return _scaled((weights * held[0].detach().float()).sum(1)[0])


@torch.inference_mode()
def occlusion(model: nn.Module, batch: Tensor, target: int) -> Tensor:
    """What the class's log-probability loses when a part is hidden: [PATCHES, PATCHES] in 0..1, for one image.

    Args:
        batch: the normalised image [1, C, H, W]; hidden is grey, the mean of the training images.
    """
    height, width = batch.shape[2:]
    rows = torch.linspace(0, height, PATCHES + 1).round().int().tolist()
    columns = torch.linspace(0, width, PATCHES + 1).round().int().tolist()
    hidden = batch.repeat(1 + PATCHES * PATCHES, 1, 1, 1)
    for i in range(PATCHES):
        for j in range(PATCHES):
            hidden[1 + i * PATCHES + j, :, rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = 0
    logits = torch.cat([model(part) for part in hidden.split(16)]).float()
    scores = logits.log_softmax(1)[:, target]
    return _scaled((scores[0] - scores[1:]).view(PATCHES, PATCHES))


def _scaled(heat: Tensor) -> Tensor:
    heat = heat.clamp(min=0)
    return heat / heat.max().clamp(min=1e-12)
