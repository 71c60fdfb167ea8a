"""Prints constraints.txt: one version per package, resolved today for Python 3.10 and for 3.11 and later.

Packages that torch pins itself (CUDA, Triton) are left out, so that the same file serves CPU and ROCm wheels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD = """\
# The tested set of versions, used by make; refreshed by `make lock`. The ranges in pyproject.toml are wider.
"""
OWN = ("nvidia-", "cuda-", "triton", "pytorch-use-cases")


def resolve(python: str) -> dict[str, str]:
    """What pip would install for `.[dev]` under that Python, by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:", "--target", folder]
        target = ["--python-version", python, "--report", str(report), ".[dev]"]
        command = [sys.executable, "-m", "pip", "install", *options, *target]
        subprocess.run(command, check=True)
        installed = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {p["name"].lower(): p["version"] for p in installed if not p["name"].lower().startswith(OWN)}


old, new = resolve("3.10"), resolve("3.11")
lines = []
for name in sorted(old.keys() | new.keys()):
    if old.get(name) == new.get(name):
        lines.append(f"{name}=={new[name]}")
        continue
    if name in old:
        lines.append(f"{name}=={old[name]} ; python_version < '3.11'")
    if name in new:
        lines.append(f"{name}=={new[name]} ; python_version >= '3.11'")
print(HEAD + "\n".join(lines))  # noqa: T201
