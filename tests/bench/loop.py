"""Images per second of `fit`, or of a bare loop over the same batches: `python -m tests.bench.loop fit|bare`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from common.data.image_sources import load_images
from common.data.loaders import Loader
from common.run import Run
from common.training import fit, make_optimizer
from vision import models
from vision.train import TrainConfig

EPOCHS, BATCH, LR = 12, 64, 1e-3


def main(kind: str) -> None:
    """Trains the default network on the digits for some epochs, without validation, after one epoch to warm up."""
    data = load_images("digits")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "bench", TrainConfig().resolve(), quiet=True)
        model = run.place(models.build("vgg", classes=10, channels=1, image_size=28), torch.zeros(1, 1, 28, 28))
        assert run.plan is not None
        images = data.image
        batches = Loader(data.train, BATCH, train=True, device=run.device, prepare=images.normalize,
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
