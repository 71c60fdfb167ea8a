"""When do bf16 and channels_last pay? The table behind `device.plan`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from torch import nn

from common.machine import device
from tests.bench.tools import bench
from tests.results import Figure, Row
from vision import models

CASES = [(name, "small", 28, 64) for name in models.FAMILIES] + [
    ("resnet", "base", 32, 64),
    ("torchvision/resnet18", "", 32, 64),
    ("torchvision/resnet18", "", 224, 8),
    ("torchvision/resnet50", "", 224, 4),
    ("torchvision/vgg11", "", 224, 4),
    ("torchvision/mobilenet_v2", "", 224, 8),
    ("torchvision/efficientnet_b0", "", 224, 8),
]
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


@bench(
    "precision",
    "Images",
    "When bf16 and channels_last pay",
    note="Training steps (forward, backward, AdamW). [The rule](precision.md) that follows from it.",
)
def precision(options: argparse.Namespace) -> Iterator[Row]:
    device.keep_freed_memory()
    for name, size, side, batch in CASES:
        figures: dict[str, Figure] = {}
        plain = 0.0
        for precision in ("fp32", "bf16"):
            for layout in ("", ", channels last"):
                rate = images_per_second(name, size, side, batch, precision, bool(layout))
                figures[precision + layout] = Figure(round(rate, 1), "images/s", 0)
                plain = plain or rate
                if figures.keys() != {"fp32"}:
                    figures[f"{precision}{layout} over fp32"] = Figure(round(rate / plain, 3), "×", 2)
        channels = models.required_channels(name) or 1
        model = models.build(name, size or "small", classes=10, channels=channels, image_size=side)
        chosen = device.plan(model, torch.zeros(1, channels, side, side), torch.device("cpu"))
        rule = f"rule: {chosen.precision}{', channels last' if chosen.channels_last else ''}"
        what = f"{name} {size}".strip() + f", {side} px, batch {batch}"
        yield Row(what, figures, statistic="best", n=3, note=rule)
