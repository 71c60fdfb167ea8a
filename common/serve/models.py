"""A trained model that answers requests: its name, its batches, and whether it is well."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import artifact, example
from common.artifact import Artifact
from common.errors import UserError
from common.kinds.answer import Predictor
from common.machine import device, packed
from common.serve import formats
from common.serve.batching import Batcher, Part, Row
from common.serve.desk import Desk
from common.serve.fold import fold_batch_norms

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LARGEST_BATCH = 16
SMALL = 2**17  # bytes of a body that is decoded in the turn of the model
LIGHT = 2**20  # pixels of an image that is decoded there; few bytes may hold many
SLOW = 0.005  # seconds of the model for one input above which a second batch is worked on at the same time
FRESH = 10.0  # seconds for which a success says that the model is well
PATIENCE = 1.5  # seconds for a prediction made for /ping; SageMaker gives a ping two


class ServedModel:
    """One model on the server.

    Raises:
        UserError: it does not answer a made-up input.
    """

    def __init__(
        self,
        name: str,
        saved: Artifact,
        predictor: Predictor,
        decoders: ThreadPoolExecutor,
        *,
        threads: int = 1,
        precision: str = "auto",
    ) -> None:
        self.name = name
        self.saved = saved
        self.predictor = predictor
        self.observe: Callable[[int, float], None] = lambda size, seconds: None
        self._decoders = decoders
        self._sample = predictor.input.sample()
        if predictor.model is not None:
            fold_batch_norms(predictor.model)
        predict, self.plan = in_precision(predictor, self._sample, precision)
        seconds = warm_up(predict, predictor.input.decode(self._sample), name)
        self.batcher = Batcher(
            predict,
            decoders,
            threads=threads,
            runners=threads if seconds > SLOW else 1,
            largest=LARGEST_BATCH,
            observe=lambda size, seconds: self.observe(size, seconds),
        )
        self.batcher.last_success = time.monotonic()
        self.desk = Desk(predictor.writer()) if predictor.writer is not None else None

    def close(self) -> None:
        """Ends its threads."""
        self.batcher.close()
        if self.desk is not None:
            self.desk.close()

    async def answer(self, body: bytes, content_type: str, media: str, most: int = formats.MOST_INPUTS) -> str:
        """The body of the answer to the body of a request.

        Args:
            media: of the answer, from `formats.accepted`.
            most: inputs that are taken.

        Raises:
            Problem: the body is not what the model takes.
        """
        form, kind = "list", self.predictor.input

        def split() -> list[Part]:
            nonlocal form
            inputs = formats.parse(body, content_type, kind, most)
            form = inputs.form
            parts = formats.split(inputs, kind, LARGEST_BATCH)
            return [Part(partial(formats.decode, inputs, kind, which), pixels <= LIGHT) for which, pixels in parts]

        rows = await self.batcher.answer(split, small=len(body) <= SMALL)
        if len(rows) <= LARGEST_BATCH:
            return self._render(rows, form, media)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._render, rows, form, media)

    def _render(self, rows: Sequence[Row], form: str, media: str) -> str:
        return formats.render(rows, form, media, self.predictor.answer)

    async def well(self) -> bool:
        """Whether a prediction worked within the last FRESH seconds, or one made now works within PATIENCE."""
        if time.monotonic() - self.batcher.last_success < FRESH:
            return True
        try:
            sample = Part(lambda: [self.predictor.input.decode(self._sample)])
            await asyncio.wait_for(self.batcher.answer(lambda: [sample]), PATIENCE)
        except Exception:  # whatever it is, the model does not answer
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """What a client must know to ask, and to read the answers."""
        return {
            "name": self.name,
            "example": self.saved.example,
            "input": self.saved.inputs,
            "answer": self.predictor.answer.key,
            "scores": self.predictor.answer.scores,
            "classes": self.saved.classes,
            "metrics": self.saved.metrics,
            "precision": self.plan,
        }


def load_models(
    runs: Sequence[str], decoders: ThreadPoolExecutor, *, threads: int = 1, precision: str = "auto"
) -> dict[str, ServedModel]:
    """The models of runs, by name; each has answered a made-up input.

    Args:
        runs: folders of runs or of their models, each as `RUN` or `NAME=RUN`. Without a name it is the example's,
            numbered from the second of the same.

    Raises:
        UserError: there is no model in a folder, or a name is taken or not fit for a URL.
    """
    models: dict[str, ServedModel] = {}
    for run in runs:
        name, path = _named(run)
        saved = artifact.load(path)
        name = name or free_name(saved.example, models)
        if name in models:
            raise UserError(f"Two models are named {name!r}.")
        predictor = example.predictor_of(saved)
        models[name] = ServedModel(name, saved, predictor, decoders, threads=threads, precision=precision)
    return models


def _named(run: str) -> tuple[str, Path]:
    name, sign, path = run.partition("=")
    if not sign or Path(run).exists():
        return "", Path(run)
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} can't name a model.", "Use letters, digits, dots, dashes and underscores.")
    return name, Path(path)


def free_name(name: str, taken: Collection[str]) -> str:
    """A name, numbered from the second of the same."""
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(n for n in (name, *numbered) if n not in taken)


def in_precision(predictor: Predictor, raw: bytes, precision: str) -> tuple[Callable[..., list[Row]], str]:
    """The predictor's `predict` in the number format and memory layout that suit the model, and the format's name.

    By the rule of training (`device.plan`), for models that give their network and whose kind of input knows what that
    takes; fp32 for all others.

    Args:
        raw: one valid input, by which the work is judged.
        precision: "auto", "fp32" or "bf16", or one of `packed.FORMS`.

    Raises:
        UserError: the model can't be had in that.
    """
    if precision in packed.FORMS:
        packed.pack(predictor.model, precision)
        return predictor.predict, precision
    model, kind = predictor.model, predictor.input
    batch = kind.network_input([kind.decode(raw)])
    if model is None or batch is None:
        return predictor.predict, "fp32"
    place = torch.device("cpu")
    model.requires_grad_(False)
    plan = device.plan(model, batch, place, precision)
    model.to(memory_format=plan.memory_format)
    if plan.precision == "fp32":
        return predictor.predict, "fp32"
    for module in model.modules():
        # What autocast would do at every call. Other layers keep fp32, as they do under autocast.
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(torch.bfloat16)

    def predict(items: Sequence[Any]) -> list[Row]:
        with plan.autocast(place):
            return predictor.predict(items)

    return predict, plan.precision


def warm_up(predict: Callable[..., list[Row]], item: Any, name: str) -> float:
    """Runs a model on a made-up input, alone and in a batch, as the first requests will; returns seconds for one.

    Raises:
        UserError: it fails.
    """
    try:
        for size in (1, LARGEST_BATCH, 1):
            began = time.perf_counter()
            predict([item] * size)
        return time.perf_counter() - began
    except Exception as error:
        raise UserError(f"The model {name} does not answer a made-up input: {error}.") from error
