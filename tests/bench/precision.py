"""When do bf16 and channels_last pay? `python -m tests.bench.precision`: the table behind `device.plan`."""

from __future__ import annotations

import sys
import time

import torch
from torch import nn

from common.machine import device
from vision import models

CASES = [(name, "small", 28, 64) for name in models.FAMILIES] + [
    ("resnet", "base", 32, 64), ("torchvision/resnet18", "", 32, 64), ("torchvision/resnet18", "", 224, 8),
    ("torchvision/resnet50", "", 224, 4), ("torchvision/vgg11", "", 224, 4), ("torchvision/mobilenet_v2", "", 224, 8),
    ("torchvision/efficientnet_b0", "", 224, 8),
]  # fmt: skip
STEPS = 6


def images_per_second(name: str, size: str, side: int, batch: int, precision: str, channels_last: bool) -> float:
    """The best of three rounds of training steps, after two steps to warm up."""
    torch.manual_seed(0)
    channels = models.required_channels(name) or 1
    model = models.build(name, size or "small", classes=10, channels=channels, image_size=side)
    plan = device.Plan(precision, channels_last, "measured")
    model = model.to(memory_format=plan.memory_format).train()
    images = torch.randn(batch, channels, side, side).contiguous(memory_format=plan.memory_format)
    targets = torch.randint(10, (batch,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        with plan.autocast(torch.device("cpu")):
            loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    step()
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        rates.append(STEPS * batch / (time.perf_counter() - began))
    return max(rates)


def main() -> None:
    device.keep_freed_memory()
    device.set_threads()
    write = sys.stdout.write
    write(f"{device.describe(torch.device('cpu'))}, torch {torch.__version__}; images/s in training, best of 3\n\n")
    write(
        "| network | px | batch | fp32 | fp32, channels last | bf16 | bf16, channels last | rule |\n|"
        + " --- |" * 8
        + "\n"
    )
    for name, size, side, batch in CASES:
        rates = [images_per_second(name, size, side, batch, p, c) for p in ("fp32", "bf16") for c in (False, True)]
        channels = models.required_channels(name) or 1
        model = models.build(name, size or "small", classes=10, channels=channels, image_size=side)
        chosen = device.plan(model, torch.zeros(1, channels, side, side), torch.device("cpu"))
        rule = f"{chosen.precision}{', channels last' if chosen.channels_last else ''}"
        cells = " | ".join(f"{rate:,.0f} ({rate / rates[0]:.2f} ×)" for rate in rates)
        write(f"| {name} {size} | {side} | {batch} | {cells} | {rule} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
