"""One of PyTorch-GAN's scripts for a given time, as it is: `python peer_gan.py SCRIPT SECONDS SEED OUT.npz`.

Run by `python -m tests.bench gan`, from a folder that has ../../data/mnist. Its networks, optimisers and loop are the
script's own; only the end is ours: after SECONDS of training the generator draws 10,000 images, once with batch
statistics and once with running ones, for the better of the two to be taken.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SAMPLES, BATCH = 10_000, 500


class TimeIsUp(Exception):
    pass


script, seconds, seed, out = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
sys.argv = [script, "--n_epochs", "100000", "--img_size", "32"]
torch.manual_seed(seed)
began: list[float] = []
steps: dict[int, int] = {}
step = torch.optim.Adam.step


def counted(self: torch.optim.Adam, *arguments: Any) -> Any:
    if not began:
        began.append(time.monotonic())
    steps[id(self)] = steps.get(id(self), 0) + 1
    if time.monotonic() - began[0] > seconds:
        raise TimeIsUp
    return step(self, *arguments)


torch.optim.Adam.step = counted  # type: ignore[assignment, method-assign]
space: dict[str, Any] = {"__name__": "__main__"}
try:
    exec(compile(Path(script).read_text(), script, "exec"), space)
except TimeIsUp:
    elapsed = time.monotonic() - began[0]

generator = space["generator"]
arrays: dict[str, Any] = {}
with torch.no_grad():
    for mode in (True, False):
        torch.manual_seed(1)
        generator.train(mode)
        drawn = [generator(torch.randn(BATCH, space["opt"].latent_dim)) for _ in range(SAMPLES // BATCH)]
        pixels = torch.cat(drawn).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        arrays["batch" if mode else "running"] = pixels.numpy()
seen = max(steps.values()) * space["opt"].batch_size
np.savez_compressed(out, seconds=elapsed, images_per_second=seen / elapsed, **arrays)
