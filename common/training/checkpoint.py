"""Checkpoints on disk: each complete or absent, verified when read, never unpickling code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import write_whole

KEEP = 2  # the newest, and one before it for the case that the newest turns out to be damaged


class Checkpoints:
    """The folder `checkpoints/` of one run: `step-N.pt`, the newest few, and `best.pt`.

    Args:
        folder: created when the first checkpoint is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes `step-N.pt` whole and removes the oldest ones.

        Raises:
            UserError: no space or no permission; checkpoints saved before stay as they are.
        """
        path = self.folder / f"step-{step}.pt"
        _save(path, state)
        for old in self.steps()[:-KEEP]:
            (self.folder / f"step-{old}.pt").unlink(missing_ok=True)
        return path

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        names = (p.stem.removeprefix("step-") for p in self.folder.glob("step-*.pt"))
        return sorted(int(n) for n in names if n.isdigit())

    def latest(self) -> tuple[int, dict[str, Any] | None, list[str]]:
        """The newest checkpoint that is whole.

        Returns:
            its step and state, or 0 and None where there is none, and a line for each damaged one passed over.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            path = self.folder / f"step-{step}.pt"
            try:
                return step, read(path), damaged
            except UserError as error:
                damaged.append(error.what)
        return 0, None, damaged

    def save_best(self, state: dict[str, Any]) -> None:
        """Writes `best.pt`, the weights of the best validation so far."""
        _save(self.folder / "best.pt", state)

    def load_best(self) -> dict[str, Any]:
        """Reads `best.pt`."""
        return read(self.folder / "best.pt")


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint after checking the CRC of every record; loads tensors and plain values only.

    Raises:
        UserError: the file is missing, torn, changed, or holds anything but tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()  # torch.load does not check; a flipped bit would load as a wrong weight
        if bad is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except Exception as error:  # damage shows in many ways: bad zip, short read, foreign pickle, decoding
        raise UserError(f"The checkpoint {path} is damaged ({type(error).__name__}).") from error
    raise UserError(f"The checkpoint {path} is damaged (checksum of {bad}).")


def _save(path: Path, state: dict[str, Any]) -> None:
    with write_whole(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what PyTorch's zip writer makes of a full disk, closing the archive
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
