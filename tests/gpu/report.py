"""What `make gpu` found, as a table and as a JSON file."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from common.files import write_json
from common.machine import device
from tests.gpu.parts import Done

PACKAGES = ("torch", "torchvision", "torchaudio", "numpy", "transformers", "gymnasium", "fastapi", "triton")


def collect(done: Sequence[Done], where: str, seconds: float) -> dict[str, Any]:
    """All of it as JSON-able values."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]), "date": time.strftime("%Y-%m-%d %H:%M"),
        "device": device.describe(torch.device(where)), "cpu": device.describe(torch.device("cpu")),
        "load": os.getloadavg()[0], "cuda": torch.version.cuda, "versions": versions(), "seconds": round(seconds, 1),
        "parts": [
            {"part": one.part.name, "command": shlex.join(["python", "-m", *one.part.command]), "status": one.status,
             "reason": one.reason, "seconds": round(one.seconds, 1),
             "checks": [line for line in one.lines if "check" in line],
             "figures": [line for line in one.lines if "figure" in line]}
            for one in done
        ],
    }  # fmt: skip


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes the JSON file; numbers that are none as text, which JSON has no other way to say."""
    for part in found["parts"]:
        for line in part["figures"]:
            if not -float("inf") < line["value"] < float("inf"):
                line["value"] = str(line["value"])
    write_json(path, found)


def table(found: dict[str, Any]) -> str:
    """Markdown: the figures, the checks of the examples, and what of both failed or was skipped."""
    torch_version, cuda = found["versions"]["torch"], found["cuda"] or "no CUDA"
    lines = [
        f"{found['device']}; {found['cpu']}; torch {torch_version} ({cuda}), Python {found['versions']['python']}, "
        f"{found['date']}; {found['seconds']:.0f} s in all", "",
        "| figure | measured | n | command |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for part in found["parts"]:
        for line in part["figures"]:
            value = line["value"] if isinstance(line["value"], str) else f"{line['value']:,.4g}"
            note = f" ({line['note']})" if line["note"] else ""
            lines.append(f"| {line['figure']} | {value} {line['unit']}{note} | {line['n']} | `{line['command']}` |")
    lines += ["", "| part | check | status | what |", "| --- | --- | --- | --- |"]
    for part in found["parts"]:
        told = [(line["check"], line["status"], line["note"]) for line in part["checks"]]
        if part["status"] != "ok" and not any(status == part["status"] for _, status, _ in told):
            told.append(("–", part["status"], part["reason"]))
        lines += [f"| {part['part']} | {check} | {status} | {_cell(note)} |" for check, status, note in told]
    counts = {s: sum(part["status"] == s for part in found["parts"]) for s in ("ok", "failed", "skipped")}
    lines += ["", ", ".join(f"{count} {status}" for status, count in counts.items())]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
