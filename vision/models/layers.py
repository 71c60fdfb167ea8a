"""The few layers that several families share, and the facts of a model: parameters and FLOPs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def reduction(image_size: int) -> int:
    """How often the first layers of a network shrink the side of an image: 4 from 96 px on, 1 below.

    The papers were written for 224 px and start with two strides of 2. On 28 or 32 px these would leave
    nothing to look at, so every family here drops them below 96 px: 224 px then costs 4 × 28 px, not 64 ×.
    """
    return 4 if image_size >= 96 else 1


def conv_bn_act(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution, batch norm, activation (none if `act` is None); [B, inputs, H, W] -> [B, outputs, H/s, W/s]."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


def stem(channels: int, width: int, image_size: int) -> nn.Sequential:
    """The first layers of most families: [B, channels, S, S] -> [B, width, S/r, S/r] with r = reduction(S).

    Below 96 px one 3×3 convolution; from 96 px on the 7×7 convolution and the pool of the ResNet paper.
    """
    if reduction(image_size) == 1:
        return conv_bn_act(channels, width, 3)
    return conv_bn_act(channels, width, 7, stride=2).append(nn.MaxPool2d(3, 2, padding=1))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels (Hu et al., 2018, arXiv:1709.01507)."""

    def __init__(self, width: int, squeezed: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(width, squeezed, 1), act(inplace=True), nn.Conv2d(squeezed, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        return x * self.gate(x.mean((2, 3), keepdim=True))  # gate: [B, C, 1, 1]


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, 1×1 projection (Sandler et al., 2018, arXiv:1801.04381).

    The identity is added where shapes allow. With `squeeze` this is EfficientNet's MBConv.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expand: int,
        kernel: int,
        stride: int,
        act: type[nn.Module],
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        hidden = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [conv_bn_act(inputs, hidden, 1, act=act)] if expand > 1 else []
        layers.append(conv_bn_act(hidden, hidden, kernel, stride, groups=hidden, act=act))
        if squeeze:
            layers.append(SqueezeExcite(hidden, squeeze, act))
        project = conv_bn_act(hidden, outputs, 1, act=None)
        if self.residual:
            start_at_zero(project[-1])
        self.layers = nn.Sequential(*layers, project)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]
        return x + self.layers(x) if self.residual else self.layers(x)


def init_weights(model: nn.Module) -> None:
    """Kaiming-normal convolutions (He et al., 2015, arXiv:1502.01852); linear layers keep PyTorch's default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def start_at_zero(module: nn.Module) -> None:
    """Zeroes the last layer of a residual branch, so that the block starts as the identity.

    For batch norm: Goyal et al., 2017, arXiv:1706.02677.
    """
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def count_parameters(model: nn.Module) -> int:
    """The number of weights, trained or frozen."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_facts(model: nn.Module, channels: int, image_size: int) -> dict[str, int]:
    """`{"parameters": …, "flops": …}` of a model and one image [1, channels, image_size, image_size].

    FLOPs are those of convolutions and matrix products in one forward pass, and one multiply-add counts as
    two: half of it are the MACs that papers often quote. The model is run once in eval mode and left as it was.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    first = next(model.parameters())
    image = torch.zeros(1, channels, image_size, image_size, device=first.device, dtype=first.dtype)
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    # Attention as plain matrix products: the counter does not know the CPU's fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.forward(image)  # not model(image): a compiled model would compile for this one size
    for module, training in was_training.items():
        module.training = training
    return {"parameters": count_parameters(model), "flops": counter.get_total_flops()}
