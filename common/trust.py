"""Whether a file that can run code may be loaded: this machine wrote it itself, or its user says so.

`common.export` keeps the SHA-256 of what it writes, a line each, in the user's state folder. What a command was told
by --trust-export, and what a launcher has found out for the server that it starts, stands in the environment.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from common.errors import UserError

VARIABLE = "PTUC_TRUST_EXPORT"
ANY = "any"  # value of VARIABLE; else SHA-256 digests with commas between them
Flag = Annotated[
    bool,
    typer.Option("--trust-export", help="load exported code that was not made on this machine", show_default=False),
]

_written: set[str] = set()  # by this process, also where the state folder can't be written


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            sha.update(piece)
    return sha.hexdigest()


def remember(path: Path) -> None:
    """Keeps that this machine wrote a file; a state folder that can't be written costs only that."""
    _written.add(digest(path))
    with suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        place = _place()
        new = sorted(_written - _kept())
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with place.open("a", encoding="ascii") as file:
            file.write("".join(f"{line}\n" for line in new))


def allow(everything: bool) -> None:
    """Takes the flag --trust-export: with it this process and those that it starts load any export."""
    if everything:
        os.environ[VARIABLE] = ANY


def allows_everything() -> bool:
    """Whether --trust-export was given to this process, or to the one that started it."""
    return os.environ.get(VARIABLE) == ANY


def check(path: Path) -> str:
    """The digest of a file that can run code, if it may be loaded.

    Raises:
        UserError: it was not written on this machine, and nobody says that it can be trusted.
    """
    try:
        found = digest(path)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    if allows_everything() or found in _written or found in os.environ.get(VARIABLE, "").split(",") or found in _kept():
        return found
    raise UserError(
        f"{path} can run code when it is loaded, and was not exported on this machine.",
        "If you trust whoever made it, add --trust-export; an export --to onnx needs no trust.",
    )


def _kept() -> set[str]:
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        return set(_place().read_text(encoding="ascii").split())
    return set()


def _place() -> Path:
    """The file of digests in the folder where the system keeps what programs note for a user."""
    given = os.environ.get("XDG_STATE_HOME", "")
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser())
    elif sys.platform == "darwin" and not given:
        root = Path("~/Library/Application Support").expanduser()
    else:  # a relative path is to be ignored, by the XDG base directory specification
        root = Path(given) if Path(given).is_absolute() else Path("~/.local/state").expanduser()
    return root / "pytorch-use-cases" / "exports.sha256"
