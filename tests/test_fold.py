"""Folding batch norms leaves the function as it is, in every network, and leaves alone what it does not understand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from common.serve.fold import fold_batch_norms
from vision import models


def lived(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_answers_stay_the_same(family: str) -> None:
    torch.manual_seed(0)
    model = lived(models.build(family, "tiny", classes=3, channels=3, image_size=32, weights="none", freeze=False))
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images)
    folded = fold_batch_norms(model)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert folded == len(norms) - left
    if family in ("resnet", "mobilenet", "efficientnet", "inception"):  # each of their norms follows a convolution
        assert 0 < folded == len(norms) <= convolutions
    with torch.inference_mode():
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """Uses what the convolution gives twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        out: Tensor = y + self.norm(y)
        return out


class Branching(Twice):
    """Can't be traced."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        out: Tensor = self.norm(y) if y.sum() > 0 else y
        return out


@pytest.mark.parametrize("kind", [Twice, Branching])
def test_what_can_not_be_folded_is_left_as_it_is(kind: type[Twice]) -> None:
    torch.manual_seed(0)
    model = lived(kind())
    before = copy.deepcopy(model.state_dict())
    assert fold_batch_norms(model) == 0
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
