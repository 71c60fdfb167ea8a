"""A model.tar.gz from anywhere: unpacked whole within limits, or refused in a line with nothing left of it."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from common import archives
from common.errors import UserError
from common.sagemaker.container.staging import pack
from common.sagemaker.hosting import models
from tests.sagemaker_helpers import artifact_of

MEGABYTE = 2**20


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def archive(path: Path, *members: tarfile.TarInfo, content: bytes = b"") -> Path:
    """A .tar.gz with those members, of which files hold the beginning of the content."""
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(content[: info.size]))
    return path


def raw(path: Path, header: tarfile.TarInfo, zeros: int) -> Path:
    """A .tar.gz whose first header is followed by that many zeros, whatever it says."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(zeros // MEGABYTE):
            file.write(bytes(MEGABYTE))
    return path


def refused(path: Path, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        archives.unpack(path, folder)
    assert not folder.exists()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_we_pack_is_unpacked_as_it_was(tmp_path: Path) -> None:
    folder = artifact_of("vision.train", tmp_path / "model")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_bytes(os.urandom(3 * MEGABYTE))
    pack(folder, tmp_path / "model.tar.gz")
    archives.unpack(tmp_path / "model.tar.gz", tmp_path / "again")
    files = [path.relative_to(folder) for path in folder.rglob("*")]
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*")} == set(files)
    assert all(
        (tmp_path / "again" / f).read_bytes() == (folder / f).read_bytes() for f in files if (folder / f).is_file()
    )


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (member("../x"), "outside the folder"),
        (member("/tmp/x"), "outside the folder"),
        (member("a\\..\\x"), "outside the folder"),
        (member("C:x"), "outside the folder"),
        (member("x", tarfile.SYMTYPE, link="/etc/passwd"), "neither a file nor a folder"),
        (member("x", tarfile.SYMTYPE, link="model.json"), "neither a file nor a folder"),
        (member("x", tarfile.LNKTYPE, link="model.json"), "neither a file nor a folder"),
        (member("x", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (member("x", tarfile.CHRTYPE), "neither a file nor a folder"),
        (member("x", tarfile.BLKTYPE), "neither a file nor a folder"),
        (member("x/" * 600 + "x"), "too long"),
        (member("model.json/x"), "File exists"),
    ],
    ids=lambda value: getattr(value, "name", value)[:20],
)
def test_only_files_and_folders_of_the_folder(tmp_path: Path, info: tarfile.TarInfo, text: str) -> None:
    path = archive(tmp_path / "m.tar.gz", member("model.json", size=2), info, content=b"{}")
    assert text in refused(path, tmp_path / "out")


def test_a_bomb_of_zeros_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = raw(tmp_path / "m.tar.gz", member("model.safetensors", size=200 * MEGABYTE), 200 * MEGABYTE)
    assert path.stat().st_size < MEGABYTE
    assert "more than 64 MB unpacked" in refused(path, tmp_path / "out")
    with pytest.raises(UserError, match=r"is no model\.tar\.gz of this project"):
        models.find(str(path))
    many = archive(
        tmp_path / "many.tar.gz", *(member(f"{i}", size=MEGABYTE) for i in range(70)), content=bytes(MEGABYTE)
    )
    assert "more than 64 MB unpacked" in refused(many, tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK])
def test_a_bomb_in_a_header_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    path = raw(tmp_path / "m.tar.gz", member("x", kind, size=60 * MEGABYTE), 60 * MEGABYTE)
    assert "a header is too large" in refused(path, tmp_path / "out")


def test_too_many_files_and_sizes_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 5)
    path = archive(tmp_path / "m.tar.gz", *(member(f"{i}") for i in range(6)))
    assert "more than 5 files" in refused(path, tmp_path / "out")
    refused(raw(tmp_path / "lies.tar.gz", member("x", size=2**40), MEGABYTE), tmp_path / "out")
    refused(raw(tmp_path / "short.tar.gz", member("x", size=2 * MEGABYTE), MEGABYTE), tmp_path / "out")


def test_damaged_archives_leave_nothing_and_spare_what_was_there(tmp_path: Path) -> None:
    good = archive(tmp_path / "m.tar.gz", member("a", size=9), member("b/c", size=100_000), content=os.urandom(100_000))
    whole = good.read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # of the checksum at the very end
    for content in (
        b"",
        b"x" * 99,
        whole[: len(whole) // 2],
        whole[:-9],
        bytes(flipped),
        gzip.compress(b"no tar" * 999),
    ):
        (tmp_path / "d.tar.gz").write_bytes(content)
        refused(tmp_path / "d.tar.gz", tmp_path / "out")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("x")
    (tmp_path / "kept" / "b").write_text("in the way")
    with pytest.raises(UserError):
        archives.unpack(good, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"mine", "b"}
    assert (tmp_path / "kept" / "b").read_text() == "in the way"
