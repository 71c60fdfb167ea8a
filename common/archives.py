"""Archives from elsewhere: a .tar.gz unpacked under limits, files and folders only, all of it or nothing."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from common.errors import UserError

MOST_FILES = 10_000
MOST_BYTES = 16 * 2**30  # unpacked
MOST_EXPANSION = 100  # times the archive's size; weights shrink by a tenth, a text to a fifth
SMALL = 64 * 2**20  # bytes that any archive may have unpacked, however well it is compressed
AT_ONCE = 2**20  # bytes of one read; what asks for more is the header of an entry, which has no need of it


class _Bounded(gzip.GzipFile):
    """A gzip file that is never read further than to its limit; tarfile itself has none, not even for headers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.limit = min(MOST_BYTES, max(SMALL, MOST_EXPANSION * path.stat().st_size))

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= AT_ONCE:
            raise tarfile.ReadError("a header is too large")
        content = super().read(size)
        self.check()
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self.check(offset)
        return super().seek(offset, whence)

    def check(self, position: int | None = None) -> None:
        if (self.tell() if position is None else position) > self.limit:
            raise tarfile.ReadError(f"it has more than {self.limit / 2**20:,.0f} MB unpacked")


@contextmanager
def opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """A .tar.gz to read from within limits; whatever is wrong with it, also inside the block, is a UserError."""
    try:
        with _Bounded(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield tar
    except FileNotFoundError:
        raise UserError(f"There is no file {archive}.") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise UserError(f"Can't unpack {archive}: {str(error).rstrip('.') or type(error).__name__}.") from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz into a folder, which is made if need be.

    Raises:
        UserError: it is damaged, too large, or holds anything but files and folders of that folder. Nothing is left
            of it then.
    """
    made: list[Path] = []
    try:
        with opened(archive) as tar:
            entries = [(member, _place(member, folder)) for member in _checked(tar)]
            made += [] if folder.exists() else [folder]
            folder.mkdir(parents=True, exist_ok=True)
            for member, path in entries:
                made += [path] if not path.exists() else []
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # it is a plain file
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file, AT_ONCE)
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _checked(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """All entries, after the whole archive was read once: what is wrong with it is found before anything is written."""
    found = []
    for member in tar:
        if not (member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) and not member.issparse()):
            raise tarfile.ReadError(f"{member.name[:100]!r} is neither a file nor a folder")
        found.append(member)
        if len(found) > MOST_FILES:
            raise tarfile.ReadError(f"it has more than {MOST_FILES:,} files")
    while tar.fileobj is not None and tar.fileobj.read(AT_ONCE):  # to the checksum at its end
        pass
    return found


def _place(member: tarfile.TarInfo, folder: Path) -> Path:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or any(sign in member.name for sign in "\\:\0"):
        raise tarfile.ReadError(f"{member.name[:100]!r} would lie outside the folder")
    if len(os.fsencode(str(name))) > 1000:
        raise tarfile.ReadError("a name in it is too long")
    return folder / name
