"""Pictures, archives and a server for the tests of image sources."""

from __future__ import annotations

import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from common.data.images.sources import load_images
from common.data.images.splits import ImageData, Images
from common.errors import UserError

NOWHERE = "http://127.0.0.1:9/"  # nothing listens there: what being offline is like


def numbered(count: int, *shape: int) -> np.ndarray[Any, Any]:
    """uint8 images each of which differs from all others, so that splits can be compared."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    rows = pixels.reshape(count, int(np.prod(shape)))
    rows[:, 0], rows[:, 1] = np.arange(count) % 256, np.arange(count) // 256
    return pixels


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else b"" for p in path.rglob("*")}


def pictures(data: ImageData) -> list[set[bytes]]:
    return [
        {bytes(split[i].flatten().tolist()) for i in range(len(split))} for split in (data.train, data.valid, data.test)
    ]


def assert_disjoint(parts: list[set[Any]]) -> None:
    assert len(set.union(*parts)) == sum(map(len, parts))


def counts(data: ImageData) -> list[list[int]]:
    splits = (data.train, data.valid, data.test)
    return [split.targets.bincount(minlength=len(data.classes)).tolist() for split in splits]


def refused(name: str, match: str, **options: Any) -> None:
    """`name` gives one line that matches, and a hint where `match` goes on after a line break."""
    with pytest.raises(UserError, match=match) as caught:
        load_images(name, **options)
    assert "\n" not in caught.value.what


def in_memory(split: Images) -> Tensor:
    pixels = split.in_memory()
    assert pixels is not None
    return pixels


def picture(number: int, size: tuple[int, int] = (20, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8))


def tgz(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Server:
    """Serves `folder` at `address` until closed."""

    def __init__(self, folder: Path) -> None:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

        self.folder = folder
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        self.address = f"http://127.0.0.1:{self._http.server_port}/"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
