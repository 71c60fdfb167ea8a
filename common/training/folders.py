"""Where runs lie: the name of a new one, and the one that `--resume` means."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from common.errors import UserError


def new_folder(out: Path, example: str, tag: str) -> Path:
    """A folder name for a new run, `<out>/<example>/<time>-<tag>`; nothing is created yet.

    Raises:
        UserError: the place cannot be written.
    """
    parent = out / example
    check_writable(parent)
    return parent / f"{datetime.now():%Y%m%d-%H%M%S}-{tag}"


def check_writable(folder: Path) -> None:
    """Raises UserError if a folder (or the nearest one above it that exists) cannot be written; creates nothing."""
    place = folder
    while not place.exists() and place.parent != place:
        place = place.parent
    hint = "Choose a place that can be written with --out."
    if not place.is_dir():
        raise UserError(f"Can't write {folder}: {place} is a file.", hint)
    # access() tells of permissions and of read-only file systems.
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"Can't write {folder}: no permission, or a read-only file system.", hint)


def find_group(path: str, out: Path, example: str) -> Path | None:
    """The same for `--seeds`: a named group of runs, or the newest of the example under `out`.

    Returns:
        None where "latest" is asked for and there is none.
    """
    if path != "latest":
        if not list(Path(path).glob("seed-*")):
            raise UserError(f"--resume {path}: there are no runs of --seeds there.")
        return Path(path)
    groups = sorted((out / example).glob("*-seeds"), key=lambda p: p.name)
    return groups[-1] if groups else None


def find_run(path: str, out: Path, example: str) -> Path | None:
    """The folder that `--resume` means: a named one, or the newest run of the example under `out`.

    Returns:
        None where "latest" is asked for and there is none.
    """
    if path != "latest":
        folder = Path(path)
        if not (folder / "config.json").exists():
            raise UserError(f"--resume {path}: there is no run there (no config.json).")
        return folder
    runs = sorted((out / example).glob("*/config.json"), key=lambda p: (p.stat().st_mtime_ns, p.parent.name))
    return runs[-1].parent if runs else None
