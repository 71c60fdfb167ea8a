"""What a reader needs to repeat a run: command, commit, versions, hardware."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.machine import device, distributed


def facts(where: torch.device, why: str, plan: device.Plan | None) -> dict[str, Any]:
    """All of it as JSON-able values.

    Args:
        where, why: the device, and why it was chosen.
        plan: number format and memory layout.
    """
    packages = ["torch", "torchvision", "numpy"]
    packages += [name for name in ("gymnasium", "tokenizers", "transformers") if name in sys.modules]
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "device": str(where),
        "device_name": device.describe(where),
        "device_why": why,
        "threads": torch.get_num_threads(),
        "processes": distributed.world(),
        "plan": vars(plan) if plan else None,
    }


def _git_commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
