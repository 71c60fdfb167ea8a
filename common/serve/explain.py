"""Why a model answered so: where it looked in an image, and what the words of a text say for the class.

Images: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the last feature map that is a picture; a network without
one, such as a vision Transformer or an export, is explained by occlusion (Zeiler and Fergus 2014, arXiv 1311.2901).
Texts: what the example gives, else occlusion of words.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from common.example import Predictor, Span
from common.serve.formats import Problem

SMALLEST_MAP = 5  # sides of a feature map; a smaller one says too little about where
PATCHES = 7  # hidden in turn along each side of an image
MOST_PIECES = 128  # words of a text that are hidden in turn; of a longer one several at once
MOST_LETTERS = 20_000


class Explainer:
    """Explanations of one model. Its calls may run beside predictions, but not beside each other.

    Attributes:
        kind: "heat" for images, "tokens" for texts, "" where there are none.
    """

    def __init__(self, predictor: Predictor, classes: Sequence[str]) -> None:
        self._predictor, self._classes = predictor, list(classes)
        explainable = bool(predictor.scores and classes)
        kinds = {"image": "heat", "text": "tokens"}
        self.kind = kinds.get(predictor.input.kind, "") if explainable else ""
        if self.kind == "heat" and predictor.model is None and predictor.explain is None:
            self.kind = ""
        self._network: nn.Module | None = None
        self._layer: nn.Module | None = None

    def __call__(self, item: Any, wanted: str | None = None) -> dict[str, Any]:
        """`{"class", "method", "heat": rows of numbers in 0..1}`, or `"tokens": [[piece, score | None], ...]`.

        A heat map covers the square that the model sees; the pieces of a text together are the text. Scores are what
        the class's log-probability loses without the piece, in nats.

        Args:
            item: decoded input.
            wanted: the class that is explained; the model's answer by default.

        Raises:
            Problem: 404 where the model has no explanations or no such class, 413 for a long text.
        """
        if not self.kind:
            raise Problem(404, "There are no explanations of this model.")
        if wanted is not None and wanted not in self._classes:
            raise Problem(404, f"There is no class {wanted[:100]!r}.")
        network = self._predictor.model
        # The server may compute in bfloat16, with weights converted already.
        half = network is not None and any(p.dtype is torch.bfloat16 for p in network.parameters())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            name = wanted if wanted is not None else self._predictor.predict([item])[0][self._predictor.answer]
            target = self._classes.index(name)
            explain = self._text if self.kind == "tokens" else self._image
            return {"class": name, **explain(item, target)}

    def _text(self, text: str, target: int) -> dict[str, Any]:
        if len(text) > MOST_LETTERS:
            raise Problem(413, f"Texts of more than {MOST_LETTERS:,} letters are not explained.")
        spans = self._predictor.explain(text, target) if self._predictor.explain else self._hide_words(text, target)
        return {"method": "occlusion", "tokens": pieces(text, spans)}

    def _hide_words(self, text: str, target: int) -> list[Span]:
        words = [match.span() for match in re.finditer(r"\S+", text)]
        step = max(1, math.ceil(len(words) / MOST_PIECES))
        spans = [(group[0][0], group[-1][1]) for group in (words[i : i + step] for i in range(0, len(words), step))]
        variants = [text, *(text[:start] + text[end:] for start, end in spans)]
        rows = self._predictor.predict(variants)
        logs = [math.log(max(row[self._predictor.scores][self._classes[target]], 1e-6)) for row in rows]
        return [(start, end, logs[0] - log) for (start, end), log in zip(spans, logs[1:], strict=True)]

    def _image(self, image: Tensor, target: int) -> dict[str, Any]:
        if self._predictor.explain:
            heat, method = self._predictor.explain(image, target), "the example's own"
        else:
            batch = self._predictor.input.normalize(image[None])
            heat, method = self._look(batch, target)
        return {"method": method, "heat": [[round(v, 3) for v in row] for row in heat.tolist()]}

    def _look(self, batch: Tensor, target: int) -> tuple[Tensor, str]:
        assert self._predictor.model is not None
        if self._network is None:
            self._network = twin(self._predictor.model)
            self._layer = last_picture(self._network, batch)
        if self._layer is None:
            return occlusion(self._network, batch, target), "occlusion"
        return grad_cam(self._network, self._layer, batch, target), "Grad-CAM"


def twin(model: nn.Module) -> nn.Module:
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


def pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, float | None]]:
    """A text cut where spans begin and end; what lies between them has no score."""
    cut: list[tuple[str, float | None]] = []
    place = 0
    for start, end, score in spans:
        if start < place:
            continue
        if start > place:
            cut.append((text[place:start], None))
        cut.append((text[start:end], round(score, 4)))
        place = end
    if place < len(text):
        cut.append((text[place:], None))
    return cut
