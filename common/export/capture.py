"""What goes into a network and what comes out, seen while its predictor or its evaluation runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.artifact import Artifact
from common.config import Config
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor
from common.machine import nests

KEPT = 2048  # samples of an evaluation whose outputs are compared,
ROOM = 2**28  # or fewer, where their inputs take more bytes than this
CALIBRATION = 256  # samples of the validation split by which int8 finds the ranges of activations


class Call(NamedTuple):
    """One call of a network: its inputs, those that were None left out, and its output, each a nest of tensors."""

    inputs: tuple[Any, ...]
    output: Any


@dataclass(frozen=True)
class Watched(Artifact):
    """An artifact whose network notes its calls, whoever loads it.

    Attributes:
        networks: that were loaded, each with what stops the noting.
        calls: of all of them, until KEPT samples or ROOM bytes are kept.
    """

    networks: list[tuple[nn.Module, RemovableHandle]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, saved: Artifact) -> Watched:
        return cls(**{f.name: getattr(saved, f.name) for f in fields(Artifact)})

    def load_into(self, model: nn.Module, part: nn.Module | None = None) -> nn.Module:
        loaded = super().load_into(model, part)
        self.networks.append((loaded, loaded.register_forward_hook(self._note)))
        return loaded

    def network(self) -> nn.Module:
        """The network that was loaded last; it is no longer watched, so that it can be traced."""
        network, watch = self.networks[-1]
        watch.remove()
        return network

    def _note(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        samples = sum(nests.size(call.output) for call in self.calls)
        room = sum(x.nbytes for call in self.calls for x in nests.tensors(call.inputs))
        if samples < KEPT and room < ROOM:
            given = tuple(x for x in inputs if x is not None)
            self.calls.append(Call(nests.change(given, Tensor.clone), nests.change(output, Tensor.clone)))

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """The calls that the block makes."""
        self.calls.clear()
        found: list[Call] = []
        yield found
        found.extend(self.calls)


class Sample(NamedTuple):
    """Inputs for a network, nests of two or more samples, and the dimensions of each tensor that may have any size.

    The first dimension always may; another where a longer input of the user made it longer, as texts do.
    """

    inputs: tuple[Any, ...]
    free: tuple[tuple[int, ...], ...]


def sample(watched: Watched, predictor: Predictor) -> Sample:
    """Inputs for the network of a predictor, from what the predictor's input makes up."""
    raw = predictor.input.sample()
    short = _inputs(watched, predictor, raw)
    longer = _inputs(watched, predictor, predictor.input.longer()) if predictor.input.longer() != raw else short
    free = tuple(
        tuple(d for d in range(x.dim()) if d == 0 or x.shape[d] != y.shape[d])
        for x, y in zip(nests.tensors(short), nests.tensors(longer), strict=True)
    )
    return Sample(longer, free)


def _inputs(watched: Watched, predictor: Predictor, raw: bytes) -> tuple[Any, ...]:
    with watched.noting() as calls:
        predictor.predict([predictor.input.decode(raw)] * 2)
    with torch.inference_mode(False):  # what was made in inference mode may not be traced
        # What writes token by token from a program without a cache calls it again with longer inputs.
        sizes = [[x.shape[1:] for x in nests.tensors(call.inputs)] for call in calls]
        first = [call.inputs for call, size in zip(calls, sizes, strict=True) if size == sizes[0]]
        return nests.change(nests.join(first), lambda x: x.clone().contiguous())


def validation(declared: Example, watched: Watched, predictor: Predictor, config: Config) -> list[tuple[Any, ...]]:
    """Inputs for the network from the validation split; a generator's from seeds.

    Raises:
        UserError: the example has neither.
    """
    if declared.prepare is not None:
        split = declared.prepare(config).valid
        items = [split[i] for i in range(min(CALIBRATION, len(split)))]
    else:
        items = [predictor.input.decode(raw) for raw in predictor.input.many(CALIBRATION)]
    if not items:
        what = f"--quantize int8 measures activations on validation data, and {declared.name} has none."
        raise UserError(what, "Use --quantize int8-weight.")
    with watched.noting() as calls:
        for start in range(0, len(items), 32):
            predictor.predict(items[start : start + 32])
    with torch.inference_mode(False):
        return [nests.change(call.inputs, Tensor.clone) for call in calls]
