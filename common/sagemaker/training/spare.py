"""A Python that loads torch while its launcher still checks the arguments, and then becomes the training.

The launcher needs torch itself, for the example's Config; side by side the two cost the time of one. Run as a
script, this file has the standard library alone: the training takes our code from its staged source.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any


class Spare:
    """The process, for the length of a `with` block; ended there if nothing was made of it.

    Args:
        start: options of Popen.

    Attributes:
        process: the training, once `become` was called.
    """

    def __init__(self, **start: Any) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(words, pass_fds=(theirs.fileno(),), **start)
        self._waits = True

    def __enter__(self) -> Spare:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ours.close()
        if self._waits:
            self.process.kill()
            self.process.communicate()

    def become(self, words: list[str], folder: Path, environment: dict[str, str], keep: int) -> subprocess.Popen[str]:
        """Starts a script in the process.

        Args:
            words: Python, the script in the folder, and its arguments.
            keep: a file descriptor that the process holds until it ends.
        """
        self._waits = False
        try:
            socket.send_fds(self._ours, [b"!"], [keep])
            self._ours.sendall(json.dumps([words[1:], str(folder), environment]).encode())
        except ConnectionError:  # torch can't be loaded; the process has said why, and its exit code tells
            pass
        self._ours.close()
        return self.process


def main() -> None:
    """Loads torch, waits for its orders, and runs the script as Python itself would have started it."""
    sys.path.pop(0)  # this folder
    import torch  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as launcher:
        _, kept, *_ = socket.recv_fds(launcher, 1, 1)
        if not kept:  # the launcher has ended
            return
        words, folder, environment = json.loads(launcher.makefile(encoding="utf-8").read())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    extra = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.argv, sys.path[:0] = words, [folder, *extra]
    for hook in (Path(place, "sitecustomize.py") for place in extra):
        if hook.exists():
            runpy.run_path(str(hook))
    runpy.run_path(str(Path(folder, words[0])), run_name="__main__")


if __name__ == "__main__":
    main()
