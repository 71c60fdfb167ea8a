"""What every figure needs: a training in a fresh process, its mean over seeds, and a row of the table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tests.helpers import ROOT

SEEDS = (0, 1, 2)


def row(what: str, value: str, command: str) -> None:
    sys.stdout.write(f"| {what} | {value} | `{command}` |\n")
    sys.stdout.flush()


def mean_std(values: Sequence[float], form: str = ".2f") -> str:
    spread = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{fmean(values):{form}}{spread} (n = {len(values)})"


def run(*arguments: str) -> dict[str, Any]:
    """The JSON result of one training in a fresh process."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", *arguments, "--json", "--quiet", "--out", out]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def pytorch_examples(checkout: str, mnist: str | None, epochs: int) -> tuple[list[float], float]:
    """What mnist/main.py of github.com/pytorch/examples reaches after each epoch, in %, and its seconds for one.

    Args:
        checkout: where a link to the data is left, in which the script looks.
        mnist: folder with MNIST/raw; None lets the script download it.
    """
    link = Path(checkout) / "data"
    if mnist and not link.exists():
        link.symlink_to(Path(mnist).resolve(), target_is_directory=True)
    began = time.monotonic()
    command = [sys.executable, "main.py", "--epochs", str(epochs), "--seed", "0"]
    process = subprocess.run(command, cwd=Path(checkout) / "mnist", capture_output=True, text=True, check=True)
    found = re.findall(r"Accuracy: (\d+)/(\d+)", process.stdout)
    return [100 * int(a) / int(b) for a, b in found], (time.monotonic() - began) / len(found)
