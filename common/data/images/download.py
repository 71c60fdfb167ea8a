"""Downloads that are whole or not there: staged in a temporary folder, checked, then moved into place."""

from __future__ import annotations

import http.client
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

PATIENCE = 30.0  # seconds without an answer; the system's own default is minutes


@contextmanager
def staging(folder: Path, name: str, files: str, url: str) -> Iterator[Path]:
    """A temporary folder inside `folder`, for a download; gone afterwards, and so is `folder` if it is new and empty.

    Args:
        folder: where the data shall be in the end.
        name: of the data set, for the message.
        files: what was looked for in the folder.
        url: what can be fetched by hand.

    Raises:
        UserError: the block failed to download, unpack or write.
    """
    folder = folder.resolve()
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    patience = socket.getdefaulttimeout()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(PATIENCE)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            yield Path(temporary)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].removeprefix("<urlopen error ")
        raise UserError(
            f"{name} is not in {folder} (looked for {files}), and the download failed: {reason.rstrip('.>')}.",
            f"Fetch {url} into that folder by hand, or point --data-dir at the folder that has the files.",
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
        for parent in made:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()


def fetch_archive(folder: Path, url: str, md5: str, member: str) -> Path:
    """The top folder `member` of an archive, unpacked into `folder`; the archive is downloaded unless it lies there.

    Raises:
        UserError: it could not be downloaded, has another checksum, or could not be written.
    """
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    name = url.rsplit("/", 1)[1]
    with staging(folder, member, f"that folder or {name}", url) as temporary:
        archive = folder / name
        if not check_integrity(archive, md5):
            download_url(url, temporary, name, md5)
            archive = temporary / name
        extract_archive(archive, temporary / "unpacked")  # filters out members that would leave the folder
        (temporary / "unpacked" / member).replace(folder / member)
    return folder / member


def move_files(source: Path, target: Path) -> None:
    """Move every file of a folder, each whole or not at all; both must be on one file system."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        file.replace(target / file.name)
