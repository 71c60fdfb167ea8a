"""What every benchmark needs: its name, a training in a fresh process, what stands beside it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers import ROOT
from tests.results import Row, record

SEEDS = [0, 1, 2]
Rows = Callable[[argparse.Namespace], Iterator[Row]]


@dataclass(frozen=True)
class Bench:
    """A benchmark: results/NAME.json is what it measured last.

    Attributes:
        title: its heading in docs/results.md, under that of its subject.
        needs: the options that it takes, as in `--data FOLDER`.
        rows: measures; yields each row as soon as it is known.
    """

    name: str
    subject: str
    title: str
    rows: Rows
    needs: str = ""
    note: str = ""

    @property
    def command(self) -> str:
        return f"python -m tests.bench {self.name} {self.needs}".rstrip()

    def record(self, options: argparse.Namespace, folder: Path) -> Path:
        """Measures and writes FOLDER/NAME.json."""
        return record(self.name, self.subject, self.title, self.command, self.rows(options), folder, self.note)


BENCHES: dict[str, Bench] = {}


def bench(name: str, subject: str, title: str, needs: str = "", note: str = "") -> Callable[[Rows], Rows]:
    """Declares the function below it as a benchmark; `python -m tests.bench NAME` then finds it."""

    def declare(rows: Rows) -> Rows:
        BENCHES[name] = Bench(name, subject, title, rows, needs, note)
        return rows

    return declare


def missing(what: str, why: str) -> Row:
    """The row of a peer that is not here."""
    return Row(what, {}, by="peer", note=f"not measured: {why}")


def run(*arguments: str, out: str | None = None) -> dict[str, Any]:
    """The JSON result of one training in a fresh process.

    Args:
        out: folder in which the run stays; by default it is gone afterwards.
    """
    with tempfile.TemporaryDirectory() as gone:
        command = [sys.executable, "-m", *arguments, "--json", "--quiet", "--out", out or gone]
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
