"""Images per second of `fit` against bare loops over the same batches of the same model, in turn, in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.data.images.splits import Images
from common.data.loaders import Batch, Loader
from common.kinds.image import ImageInput
from common.training.fit import FitConfig, fit, make_optimizer
from common.training.run import Run
from vision import models
from vision.train import TrainConfig

LR = 1e-3


@dataclass(frozen=True)
class Case:
    """What is trained: a model on made-up images, `batches` of them in an epoch."""

    model: str
    size: str
    side: int
    channels: int
    classes: int
    batch: int
    batches: int
    epochs: int  # the first warms up and the last is not timed: a result is written at its end

    def __str__(self) -> str:
        return f"{self.model.removeprefix('torchvision/')} {self.side} px, batch {self.batch}"


SMALL = Case("vgg", "small", 28, 1, 10, 128, 50, 4)  # MNIST's default recipe, a ninth of its epoch
RESNET50 = Case("torchvision/resnet50", "base", 224, 3, 1000, 256, 8, 4)
TINY = Case("vgg", "tiny", 28, 1, 10, 32, 5, 3)


class Clocked(Loader):
    """Notes when each epoch began, all earlier work done."""

    began: list[float]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.began.append(time.perf_counter())
        return super().epoch(epoch, start)


class Prepared(NamedTuple):
    """All that a loop needs."""

    run: Run
    model: nn.Module
    batches: Clocked
    optimizer: torch.optim.Optimizer

    def rate(self) -> float:
        """Images per second of all epochs but the first and the last."""
        began = self.batches.began
        return (len(began) - 2) * len(self.batches) * self.batches.batch_size / (began[-1] - began[1])


def ratios(rounds: int) -> list[float]:
    """The rate of `fit` over that of the bare loop, round by round; the first of a round alternates."""
    device, result = torch.device("cpu"), []
    for number in range(rounds + 1):
        kinds = (fitted, bare) if number % 2 else (bare, fitted)
        rates = {kind: kind(SMALL, device) for kind in kinds}
        result.append(rates[fitted] / rates[bare])
    return result[1:]  # the first round warms up


@cache
def _data(case: Case) -> Images:
    image = ImageInput(case.side, case.channels, (0.5,) * case.channels, (0.25,) * case.channels)
    count = case.batch * case.batches
    pixels = torch.randint(256, (count, case.channels, case.side, case.side), dtype=torch.uint8)
    return Images(pixels, torch.randint(case.classes, (count,)), image)


@contextmanager
def _prepared(case: Case, device: torch.device) -> Iterator[Prepared]:
    data = _data(case)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", "bench", TrainConfig(device=str(device)).resolve(), quiet=True)
        made = models.build(case.model, case.size, classes=case.classes, channels=case.channels, image_size=case.side)
        model = run.place(made, torch.zeros(1, case.channels, case.side, case.side))
        assert run.plan is not None
        batches = Clocked(
            data,
            case.batch,
            train=True,
            device=run.device,
            prepare=data.image.normalize,
            memory_format=run.plan.memory_format,
        )
        batches.began = []
        yield Prepared(run, model.train(), batches, make_optimizer("adamw", model, LR, 0.01))


def fitted(case: Case, device: torch.device) -> float:
    """Images per second of `fit`."""
    with _prepared(case, device) as given:
        run, model, batches, optimizer = given
        fit(run, model, nn.CrossEntropyLoss(), batches, FitConfig(epochs=case.epochs), optimizer=optimizer)
        return given.rate()


def bare(case: Case, device: torch.device) -> float:
    """Images per second of the loop that everybody writes."""
    with _prepared(case, device) as given:
        return _loop(given, case, _step_of(given))


def captured(case: Case, device: torch.device) -> float:
    """The same loop, its step recorded as a CUDA graph, as PyTorch's documentation shows."""
    with _prepared(case, device) as given:
        for group in given.optimizer.param_groups:
            group["capturable"] = True
        step = _step_of(given)
        x, y = (part.clone() for part in next(iter(given.batches.epoch(0))))
        given.batches.began.clear()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                step(x, y)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step(x, y)

        def replay(inputs: Tensor, targets: Tensor) -> None:
            x.copy_(inputs)
            y.copy_(targets)
            graph.replay()

        return _loop(given, case, replay)


def _step_of(given: Prepared) -> Callable[[Tensor, Tensor], None]:
    run, model, _, optimizer = given
    loss_fn = nn.CrossEntropyLoss()

    def step(inputs: Tensor, targets: Tensor) -> None:
        with run.autocast():
            loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _loop(given: Prepared, case: Case, step: Callable[[Tensor, Tensor], None]) -> float:
    for epoch in range(case.epochs):
        for inputs, targets in given.batches.epoch(epoch):
            step(inputs, targets)
    return given.rate()
