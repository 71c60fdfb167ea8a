"""Weights of linear layers in 8 or 4 bits, on a CPU.

Who writes token by token reads all weights for each: the time of a token is that of reading them, and a quarter or an
eighth of the bytes takes about as much less. The kernels take activations in bf16 only; in fp32 they are slower than
plain layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError

FORMS = ("int8", "int4")
GROUPS = (64, 32)  # inputs that share a scale and a zero in 4 bits, the first that divides them
STEP = 32  # the kernel of 8 bits reads so many inputs at once, and beyond the end of others
ROWS = 16  # the kernel of 4 bits takes multiples of so many outputs


class PackedLinear(nn.Module):
    """A linear layer with weights of 8 or 4 bits: x [..., I] to [..., O], float32 as before.

    Args:
        bits: 8, a scale for each output; or 4, a scale and a zero for each group of inputs of each output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: int) -> None:
        super().__init__()
        self.bits = bits
        packed, scales = eight(weight.float()) if bits == 8 else four(weight.float(), group_of(weight))
        self.group = group_of(weight)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).bfloat16()
        packed, scales = self.get_buffer("packed"), self.get_buffer("scales")
        if self.bits == 8:
            y = torch.ops.aten._weight_int8pack_mm(flat, packed, scales)
        else:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, packed, self.group, scales)
        y = y.float()
        if self.bias is not None:
            y = y + self.get_buffer("bias")
        return y.view(*x.shape[:-1], -1)


def group_of(weight: Tensor) -> int:
    """Inputs of a group; 0 where the kernel of 4 bits can't take the layer."""
    if weight.shape[0] % ROWS:
        return 0
    return next((size for size in GROUPS if weight.shape[1] % size == 0), 0)


def eight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [O, I] as int8 [O, I] and scales bf16 [O]."""
    # Rounded first: what is kept fits the scale that is used.
    scales = (weight.abs().amax(1).clamp(min=1e-8) / 127).bfloat16()
    return (weight / scales.float().unsqueeze(1)).round().clamp(-128, 127).to(torch.int8), scales


def four(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """A weight [O, I] in the order of the kernel, and its scales and zeros bf16 [I / group, O, 2].

    A number q of 0..15 stands for (q − 8) × scale + zero.
    """
    parts = weight.view(weight.shape[0], -1, group)  # [O, G, group]
    low, high = parts.amin(2, keepdim=True), parts.amax(2, keepdim=True)
    scales = ((high - low).clamp(min=1e-8) / 15).bfloat16()
    zeros = (low + 8 * scales.float()).bfloat16()
    numbers = ((parts - zeros.float()) / scales.float() + 8).round().clamp(0, 15).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.view_as(weight).contiguous(), 1)
    return packed, torch.cat([scales, zeros], 2).transpose(0, 1).contiguous()


def pack(network: nn.Module | None, form: str) -> None:
    """Replaces the linear layers of a network on the CPU. It can then no longer be trained.

    Layers whose sizes the kernel of 4 bits can't take get 8, and those that this one can't either stay as they are.

    Args:
        form: one of FORMS.

    Raises:
        UserError: it has none, as an export has not.
    """
    layers = [
        (module, name, part)
        for module in (network.modules() if network is not None else ())
        for name, part in module.named_children()
        if isinstance(part, nn.Linear) and part.in_features % STEP == 0
    ]
    if not layers:
        raise UserError(
            f"--precision {form}: this model has no linear layers that can be packed.", "Use --precision auto."
        )
    for module, name, part in layers:
        bits = 4 if form == "int4" and group_of(part.weight) else 8
        with torch.no_grad():
            setattr(module, name, PackedLinear(part.weight, part.bias, bits))
