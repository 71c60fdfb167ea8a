"""Images per second of `fit` against a bare loop over the same batches of the same model, in turn, in one process."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from common.data.image_data import Images
from common.data.images import ImageInput
from common.data.loaders import Loader
from common.run import Run
from common.training import fit, make_optimizer
from vision import models
from vision.train import TrainConfig

IMAGES, EPOCHS, BATCH, LR = 6400, 4, 128, 1e-3  # MNIST's default recipe, a ninth of its epoch


def ratios(rounds: int) -> list[float]:
    """The rate of `fit` over that of the bare loop, round by round; the first of a round alternates."""
    image = ImageInput(28, 1, (0.5,), (0.25,))
    data = Images(torch.randint(256, (IMAGES, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (IMAGES,)), image)
    result = []
    for number in range(rounds + 1):
        kinds = (_fit, _bare) if number % 2 else (_bare, _fit)
        seconds = {kind: kind(data, image) for kind in kinds}
        result.append(seconds[_bare] / seconds[_fit])
    return result[1:]  # the first round warms up


def _prepare(data: Images, image: ImageInput, folder: str) -> tuple[Run, nn.Module, Loader, torch.optim.Optimizer]:
    run = Run(Path(folder) / "run", "bench", TrainConfig().resolve(), quiet=True)
    model = run.place(models.build("vgg", classes=10, channels=1, image_size=28), torch.zeros(1, 1, 28, 28))
    assert run.plan is not None
    layout = run.plan.memory_format
    batches = Loader(data, BATCH, train=True, device=run.device, prepare=image.normalize, memory_format=layout)
    return run, model, batches, make_optimizer("adamw", model, LR, 0.01)


def _fit(data: Images, image: ImageInput) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run, model, batches, optimizer = _prepare(data, image, folder)
        fit(run, model, nn.CrossEntropyLoss(), batches, epochs=EPOCHS, optimizer=optimizer)
        return run.train_seconds


def _bare(data: Images, image: ImageInput) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run, model, batches, optimizer = _prepare(data, image, folder)
        loss_fn = nn.CrossEntropyLoss()
        model.train()
        began = time.perf_counter()
        for epoch in range(EPOCHS):
            for inputs, targets in batches.epoch(epoch):
                with run.autocast():
                    loss = loss_fn(model(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began
