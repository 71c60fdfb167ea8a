"""Files that are complete or absent: write beside, flush to the disk, rename."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import UserError


def located(path: str, data_dir: Path | None) -> Path:
    """A path of the user: under `data_dir` where it is there, else as it stands."""
    inside = data_dir.expanduser() / path if data_dir is not None else None
    return inside if inside is not None and inside.exists() else Path(path).expanduser()


# What the operating system says when a place, not the program, is at fault.
_REASONS = {
    errno.ENOSPC: ("the disk is full", "Free some space, or choose another place with --out."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose another place with --out."),
    errno.EROFS: ("the file system is read-only", "Choose a place that can be written with --out."),
    errno.EACCES: ("permission denied", "Choose a place that can be written with --out."),
    errno.EPERM: ("permission denied", "Choose a place that can be written with --out."),
    errno.ENOTDIR: ("a file is where a folder should be", "Choose another place with --out."),
    errno.EEXIST: ("a file is where a folder should be", "Choose another place with --out."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter one with --out."),
    errno.EFBIG: ("the file would be larger than allowed", "Choose another place with --out."),
}


@contextmanager
def explain_write_errors(path: Path, remedy: str | None = None) -> Iterator[None]:
    """Turns a full, read-only or forbidden place into a UserError that names it.

    Args:
        remedy: the hint, where the command has no --out.
    """
    try:
        yield
    except OSError as error:
        default = (error.strerror or str(error), "Choose another place with --out.")
        reason, hint = _REASONS.get(error.errno or 0, default)
        raise UserError(f"Can't write {path}: {reason}.", remedy or hint) from error


@contextmanager
def write_whole(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` that takes its name once everything is on the disk.

    A crash, a kill or a full disk at any moment leaves the old `path` (or none) and never half a file.

    Args:
        sync: wait for the disk, so that a power cut can't undo it; where thousands are written that can be made
            again, that is most of the time.

    Raises:
        UserError: the place is full, read-only or forbidden.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes 0600; results are for others to read
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if sync:
            _sync_folder(path.parent)


def sweep(*folders: Path) -> None:
    """Removes what `write_whole` left in these folders when its process was killed; nobody may be writing there."""
    for folder in folders:
        with suppress(OSError):
            for path in folder.glob(".*.????????.tmp"):  # as mkstemp makes its names
                if path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    with write_whole(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def inside(folder: Path, name: str) -> Path:
    """The file of a name that was read from somewhere, in a folder and nowhere else.

    Raises:
        UserError: the name leads elsewhere, or is none.
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\:\0"):
        raise UserError(f"{folder} names the file {name!r}, which is not the plain name of a file in it.")
    return folder / name


def check_links(folder: Path) -> None:
    """Raises UserError where a folder from somebody holds a link that leads out of it, or what is no file at all.

    What is copied, packed or read from such a folder would otherwise be any file of this machine.
    """
    root = os.path.realpath(folder)
    for path in folder.rglob("*"):
        # realpath, unlike resolve, takes links that go in circles.
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise UserError(f"{path} is a link that leads out of its folder.", "Put the file itself there.")
        if not (path.is_file() or path.is_dir() or path.is_symlink()):
            raise UserError(f"{path} is neither a file nor a folder.", "Remove it.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; Windows cannot open a folder and needs no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
