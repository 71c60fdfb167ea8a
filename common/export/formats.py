"""From a network to a file that runs without its Python code: torch.export, ONNX, AOTInductor, ExecuTorch."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from common.errors import UserError
from common.export import compiled
from common.export.capture import Sample
from common.machine import nests
from common.program import quietly

FILES = {"torch-export": "model.pt2", "onnx": "model.onnx", "aoti": "model.aoti.pt2", "executorch": "model.pte"}
LONGEST = 512  # of a text's dimension in ExecuTorch, which sets memory aside for the longest input
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CANNOT = "docs/export.md says what can't be exported, and why."


def trace(model: nn.Module, sample: Sample, batch: int | None, format: str) -> ExportedProgram:
    """The graph of a network, for any number of samples or for `batch` of them.

    Raises:
        UserError: the network does what a graph can't, such as branch on its data.
    """
    inputs = sample.inputs
    if batch is not None:
        inputs = nests.change(inputs, lambda x: x[:1].expand(batch, *x.shape[1:]).contiguous())
    longest = Dim("length", min=1, max=LONGEST) if format == "executorch" else Dim.DYNAMIC
    free = iter(sample.free)
    shapes = nests.change(
        inputs, lambda x: {d: Dim.DYNAMIC if d == 0 else longest for d in next(free) if d > 0 or batch is None}
    )
    with _said_clearly("torch.export can't follow this network"), torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=shapes)


def write(program: ExportedProgram, format: str, path: Path, int8: Sequence[tuple[Any, ...]] = ()) -> None:
    """Writes the file of a format.

    Args:
        int8: for ONNX, inputs by which its own quantiser finds the ranges of activations.
    """
    with _said_clearly(f"{format} can't take this network"):
        if format == "onnx":
            _write_onnx(program, path, int8)
        else:
            WRITERS[format](program, path)


def _write_torch_export(program: ExportedProgram, path: Path) -> None:
    buffer = io.BytesIO()  # torch's own writer turns a full disk into an error about zip archives
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())


def _write_aoti(program: ExportedProgram, path: Path) -> None:
    path.write_bytes(compiled.package(program))


def _write_executorch(program: ExportedProgram, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


FOLDED = 2**26  # numbers in a constant that is computed from others before the file is written
SEVEN_BITS = 64  # the largest 8-bit weight that is right on every CPU, see `largest_weight`
# What has weights. 8-bit sums, norms and attention cost a fine-tuned MiniLM ten points and are no faster.
INT8 = ["Conv", "ConvTranspose", "Gather", "Gemm", "MatMul"]

WRITERS: dict[str, Callable[[ExportedProgram, Path], None]] = {
    "torch-export": _write_torch_export,
    "aoti": _write_aoti,
    "executorch": _write_executorch,
}


def _write_onnx(program: ExportedProgram, path: Path, int8: Sequence[tuple[Any, ...]]) -> None:
    import onnx
    from onnxscript.optimizer import optimize_ir

    program = program.run_decompositions({torch.ops.aten.searchsorted.Tensor: _searchsorted})
    count = len(program.graph_signature.user_outputs)
    names = ["output", *(f"output_{number}" for number in range(1, count))]
    exported: Any = torch.onnx.export(program, output_names=names, dynamo=True, verbose=False)
    optimize_ir(exported.model, input_size_limit=FOLDED, output_size_limit=FOLDED, should_fold=_is_foldable)
    proto = exported.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del part.metadata_props[:]  # stack traces: a third of a small file, and the paths of this machine
    if not int8:
        onnx.save(proto, path)
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    takes = [tensor.name for tensor in proto.graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(int8)

        def get_next(self) -> Any:  # None ends it
            inputs = next(self.rest, None)
            return (
                None
                if inputs is None
                else {name: x.numpy() for name, x in zip(takes, nests.tensors(inputs), strict=True)}
            )

    quantize_static(
        proto,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=INT8,
        # 7 bits for weights: CPUs without VNNI add two products in 16 bits, and 2 × 255 × 127 does not fit there.
        reduce_range=True,
        extra_options={"MatMulConstBOnly": True},
    )
    largest = largest_weight(path)
    if largest > SEVEN_BITS:
        what = f"The int8 weights go up to {largest}; on a CPU without VNNI their products would not fit."
        raise UserError(what, "Use --quantize int8-weight, and tell us.")


def largest_weight(path: Path) -> int:
    """The largest 8-bit weight of an ONNX file, by its size; 0 where there is none.

    Up to SEVEN_BITS the file computes the same on every CPU: two products with 8-bit activations then fit into the 16
    bits in which older CPUs add them, 2 × 255 × 64 = 32,640.
    """
    import onnx
    from onnx import numpy_helper

    weights = [w for w in onnx.load(path).graph.initializer if w.data_type == onnx.TensorProto.INT8]
    return max((int(abs(numpy_helper.to_array(w).astype("int16")).max(initial=0)) for w in weights), default=0)


def _is_foldable(node: Any) -> bool | None:
    """False for 8-bit weights on their way to floats, which must stay small; None leaves it to the optimiser."""
    return False if node.op_type == "DequantizeLinear" else None


def _searchsorted(places: Tensor, values: Tensor, **options: Any) -> Tensor:
    """Binary search in plain operators: ONNX has no searchsorted. Only for sorted 1-D `places`, from the left."""
    if places.dim() != 1 or options.get("right") or options.get("side") == "right":
        return NotImplemented
    found = torch.zeros_like(values, dtype=torch.int64)
    for bit in reversed(range(len(places).bit_length())):
        further = found + (1 << bit)
        before = places[(further - 1).clamp(max=len(places) - 1)] < values
        found = torch.where(before & (further <= len(places)), further, found)
    return found


@contextmanager
def _said_clearly(what: str) -> Iterator[None]:
    """Runs a block of an exporter without its chatter; what it can't do is one line."""
    try:
        with quietly():
            yield
    except UserError:
        raise
    except Exception as error:  # exporters raise anything
        cause = _innermost(error)
        if isinstance(cause, OSError) and cause.errno in FULL:  # the disk's fault, not the network's
            raise cause from error
        if "InvalidCxxCompiler" in str(cause):
            hint = "Install g++, or name yours in the environment variable CXX."
            raise UserError("--to aoti compiles with a C++ compiler, and there is none that works.", hint) from error
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UserError(f"{what}: {reason[:300]}", CANNOT) from error


def _innermost(error: BaseException) -> BaseException:
    """The first cause, which names the operator."""
    return error if error.__cause__ is None else _innermost(error.__cause__)
