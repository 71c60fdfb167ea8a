"""Processes for trials: forked from one that has imported everything, they start in milliseconds instead of seconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from common.command import exits as command
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.example import declared_in
from common.files import explain_write_errors
from common.machine import device

PATIENCE = 30.0  # seconds that a process gets to save and end when it is told to


class Worker:
    """A function in a process of its own, which ends with this one, however this one ends.

    Args:
        action: of a module, called as `command.exit_with` does: a UserError becomes a line in the log and code 2.
        log: gets all its output.
        preload: modules that the processes to come find imported.
    """

    def __init__(self, action: Callable[..., Any], arguments: tuple[Any, ...], log: Path, preload: list[str]) -> None:
        with explain_write_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        context = _context(preload)
        self._process = context.Process(target=_run, args=(action, arguments, str(log)), name=log.parent.name)
        self._process.start()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.join()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self._process.terminate()
        self._process.join(PATIENCE)
        if self.code is None:
            self._process.kill()
            self._process.join()

    def failure(self) -> UserError:
        """Why it failed: its own error line, or the last line of a traceback."""
        text = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        what, _, hint = text.rpartition("error: ")[2].partition("\n")
        if self.code == 2 and "error: " in text:
            return UserError(what, hint.partition("\n")[0])
        last = text.splitlines()[-1] if text else f"it ended with code {self.code} and said nothing"
        return UserError(f"{last.rstrip('.')}.", f"All of it is in {self.log}.")


def train(example: str, options: Options, settings: dict[str, Any], workers: int) -> None:
    """What a worker does for a trial: the example, as its command line would run it.

    Args:
        example: the module that declares it.
        workers: how many processes share this machine.
    """
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(device.set_threads(workers)))
    execute(declared_in(example), options, settings)


def _context(preload: list[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)  # counts for the first process only, which is what we need
    return context


def _run(action: Callable[..., Any], arguments: tuple[Any, ...], log: str) -> NoReturn:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the search, which then tells each worker once
    with Path(log).open("a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    command.exit_with(lambda: action(*arguments))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(0, signal.SIGKILL)  # what it started itself as well
            os.kill(os.getpid(), signal.SIGTERM)
