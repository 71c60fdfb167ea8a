"""What every figure needs: a training in a fresh process, its mean over seeds, and a row of the table."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
