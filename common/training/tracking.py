"""What a run says while it runs: JSON lines, TensorBoard, and progress on the terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from common.files import explain_write_errors, write_whole
from common.machine import device


class Tracker:
    """Writes `metrics.jsonl` and TensorBoard events of one run.

    Args:
        folder: the run's folder; None writes nothing (ranks other than 0).
        step: where a resumed run goes on: lines of later steps, left by the process that was killed, are dropped.
        clock: seconds of training already spent, so that wall time goes on after a resume.
    """

    def __init__(self, folder: Path | None, step: int = 0, clock: float = 0.0) -> None:
        self._started = time.monotonic() - clock
        self._file: TextIO | None = None
        self._board: Any = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        with explain_write_errors(path):
            _drop_after(path, step)
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder), purge_step=step + 1)

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without the time it lay still between a kill and a resume."""
        return time.monotonic() - self._started

    def scalars(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One line of `metrics.jsonl` and one point per value in TensorBoard."""
        if self._file is None:
            return
        line = {"step": step, "epoch": epoch, "seconds": round(self.seconds, 3), **values}
        with explain_write_errors(Path(self._file.name)):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, name: str, pixels: Tensor | Any, step: int) -> None:
        """An image for TensorBoard: uint8, [C, H, W] as a tensor or [H, W, C] as an array."""
        if self._board is not None:
            layout = "CHW" if isinstance(pixels, Tensor) else "HWC"
            self._board.add_image(name, pixels, step, dataformats=layout)

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file is not None:
            self._file.close()
            self._board.close()
            self._file = None


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, in order; a torn last line, left by a kill, is passed over."""
    path = folder / "metrics.jsonl"
    history = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            history.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return history


def _drop_after(path: Path, step: int) -> None:
    if path.exists():
        kept = [line for line in read_history(path.parent) if line["step"] <= step]
        with write_whole(path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())


class Window:
    """Scalars of the last steps, summed up without making the device wait at each of them.

    Values stay on the device as they are until `fetch` brings all of them at once.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor | float]] = {}

    def add(self, values: dict[str, Tensor | float]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def fetch(self) -> dict[str, list[float]]:
        """All values as floats; one wait for the device, for those that were not fetched before."""
        waiting = [v for values in self._values.values() for v in values if isinstance(v, Tensor)]
        if waiting:
            fetched = iter(torch.stack([v.float() for v in waiting]).tolist())
            for values in self._values.values():
                values[:] = [next(fetched) if isinstance(v, Tensor) else v for v in values]
        return self._values  # type: ignore[return-value]

    def load(self, values: dict[str, list[float]]) -> None:
        self._values = {name: list(v) for name, v in values.items()}

    def clear(self) -> None:
        self._values = {}

    def take(self) -> Taken:
        """Empties the window. What was in it sets out for the CPU now and is waited for later."""
        taken = Taken(self._values)
        self.clear()
        return taken


class Taken:
    """Scalars on their way to the CPU: they wait for what the device was given before, not for what it gets since."""

    def __init__(self, values: dict[str, list[Tensor | float]]) -> None:
        self._values = values
        waiting = [v.float() for series in values.values() for v in series if isinstance(v, Tensor)]
        self._fetched = device.leave_for_cpu(torch.stack(waiting)) if waiting else None

    def values(self) -> dict[str, list[float]]:
        """All as floats."""
        fetched = iter(self._fetched().tolist() if self._fetched is not None else [])
        return {
            name: [next(fetched) if isinstance(v, Tensor) else v for v in series]
            for name, series in self._values.items()
        }


class Progress:
    """A bar with rate and time left on a terminal, plain lines elsewhere; on stderr, so that stdout stays clean.

    Args:
        quiet: say nothing at all.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._shown = 0.0

    def start(self, total: int, done: int) -> None:
        """Shows the bar for `total` steps of which `done` are behind us."""
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("", total=total, completed=done, epoch="–", rate="", text="")
        self._begin = (time.monotonic(), done)
        self._bar.start()

    def update(self, step: int, epoch: int) -> None:
        """Moves the bar; cheap enough for every step."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown > 0.2:
            self._shown = now
            rate = (step - self._begin[1]) / max(now - self._begin[0], 1e-9)
            self._bar.update(self._task, completed=step, epoch=epoch, rate=f"{rate:.1f}/s")

    def note(self, text: str) -> None:
        """The newest figures, behind the bar."""
        if self._bar is not None:
            self._bar.update(self._task, text=text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def stop(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
