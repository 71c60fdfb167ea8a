"""Exports a trained model, compared with the original on its test split before it counts as good.

python -m common.export RUN --to onnx                     for ONNX Runtime, anywhere
python -m common.export RUN --to onnx --quantize int8     smaller and faster; ranges come from validation data
python -m common.export RUN --to aoti                     compiled for this machine's CPU, without Python
python -m common.export RUN --to executorch               for phones
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from common.command import exits as command
from common.errors import UserError, nearest
from common.export import quantize
from common.export.export import export
from common.machine import device
from common.program import FORMATS


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="folder of a run, or of its model")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=", ".join(FORMATS))],
    kind: Annotated[str, typer.Option("--quantize", metavar="KIND", help=", ".join(quantize.KINDS))] = "none",
    batch: Annotated[
        str | None, typer.Option(metavar="dynamic|N", help="samples at once; dynamic, for executorch 1")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="by how much the headline metric may differ; by the kind of numbers")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="where the data set lies now, if it was moved")] = None,
) -> None:
    """Exports a trained model to RUN/exports and compares it with the run; common.predict and common.serve take it."""
    for value, choices, name in ((to, tuple(FORMATS), "--to"), (kind, quantize.KINDS, "--quantize")):
        if value not in choices:
            raise UserError(f"{name} {value}: there is no such choice.", nearest(value, choices))
    device.set_threads()
    folder, row = export(Path(run), to, kind, _batch(batch, to), tolerance, data_dir)
    sys.stdout.write(f"export     {folder}\n")
    for line in row.lines():
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"table      {folder.parent / 'export.html'}\n")


def _batch(asked: str | None, format: str) -> int | None:
    """The number of samples at once, None for any."""
    if asked is None or asked == "dynamic":
        if format != "executorch":
            return None
        if asked is None:
            return 1
        raise UserError("--batch dynamic: ExecuTorch sets memory aside for a fixed size.", "Use --batch N.")
    if not asked.isdigit() or not 1 <= int(asked) <= 4096:
        raise UserError(f"--batch {asked}: give dynamic, or a number from 1 to 4096.")
    return int(asked)


if __name__ == "__main__":
    command.run(main, "python -m common.export")
