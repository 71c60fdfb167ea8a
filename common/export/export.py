"""The way from a run to an export that agrees with it, or to nothing at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import artifact, example, trust
from common.artifact import Artifact
from common.config import read_json
from common.errors import UserError
from common.export import capture, compare, formats, quantize, table
from common.export.capture import Sample, Watched
from common.export.compare import Comparison
from common.files import explain_write_errors, write_json
from common.machine import device, nests
from common.program import Export

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch",)}  # packages by format
PLACE = "Free some space beside the run, or make its folder writable."


def export(
    path: Path, format: str, kind: str, batch: int | None, tolerance: float | None = None, data_dir: str | None = None
) -> tuple[Path, Comparison]:
    """Exports the model of a run to the folder `exports` beside it.

    Args:
        path: of the run, or of its model.
        kind: one of quantize.KINDS.
        batch: samples at once; None for any number.
        tolerance: by which the headline metric may differ; None for that of the kind.
        data_dir: where the data set lies, if not where the run found it.

    Returns:
        the folder of the export, itself an artifact, and how it compares.

    Raises:
        UserError: it can't be exported, or disagrees with the run; nothing was written then.
    """
    saved = artifact.load(path)
    if saved.export is not None:
        raise UserError(f"{path} is an export already.", "Name the run it was made from.")
    check(format, kind)
    declared = example.get(saved.example)
    config = declared.config().with_values({**saved.config, **({"data_dir": data_dir} if data_dir else {})})

    watched = Watched.of(saved)
    predictor = declared.load(watched)
    sample = capture.sample(watched, predictor)
    calibration = capture.validation(declared, watched, predictor, config) if kind == "int8" else []
    original = compare.measure_original(declared, saved, config)

    outputs = nests.outline(original.calls[0].output)
    name = format if kind == "none" else f"{format}-{kind}"
    root = exports_of(saved.folder)
    with _whole(root / name) as folder:
        write_program(watched.network(), sample, calibration, format, kind, batch, folder / formats.FILES[format])
        trust.remember(folder / formats.FILES[format])
        copy_artifact(saved, folder, Export(format, kind, batch, formats.FILES[format], saved.shapes(), outputs))
        hardware = f"{device.describe(torch.device('cpu'))}, torch {torch.__version__}"
        row = compare.compare(declared, original, artifact.load(folder), config, tolerance=tolerance, hardware=hardware)
        compare.refuse(row)
        write_json(folder / "model.json", read_json(folder / "model.json") | {"metrics": row.metrics})
        write_json(folder / "export.json", row.to_json())
    table.write(root, saved.example)
    return root / name, row


def check(format: str, kind: str) -> None:
    """Raises UserError where a package is missing, or the format has no such numbers."""
    quantize.check(kind, format)
    by_torchao = kind.startswith("int8") and (format, kind) != ("onnx", "int8")
    needed = [*NEEDED.get(format, ()), *(["torchao"] if by_torchao else [])]
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        extra = "executorch" if missing[0] == "executorch" else "export"
        what = f"--to {format} --quantize {kind} needs the package {missing[0]}, which is not installed."
        raise UserError(what, f"pip install -e '.[{extra}]'")


def write_program(
    network: nn.Module,
    sample: Sample,
    calibration: Sequence[tuple[Any, ...]],
    format: str,
    kind: str,
    batch: int | None,
    path: Path,
) -> None:
    """Traces a network, quantises it and writes the file of the format."""
    if kind == "bf16":
        network = quantize.to_bf16(network)
    by_onnx = format == "onnx" and kind == "int8"  # ONNX Runtime's own quantiser knows what it runs fast
    if kind.startswith("int8") and not by_onnx:
        # Traced for any number of samples: validation data comes in batches of its own sizes.
        program = formats.trace(network, sample, None, format)
        if kind == "int8-weight":
            network = quantize.weights_only(program, sample.inputs)
        else:
            static = quantize.for_phones if format == "executorch" else quantize.static
            network = static(program, calibration)
    program = formats.trace(network, sample, batch, format)
    formats.write(program, format, path, calibration if by_onnx else ())


def exports_of(model: Path) -> Path:
    """The folder of the exports of the model in a folder: beside it in a run, else within."""
    return (model.parent if (model.parent / "config.json").is_file() else model) / "exports"


def copy_artifact(saved: Artifact, folder: Path, export: Export) -> None:
    """Makes an artifact of a folder that holds an exported file: all that the run's has, but its weights."""
    for file in saved.folder.iterdir():
        if file.is_file() and file.name not in ("model.safetensors", "model.json"):
            shutil.copyfile(file, folder / file.name)
    write_json(folder / "model.json", read_json(saved.folder / "model.json") | {"export": asdict(export)})


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A new folder that takes the name once the block has ended well; else what was there before stays."""
    root = folder.parent
    with explain_write_errors(folder, PLACE):
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{folder.name}."))
        try:
            yield staging
            staging.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            staging.rename(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            with suppress(OSError):  # other exports are in it
                root.rmdir()
            raise
