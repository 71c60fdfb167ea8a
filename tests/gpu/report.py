"""What `make gpu` found, as a table and as a JSON file."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from common.files import write_json
from common.machine import device
from tests import results
from tests.gpu.parts import Done
from tests.results import Benchmark, Figure, Row

TITLES = {
    "mnist": "MNIST on a GPU",
    "small": "fit of a small network on a GPU",
    "resnet": "fit of ResNet-50 on a GPU",
    "dqn": "CartPole on a GPU",
    "peer": "pytorch/examples on a GPU",
    "gan": "GAN on a GPU",
    "gpt": "GPT on a GPU",
    "aoti": "AOTInductor on a GPU",
}


def collect(done: Sequence[Done], where: str, seconds: float) -> dict[str, Any]:
    """All of it as JSON-able values."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "device": device.describe(torch.device(where)),
        "cpu": device.describe(torch.device("cpu")),
        "load": os.getloadavg()[0],
        "cuda": torch.version.cuda,
        "versions": results.versions(),
        "seconds": round(seconds, 1),
        "parts": [
            {
                "part": one.part.name,
                "command": shlex.join(["python", "-m", *one.part.command]),
                "status": one.status,
                "reason": one.reason,
                "seconds": round(one.seconds, 1),
                "checks": [line for line in one.lines if "check" in line],
                "figures": [line for line in one.lines if "figure" in line],
            }
            for one in done
        ],
    }


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes the JSON file; numbers that are none as text, which JSON has no other way to say."""
    for part in found["parts"]:
        for line in part["figures"]:
            if not -float("inf") < line["value"] < float("inf"):
                line["value"] = str(line["value"])
    write_json(path, found)


def record(found: dict[str, Any], folder: Path) -> None:
    """Writes FOLDER/gpu-PART.json for each part that measured something: what docs/results.md is made of."""
    folder.mkdir(parents=True, exist_ok=True)
    cuda = {"cuda": found["cuda"]} if found["cuda"] else {}
    for part in found["parts"]:
        if not part["figures"]:
            continue
        made = Benchmark(
            "On a GPU",
            TITLES.get(part["part"], part["part"]),
            f'make gpu GPU="--only {part["part"]}"',
            found["date"].split()[0],
            f"{found['device']}, {found['cpu']}",
            {**found["versions"], **cuda},
            f"load average {found['load']:.1f}",
            rows(part["figures"], "peer" if part["part"] == "peer" else "ours"),
        )
        results.write(folder / f"gpu-{part['part']}.json", made)


def rows(lines: Sequence[dict[str, Any]], by: Literal["ours", "peer"]) -> list[Row]:
    """A row for all figures that a part measured of one thing: their names are "THING: FIGURE"."""
    things: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        things.setdefault(line["figure"].partition(": ")[0], []).append(line)
    made = []
    for thing, own in things.items():
        figures = {}
        for line in own:
            value = line["value"] if isinstance(line["value"], int | float) else None  # what is no number is text
            name = line["figure"].partition(": ")[2] or "value"
            figures[name] = Figure(value, line["unit"], decimals=None if value is None else decimals(value))
        n = own[0]["n"]
        note = "; ".join(f"{line['figure'].partition(': ')[2]} {line['note']}" for line in own if line["note"])
        statistic: Literal["mean", "median"] = "median" if n > 1 else "mean"
        made.append(Row(thing, figures, by, statistic, n, command=own[0]["command"], note=note))
    return made


def decimals(value: float) -> int:
    """For four digits that count."""
    return max(0, 3 - math.floor(math.log10(abs(value) or 1.0)))


def table(found: dict[str, Any]) -> str:
    """Markdown: the figures, the checks of the examples, and what of both failed or was skipped."""
    torch_version, cuda = found["versions"]["torch"], found["cuda"] or "no CUDA"
    lines = [
        f"{found['device']}; {found['cpu']}; torch {torch_version} ({cuda}), Python {found['versions']['python']}, "
        f"{found['date']}; {found['seconds']:.0f} s in all",
        "",
        "| figure | measured | n | command |",
        "| --- | --- | --- | --- |",
    ]
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
