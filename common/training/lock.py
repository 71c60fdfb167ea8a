"""One process at a time in a folder: a lock that the kernel gives back when its holder ends, however it ends."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from common.machine import distributed

NAME = ".lock"  # in the folder, for as long as it is held
_FAR = 2**30  # the byte that Windows locks; what is before it stays readable for others


class Held:
    """A folder's lock, or nothing where the file system has no locks or can't be written."""

    def __init__(self, folder: Path, descriptor: int | None) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @property
    def real(self) -> bool:
        """Whether no other process can be at work in the folder."""
        return self._descriptor is not None

    def release(self) -> None:
        """Gives the folder to the next; a second call does nothing."""
        if self._descriptor is None:
            return
        with suppress(OSError):  # on Windows an open file can't be removed, and stays
            (self.folder / NAME).unlink(missing_ok=True)  # while it is held, so that it is no other's
        _unlock(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None


def take_for_all(folder: Path) -> Held:
    """`take` by rank 0 for every process of a training; all of them hear of it where it fails."""
    held, refusal = Held(folder, None), None
    if distributed.rank() == 0:
        try:
            held = take(folder)
        except UserError as error:
            refusal = error
    refusal = distributed.share(refusal)
    if refusal is not None:
        raise refusal
    return held


def take(folder: Path) -> Held:
    """Takes the lock of a folder that exists.

    Raises:
        UserError: another process has it.
    """
    path = folder / NAME
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError:  # what can't be written can't be trained either, and that is said elsewhere
            return Held(folder, None)
        try:
            _lock(descriptor)
        except BlockingIOError:
            raise UserError(f"{folder} is being trained by another process{_holder(descriptor)}.") from None
        except OSError:  # NFS without locks
            os.close(descriptor)
            return Held(folder, None)
        if _same(descriptor, path):
            break
        os.close(descriptor)  # its last holder removed the file when we had it open already
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" (pid {os.getpid()} on {socket.gethostname()})".encode())
    return Held(folder, descriptor)


def _lock(descriptor: int) -> None:
    """BlockingIOError where another process has it, another OSError where there are no locks."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    """At once: a process that was forked, such as an environment's, has the same open file and may end later."""
    with suppress(OSError):
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _holder(descriptor: int) -> str:
    """What the holder wrote of itself; "" if it has not yet."""
    try:
        return os.read(descriptor, 300).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
