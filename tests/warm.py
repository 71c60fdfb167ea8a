"""Processes that find torch imported, forked from one that has it: a start takes milliseconds instead of seconds.

What a fresh process does differently (its start, its imports) is tested with `helpers.python`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What every training imports, but nothing of this project: that may be patched, and shall be imported anew.
IMPORTED = ["torch", "torch._dynamo", "torch.utils.tensorboard", "sklearn.metrics", "matplotlib.figure", "torchvision"]

OURS = {file.parent.name for file in ROOT.glob("*/__init__.py")}


class Process:
    """`python ARGUMENTS` in a folder, where the arguments are a script or -m and a module.

    Attributes:
        stdout, stderr: files that get its output.
    """

    def __init__(self, arguments: Sequence[str | Path], cwd: Path, environment: dict[str, str]) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self._folder = tempfile.TemporaryDirectory()
        self.stdout, self.stderr = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        self._process = _context().Process(
            target=_run, args=(self.arguments, str(cwd), environment, str(self.stdout), str(self.stderr))
        )
        self._process.start()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL; nothing happens if it has ended."""
        self._process.kill()

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """What it said and how it ended; subprocess.TimeoutExpired, and it is killed, if it takes longer."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.stdout.read_bytes(), self.stderr.read_bytes())
        output = (file.read_text(encoding="utf-8") for file in (self.stdout, self.stderr))
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, *output)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _run(arguments: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", buffering=1) for number in (1, 2))  # noqa: SIM115, PTH123
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.insert(0, str(ROOT))
    # Who asked for the server first said what it imports: a test of tuning would have it import examples as well.
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
