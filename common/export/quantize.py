"""Smaller numbers: bf16, 8-bit weights, and 8-bit arithmetic with ranges measured on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from common.errors import UserError
from common.machine import nests

if TYPE_CHECKING:
    from torchao.quantization.pt2e.quantizer import Quantizer

KINDS = ("none", "bf16", "int8-weight", "int8")
ATEN = torch.ops.aten
WEIGHT_OF = {  # where the weight stands among the arguments, and its dimension of output channels
    ATEN.linear.default: (1, 0),
    ATEN.conv1d.default: (1, 0),
    ATEN.conv2d.default: (1, 0),
    ATEN.embedding.default: (0, 0),
    ATEN.conv_transpose2d.input: (1, 1),
}


def to_bf16(model: nn.Module) -> nn.Module:
    """The network in bfloat16; its inputs and outputs stay float32."""
    model.to(torch.bfloat16)
    model.register_forward_pre_hook(
        lambda module, inputs: nests.change(inputs, lambda x: x.bfloat16() if x.is_floating_point() else x)
    )
    model.register_forward_hook(
        lambda module, inputs, output: nests.change(output, lambda x: x.float() if x.is_floating_point() else x)
    )
    return model


def weights_only(program: ExportedProgram, inputs: tuple[Any, ...]) -> GraphModule:
    """Weights of linear layers, convolutions and embeddings in int8, a scale for each channel; arithmetic in float.

    Args:
        inputs: any; weights are looked at when the network runs.
    """
    return _quantized(program, [_weight_quantizer()], [inputs])


def static(program: ExportedProgram, calibration: Sequence[tuple[Any, ...]]) -> GraphModule:
    """Linear layers and convolutions in int8 arithmetic, as x86 CPUs have it; embeddings as weights in int8.

    Args:
        calibration: inputs by which the ranges of activations are found.
    """
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class OfFloats(x86.X86InductorQuantizer):
        """Also marks masks, whose ranges can't be measured; here it does not."""

        def annotate(self, model: GraphModule) -> GraphModule:
            super().annotate(model)
            for node in model.graph.nodes:
                marked = node.meta.get(Q_ANNOTATION_KEY)
                if marked and not all(other.meta["val"].is_floating_point() for other in marked.input_qspec_map):
                    del node.meta[Q_ANNOTATION_KEY]
            return model

    quantizer = OfFloats().set_global(x86.get_default_x86_inductor_quantization_config())
    return _quantized(program, [quantizer, _weight_quantizer()], calibration)


def for_phones(program: ExportedProgram, calibration: Sequence[tuple[Any, ...]]) -> GraphModule:
    """As `static`, with the operators and ranges that XNNPACK runs."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=True)
    return _quantized(program, [XNNPACKQuantizer().set_global(config)], calibration)


def _quantized(program: ExportedProgram, quantizers: list[Any], calibration: Sequence[tuple[Any, ...]]) -> GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import ComposableQuantizer

    module = program.module()
    _fold(module)
    prepared = prepare_pt2e(module, ComposableQuantizer(quantizers))
    with torch.no_grad():
        for inputs in calibration:
            prepared(*inputs)
    converted: GraphModule = convert_pt2e(prepared)
    return converted


def _fold(module: GraphModule) -> None:
    """Makes weights of what is computed from weights alone, so that it can be quantised as such."""
    from torchao.quantization.pt2e.constant_fold import constant_fold

    constant_fold(module)
    for node in module.graph.find_nodes(op="get_attr"):
        if str(node.target).startswith("_frozen_param"):  # the quantiser folds too, and calls its own by this name
            value = getattr(module, str(node.target))
            delattr(module, str(node.target))
            node.target = f"folded{node.target}"
            module.register_parameter(node.target, nn.Parameter(value, requires_grad=False))
    module.recompile()


def _weight_quantizer() -> Quantizer:
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class Weights(Quantizer):
        """Marks weights that nothing else has marked."""

        def annotate(self, model: GraphModule) -> GraphModule:
            for node in model.graph.nodes:
                place = WEIGHT_OF.get(node.target)
                if place is None or Q_ANNOTATION_KEY in node.meta:
                    continue
                argument, channels = place
                weight: Node = node.args[argument]
                if weight.op != "get_attr":  # computed, not stored
                    continue
                spec = QuantizationSpec(
                    dtype=torch.int8,
                    quant_min=-127,
                    quant_max=127,
                    qscheme=torch.per_channel_symmetric,
                    ch_axis=channels,
                    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-16),
                )
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map={weight: spec}, _annotated=True)
            return model

        def validate(self, model: GraphModule) -> None:
            """Nothing to check."""

    return Weights()


def check(kind: str, format: str) -> None:
    """Raises UserError where a format has no such arithmetic."""
    if kind == "bf16" and format in ("onnx", "executorch"):
        what = f"--quantize bf16: what runs {format} files on a CPU has no bf16 arithmetic."
        raise UserError(what, "Use --to aoti or torch-export, or --quantize int8-weight.")
