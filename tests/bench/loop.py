"""Images per second of `fit`, or of a bare loop over the same batches: `python -m tests.bench.loop fit|bare`."""

from __future__ import annotations

import sys
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

IMAGES, EPOCHS, BATCH, LR = 6400, 6, 128, 1e-3  # MNIST's default recipe, a ninth of its epoch


def main(kind: str) -> None:
    """Trains the default network on random images for some epochs, without validation, after one to warm up."""
    image = ImageInput(28, 1, (0.5,), (0.25,))
    data = Images(torch.randint(256, (IMAGES, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (IMAGES,)), image)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "bench", TrainConfig().resolve(), quiet=True)
        model = run.place(models.build("vgg", classes=10, channels=1, image_size=28), torch.zeros(1, 1, 28, 28))
        assert run.plan is not None
        batches = Loader(data, BATCH, train=True, device=run.device, prepare=image.normalize,
                         memory_format=run.plan.memory_format)  # fmt: skip
        optimizer = make_optimizer("adamw", model, LR, 0.01)
        loss_fn = nn.CrossEntropyLoss()

        def bare(epochs: int) -> None:
            model.train()
            for epoch in range(epochs):
                for inputs, targets in batches.epoch(epoch):
                    with run.autocast():
                        loss = loss_fn(model(inputs), targets)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

        bare(1)
        began = time.perf_counter()
        if kind == "bare":
            bare(EPOCHS)
        else:
            fit(run, model, loss_fn, batches, epochs=EPOCHS, optimizer=optimizer)
        seconds = time.perf_counter() - began if kind == "bare" else run.train_seconds
    sys.stdout.write(f"{EPOCHS * len(batches) * BATCH / seconds}\n")


if __name__ == "__main__":
    main(sys.argv[1])
