"""What several tests need: running a command as a user would, and comparing runs bit by bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from common.sagemaker.training.processes import free_port
from tests.warm import ROOT, Process


def python(*arguments: str | Path, cwd: Path | None = None, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` in a fresh process, with the repository importable from any folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd or ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def torchrun(processes: int, *arguments: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs `torchrun --nproc-per-node N ARGUMENTS`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return python(*launcher, *arguments, timeout=timeout)


def warm(*arguments: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """The same as `python`, but in a process that finds torch imported."""
    return Process(arguments, ROOT, environment()).wait(timeout)


def ranks(processes: int, *arguments: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """What torchrun starts, without torchrun's own process, and warm. Output is that of the first."""
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    group |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(processes):
        own = {**environment(), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(Process(arguments, ROOT, own))
    try:
        ended = [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    ended[0].returncode = max(process.returncode for process in ended)
    return ended[0]


def environment() -> dict[str, str]:
    """For a process that finds this project's modules, from wherever it is started."""
    more = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [more])]), "COLUMNS": "100"}


def result(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of stdout of a process that succeeded."""
    assert process.returncode == 0, process.stderr
    value: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return value


def mistake(process: subprocess.CompletedProcess[str]) -> str:
    """The error text of a process that ended as a mistake of the user should: exit 2, at most 3 lines, no traceback."""
    assert process.returncode == 2, (process.returncode, process.stdout, process.stderr)
    assert "Traceback" not in process.stderr, process.stderr
    text = process.stderr[process.stderr.index("error: ") :].strip()
    assert len(text.splitlines()) <= 2, text
    return text


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a finished run's artifact."""
    from safetensors.torch import load_file

    return load_file(run / "model" / "model.safetensors")


def last_checkpoint(run: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    newest = max((run / "checkpoints").glob("step-*.pt"), key=lambda p: int(p.stem.removeprefix("step-")))
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    return state


def same(left: Any, right: Any) -> bool:
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def only_run(out: Path, example: str) -> Path:
    """The one run of an example under a folder."""
    (run,) = (out / example).iterdir()
    return run
