"""The processes of a job on this machine: started, listened to, stopped, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from common.sagemaker.training.spare import Spare

Command = tuple[list[str], Path, dict[str, str]]  # words, working directory, environment
POLL = 0.02  # seconds between looks at the processes
GRACE = 120.0  # seconds between SIGTERM and SIGKILL, as the service has it


class Hosts:
    """One process a host.

    Args:
        commands: of each host.
        log: file to which their output is appended; it goes to stderr too.
        quiet: not to stderr.
        keep: a file descriptor that they inherit: the lock of the job.
        spare: a process that is there already, for the only host.

    Attributes:
        stopped: the signal that told them to end, from outside or because time was up; 0 where none did.
    """

    def __init__(
        self, commands: Sequence[Command], log: Path, *, quiet: bool, keep: int, spare: Spare | None = None
    ) -> None:
        self.stopped = 0
        self._quiet = quiet
        self._log = log.open("a", encoding="utf-8")
        self._processes = [spare.become(*commands[0], keep)] if spare else [_start(c, keep) for c in commands]
        many = len(commands) > 1
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, f"[algo-{rank + 1}] " if many else ""))
            for rank, process in enumerate(self._processes)
        ]

    def wait(self, seconds: float) -> int:
        """Waits until all have ended; passes SIGINT and SIGTERM on, and ends them after so many seconds.

        Returns:
            0, or 128 and the signal that stopped them, or the exit code of the first that failed.
        """
        ours = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
        signals = (signal.SIGINT, signal.SIGTERM) if ours else ()
        handlers = {number: signal.signal(number, self._pass_on) for number in signals}
        try:
            for reader in self._readers:
                reader.start()
            deadline = time.monotonic() + seconds
            while any(process.poll() is None for process in self._processes):
                now = time.monotonic()
                if now > deadline + GRACE:
                    self._send(signal.SIGKILL)
                elif now > deadline and not self.stopped:
                    self._write(f"stopped: --max-run of {seconds:g} seconds is over\n")
                    self._stop(signal.SIGTERM)
                elif any(process.poll() for process in self._processes):
                    self._send(signal.SIGTERM)  # the others wait for one that has failed
                time.sleep(POLL)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for reader in self._readers:
                reader.join()
            self._log.close()
        codes = [process.returncode for process in self._processes]
        failed = next((code for code in codes if code), 0)
        if failed and self.stopped:
            return 128 + self.stopped  # torchrun says 1
        return failed if failed >= 0 else 128 - failed

    def _read(self, pipe: TextIO, prefix: str) -> None:
        for line in pipe:
            self._write(prefix + line)

    def _write(self, line: str) -> None:
        self._log.write(line)
        self._log.flush()
        if not self._quiet:
            sys.stderr.write(line)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        self.stopped = number
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def _start(command: Command, keep: int) -> subprocess.Popen[str]:
    words, folder, environment = command
    return subprocess.Popen(words, cwd=folder, env=environment, pass_fds=(keep,), **LISTENED_TO)


def free_port() -> int:
    """A port of the loopback device that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """SIGTERM when the launcher is killed: the training saves and ends, and does not go on unseen (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # killed already
            os.kill(os.getpid(), signal.SIGTERM)


LISTENED_TO: dict[str, Any] = {  # how Popen starts a process whose output we read and whose end is ours
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
    "encoding": "utf-8",
    "errors": "replace",
    "start_new_session": True,  # Ctrl-C reaches it once, through us
    "preexec_fn": _die_with_parent,
}
