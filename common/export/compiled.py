"""Compiling by AOTInductor: says that it is at work, and keeps what was compiled for the next time."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from common.errors import UserError
from common.files import write_whole
from common.machine import device

CONFIG = {"freezing": True}  # lets the compiler lay the weights out as its kernels want them
SAY_EVERY = 15.0  # seconds
KEPT = 20  # packages; the oldest give way


def cache_folder() -> Path:
    """Where this user's programs keep what they can make again, of this project."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pytorch-use-cases"


def package(program: ExportedProgram) -> bytes:
    """The package of a program, compiled for this CPU, or as it was compiled before for the same weights."""
    place: Path | None = None
    with suppress(OSError, RuntimeError):  # a place that can't be written or a user without a home: nothing is kept
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))  # headers compile once, not per boot
        place = folder / f"{key(program)}.pt2"
        if _is_whole(place):
            _say(f"compile    taken from {place}: this network was compiled before")
            place.touch()
            return place.read_bytes()
    with said("compile    AOTInductor writes and compiles C++ for this CPU, which may take a minute or more"):
        content = _compile(program)
    if place is not None:
        with suppress(OSError, UserError):
            _keep(place, content)
    return content


def key(program: ExportedProgram) -> str:
    """A name for all that the package depends on: graph, weights, compilers, CPU and number of threads."""
    about = (
        str(program),
        torch.__version__,
        device.describe(torch.device("cpu")),
        torch.backends.cpu.get_cpu_capability(),
        os.environ.get("CXX", ""),
        CONFIG,
    )
    digest = hashlib.sha256(repr(about).encode())
    for name, value in sorted({**program.state_dict, **program.constants}.items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(f"{value.dtype}{tuple(value.shape)}{value.stride()}".encode())
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def _compile(program: ExportedProgram) -> bytes:
    from torch._inductor import aoti_compile_and_package

    buffer: Any = io.BytesIO()
    aoti_compile_and_package(program, package_path=buffer, inductor_configs=dict(CONFIG))
    content: bytes = buffer.getvalue()
    return content


def _is_whole(place: Path) -> bool:
    """Whether a package is there and undamaged."""
    try:
        with zipfile.ZipFile(place) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _keep(place: Path, content: bytes) -> None:
    with write_whole(place) as file:
        file.write(content)
    for old in sorted(place.parent.glob("*.pt2"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


@contextmanager
def said(text: str) -> Iterator[None]:
    """Says what a block does when it begins, then every SAY_EVERY seconds that it is still at work, and its seconds."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(SAY_EVERY):
            _say(f"compile    still at work after {time.monotonic() - began:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    _say(text)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
    _say(f"compile    done in {time.monotonic() - began:.0f} s")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
