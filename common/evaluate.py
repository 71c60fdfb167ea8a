"""Measures a trained model again: `python -m common.evaluate RUN`. The numbers equal those of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common import artifact, example, trust
from common.command import exits as command


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="folder of a run, or of its model")],
    data_dir: Annotated[str | None, typer.Option(help="where the data set lies now, if it was moved")] = None,
    trust_export: trust.Flag = False,
) -> None:
    """Evaluates a saved model on its test data and prints the metrics as one JSON object."""
    trust.allow(trust_export)
    saved = artifact.load(Path(run))
    declared = example.get(saved.example)
    config = declared.config().with_values(saved.config)
    if data_dir is not None:
        config = config.with_values({"data_dir": data_dir})
    from common.machine import device  # here: a mistake in the arguments is said without waiting for torch

    device.set_threads()
    example.predictor_of(saved)  # says in one line what is wrong with the model
    command.print_json(declared.evaluate(saved, config).values)


if __name__ == "__main__":
    command.run(main, "python -m common.evaluate")
