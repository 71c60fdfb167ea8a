"""Whether an export agrees with the model it was made from: its test metric, outputs, size and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.artifact import Artifact
from common.config import Config
from common.errors import UserError
from common.example import Example
from common.export.capture import Call, Watched
from common.machine import nests
from common.metrics import Metrics

# By how much the headline metric may differ, for each way of quantising: of 1, or of its value where that is larger.
TOLERANCE = {"none": 0.001, "bf16": 0.01, "int8-weight": 0.01, "int8": 0.02}
OUTPUTS = 1e-3  # by how much fp32 outputs may differ, of the largest output or of 1
BATCHES = (1, 32)  # sizes at which latency is measured
REPEATS, SECONDS = 30, 2.0  # of a measurement: at most so many calls of each network, and about so long in all


@dataclass(frozen=True)
class Comparison:
    """One export beside its original.

    Attributes:
        metric: name of the headline metric; `original` and `value` are its values on the test split.
        tolerance: by which they may differ.
        difference: the largest between outputs, of `compared` samples of the test split; `largest` is the largest
            of the original's outputs.
        bytes, original_bytes: of the exported file, and of the weights.
        milliseconds, original_milliseconds: medians for one call of the network, by batch size.
        metrics: all of the export's.
    """

    format: str
    quantize: str
    batch: int | None
    metric: str
    original: float
    value: float
    tolerance: float
    difference: float
    largest: float
    compared: int
    bytes: int
    original_bytes: int
    milliseconds: dict[str, float]
    original_milliseconds: dict[str, float]
    metrics: dict[str, float | int]
    hardware: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def agrees(self) -> bool:
        """Whether metric and, without quantisation, outputs are within their tolerances; NaN never is."""
        near = abs(self.value - self.original) <= self.tolerance
        limit = OUTPUTS * max(1.0, self.largest) if self.quantize == "none" else float("inf")
        return near and self.difference <= limit

    def lines(self) -> list[str]:
        """What is printed of it."""
        speed = ", ".join(
            f"{ms:.3f} ms for {size} (the run {self.original_milliseconds[size]:.3f})"
            for size, ms in self.milliseconds.items()
        )
        size = f"{self.bytes / 1e6:.3f} MB (the run {self.original_bytes / 1e6:.3f})"
        return [f"agrees     {self.numbers()}", f"size       {size}", f"latency    {speed}"]

    def numbers(self) -> str:
        """What differs, in a line."""
        return (
            f"{self.metric} {self.value:.4f} against {self.original:.4f} (may differ by {self.tolerance:.4f}); outputs "
            f"differ by up to {self.difference:.3g}, the largest is {self.largest:.3g}"
        )


@dataclass(frozen=True)
class Original:
    """What an export is compared with: the run's model, measured once."""

    metrics: Metrics
    calls: Sequence[Call]
    network: nn.Module
    bytes: int


def measure_original(declared: Example, saved: Artifact, config: Config) -> Original:
    """Evaluates the run's model on its test split and keeps what went in and came out."""
    watched = Watched.of(saved)
    with watched.noting() as calls:
        metrics = declared.evaluate(watched, config)
    return Original(metrics, calls, watched.network(), (saved.folder / "model.safetensors").stat().st_size)


def compare(
    declared: Example,
    original: Original,
    exported: Artifact,
    config: Config,
    *,
    tolerance: float | None,
    hardware: str,
) -> Comparison:
    """Measures an export on the same test split.

    Args:
        exported: its artifact folder, complete.
        tolerance: of the headline metric; None for TOLERANCE.
    """
    export = exported.export
    assert export is not None
    program = nn_program(exported)
    differences, largest = [0.0], [0.0]
    with torch.inference_mode():
        for inputs, output in original.calls:
            for ours, theirs in zip(nests.tensors(program(*inputs)), nests.tensors(output), strict=True):
                differences.append((ours.double() - theirs.double()).abs().max().item())
                largest.append(theirs.abs().max().item())
    metrics = declared.evaluate(exported, config)
    name = metrics.headline
    value = original.metrics.values[name]
    allowed = TOLERANCE[export.quantize] * max(1.0, abs(value)) if tolerance is None else tolerance
    inputs = original.calls[0].inputs
    run, exports = latencies((original.network, program), inputs)
    return Comparison(
        export.format,
        export.quantize,
        export.batch,
        name,
        value,
        metrics.values[name],
        allowed,
        _largest(differences),
        _largest(largest),
        sum(nests.size(call.output) for call in original.calls),
        (exported.folder / export.file).stat().st_size,
        original.bytes,
        exports,
        run,
        metrics.values,
        hardware,
    )


def nn_program(exported: Artifact) -> nn.Module:
    """The program of an export as a network, for any number of samples."""
    return exported.load_into(nn.Module())


def _largest(values: Sequence[float]) -> float:
    """The largest; NaN if any is NaN."""
    return next((v for v in values if v != v), max(values))


def latencies(networks: Sequence[Callable[..., Any]], inputs: tuple[Any, ...]) -> list[dict[str, float]]:
    """Milliseconds of one call of each network at each size of BATCHES, by the size as text."""
    columns = {str(size): _milliseconds(networks, nests.change(inputs, partial(_repeated, size))) for size in BATCHES}
    return [{size: times[i] for size, times in columns.items()} for i in range(len(networks))]


def _repeated(size: int, x: Tensor) -> Tensor:
    return x[torch.arange(size) % len(x)].contiguous()


@torch.inference_mode()
def _milliseconds(networks: Sequence[Callable[..., Any]], inputs: Sequence[Any]) -> list[float]:
    """Medians; the networks take turns, so that what else the machine does is the same for all."""
    times: list[list[float]] = [[] for _ in networks]
    for network in networks:
        for _ in range(3):
            network(*inputs)
    began = time.perf_counter()
    while len(times[0]) < REPEATS and time.perf_counter() - began < SECONDS:
        for network, taken in zip(networks, times, strict=True):
            start = time.perf_counter()
            network(*inputs)
            taken.append(1e3 * (time.perf_counter() - start))
    return [round(statistics.median(taken), 3) for taken in times]


def refuse(row: Comparison) -> None:
    """Raises UserError, with the numbers, if the export does not agree."""
    if not row.agrees():
        hint = "Nothing was written. --tolerance allows another difference of the metric."
        raise UserError(f"The export disagrees with the run: {row.numbers()}.", hint)
