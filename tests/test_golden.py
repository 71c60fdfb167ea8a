"""What was trained before still answers the same: one tiny run of each example, kept as it was written.

`python -m tests.test_golden` makes the folder anew, for a change that is meant to change what an example learns.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from common import artifact, example
from common.command.arguments import Options
from common.command.execute import execute
from common.training.tracking import read_history

FOLDER = Path(__file__).parent / "golden"
KEPT = 2  # of the first lines of a training
MOST = 3  # of what an answer lists, such as boxes: far down rounding changes their order
# Machines round otherwise, and training makes rounding grow.
CLOSE = {"fp32": 2e-3, "bf16": 5e-2}


def names() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir())


def answer(name: str) -> Any:
    """What the kept model of an example says of its input's own sample."""
    saved = artifact.load(FOLDER / name)
    predictor = example.get(saved.example).load(saved)
    (row,) = predictor.predict([predictor.input.decode(predictor.input.sample())])
    row.pop("png", None)  # bytes of a compressed picture: rounding changes them
    return short(row)


def short(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the first of what it lists."""
    return {key: value[:MOST] if isinstance(value, list) else value for key, value in row.items()}


def first_losses(run: Path) -> list[dict[str, float]]:
    """The first lines of a training, without clocks."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_history(run)[:KEPT]]


def close(value: Any, kept: Any, share: float = CLOSE["fp32"]) -> bool:
    """Whether two nested values are the same, numbers up to a share of their size."""
    if isinstance(kept, dict):
        return value.keys() == kept.keys() and all(close(value[key], kept[key], share) for key in kept)
    if isinstance(kept, list):
        return len(value) == len(kept) and all(close(a, b, share) for a, b in zip(value, kept, strict=True))
    if isinstance(kept, float):
        return bool(value == pytest.approx(kept, rel=share, abs=share / 20))
    return bool(value == kept)


def losses_are_kept(run: Path, name: str) -> bool:
    """Whether a tiny training of an example began as the one whose model is kept."""
    kept = json.loads((FOLDER / name / "golden.json").read_text())["first_losses"]
    precision = json.loads((run / "config.json").read_text())["plan"]["precision"]
    pairs = zip(_losses(first_losses(run)), _losses(kept), strict=True)
    return all(close(now, then, CLOSE[precision]) for now, then in pairs)


def _losses(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Without what else a validation finds: of a network that knows nothing yet, that is chance."""
    return [{name: v for name, v in line.items() if not name.startswith("val_") or "loss" in name} for line in lines]


@pytest.mark.parametrize("name", names())
def test_a_model_saved_before_answers_as_before(name: str) -> None:
    kept = json.loads((FOLDER / name / "golden.json").read_text())["answer"]
    kept = short(kept)
    assert close(answer(name), kept), (answer(name), kept)


def make() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for declared in example.catalogue():
        with tempfile.TemporaryDirectory() as out:
            result = execute(declared, Options(tiny=True, quiet=True, out=out), {"device": "cpu", "precision": "fp32"})
            run = Path(result["run"])
            kept = FOLDER / declared.name
            shutil.copytree(run / "model", kept / "model")
            losses = first_losses(run)
        described = {"first_losses": losses, "answer": answer(declared.name)}
        (kept / "golden.json").write_text(json.dumps(described, indent=1) + "\n")
        sys.stderr.write(f"{kept}\n")


if __name__ == "__main__":
    make()
