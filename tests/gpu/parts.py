"""Parts of `make gpu`: each a process that is stopped when its time is up, so that none takes the others' time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.machine.device import cores
from tests.helpers import ROOT, environment

LEAST = 8.0  # seconds; with less left a part is not begun: importing torch takes as long


@dataclass(frozen=True)
class Part:
    """A module that prints the lines of `say`.

    Attributes:
        command: the module and its arguments.
        seconds: after which it is stopped.
        alone: whether nothing else may run meanwhile, as while times are taken.
    """

    name: str
    command: Sequence[str]
    seconds: float
    alone: bool = True


@dataclass
class Done:
    """A part that ended, or was stopped or never begun; `status` is "ok", "failed" or "skipped"."""

    part: Part
    status: str
    reason: str
    seconds: float
    lines: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    began: float
    until: float
    files: tuple[Path, Path]


def perform(parts: Sequence[Part], out: Path, end: float, at_once: int) -> list[Done]:
    """Runs parts in their order, some at once, and none after `end` by the monotonic clock."""
    waiting, running, done = list(parts), list[_Running](), list[Done]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                part, now = waiting.pop(0), time.monotonic()
                if end - now < LEAST:
                    done.append(Done(part, "skipped", "no time was left", 0.0))
                    continue
                sys.stderr.write(f"{part.name} …\n")
                running.append(_start(part, out, now, min(now + part.seconds, end), max(1, cores() // at_once)))
            for one in [one for one in running if one.process.poll() is not None or time.monotonic() > one.until]:
                running.remove(one)
                done.append(_end(one))
                last = done[-1]
                sys.stderr.write(f"{one.part.name}: {last.status} {last.reason} ({last.seconds:.0f} s)\n")
            time.sleep(0.05)
    finally:
        for one in running:  # Ctrl-C
            _kill(one.process)
    order = {part.name: number for number, part in enumerate(parts)}
    return sorted(done, key=lambda one: order[one.part.name])


def _start(part: Part, out: Path, now: float, until: float, threads: int) -> _Running:
    name = part.name.replace(" ", "-")
    files = (out / f"{name}.jsonl", out / f"{name}.log")
    with files[0].open("wb") as stdout, files[1].open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", *part.command],
            cwd=ROOT,
            env=environment() | {"OMP_NUM_THREADS": str(threads)},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # so that what it has started can be stopped with it
        )
    return _Running(part, process, now, until, files)


def _end(one: _Running) -> Done:
    overran = one.process.poll() is None
    _kill(one.process)
    code = one.process.wait()
    seconds = time.monotonic() - one.began
    lines = _lines(one.files[0])
    checks = [line for line in lines if "check" in line]
    failed = [f"{line['check']}: {line['note']}" for line in checks if line["status"] == "failed"]
    skipped = [line["note"] for line in checks if line["status"] == "skipped"]
    if overran:
        return Done(one.part, "failed", f"stopped after {seconds:.0f} s: its time was up", seconds, lines)
    if failed or code:
        said = one.files[1].read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = "; ".join(failed) or f"exit code {code}: {said[-1] if said else 'nothing was said'}"
        return Done(one.part, "failed", reason, seconds, lines)
    if checks and len(skipped) == len(checks):
        return Done(one.part, "skipped", "; ".join(skipped), seconds, lines)
    return Done(one.part, "ok", "", seconds, lines)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a part and all that it has started and left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _lines(file: Path) -> list[dict[str, Any]]:
    """What a part said, without what others printed and a last line that was cut off."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            value = json.loads(line)
            if isinstance(value, dict) and value.keys() & {"check", "figure"}:
                found.append(value)
    return found
