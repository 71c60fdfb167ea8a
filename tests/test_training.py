"""Parts of the training loop that runs do not show one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.config import Config
from common.training.run import Run
from common.training.step import MovingAverage
from common.training.tracking import read_history


def test_a_moving_average_follows_the_formula_and_copies_whole_numbers() -> None:
    model: Any = nn.BatchNorm1d(2)
    model.register_buffer("keys", torch.tensor([2**53 + 1]))  # a float would lose its last digit
    average: Any = MovingAverage(model, 0.75)
    expected: list[float] = []
    for step, value in enumerate((1.0, 2.0, 4.0)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.num_batches_tracked += 10
        average.update_parameters(model)
        expected.append(value if step == 0 else 0.75 * expected[-1] + 0.25 * value)
        torch.testing.assert_close(average.module.weight, torch.full((2,), expected[-1]))
    assert average.module.num_batches_tracked == 30
    assert average.module.keys.item() == 2**53 + 1


def test_the_last_mean_of_a_log_stands_for_as_many_steps_as_the_others(tmp_path: Path) -> None:
    """A mean of the two steps that were left over stood apart in the chart."""
    run = Run(tmp_path / "run", "toy", Config(device="cpu"), quiet=True)
    try:
        for step in run.loop(steps=72):
            run.log(loss=float(step))
    finally:
        run.tracker.close()
    rows = read_history(tmp_path / "run")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60, 72]
    assert rows[-1]["loss"] == sum(range(60, 72)) / 12
