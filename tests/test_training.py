"""Parts of the training loop that runs do not show one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.step import MovingAverage


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
