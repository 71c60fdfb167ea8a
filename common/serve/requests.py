"""What every route does with a request: its body, within limits, and the model that it names."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request
from starlette.requests import ClientDisconnect

from common.errors import nearest
from common.serve.formats import Problem
from common.serve.models import ServedModel
from common.serve.settings import MEGABYTE

FREE = 2**16  # bytes of a body that count for nothing


class Intake:
    """Reads the bodies of all requests, and bounds how much of them is held at the same time.

    Args:
        largest: bytes of a body that are taken.
        most: bytes that are held of all bodies that are on their way.
    """

    def __init__(self, largest: int, most: int) -> None:
        self._largest, self._most = largest, most
        self._held = 0

    async def read(self, request: Request, largest: int | None = None) -> bytes:
        """The body of a request. How long that may take is the connection's matter.

        Args:
            largest: bytes that are taken, where fewer than of others. Up to four times as many are read all the same:
                a client that is cut off in the middle never sees the answer.

        Raises:
            Problem: 413 for a larger body, 400 for one that ends too early, 415 for one that is compressed, 503 where
                too much is on its way.
        """
        largest = self._largest if largest is None else largest
        body = await self._pieces(request, largest)
        if body is None:
            raise Problem(413, f"The body is larger than {_size(largest)}.")
        if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise Problem(415, "A compressed body is not taken.")
        return body

    async def _pieces(self, request: Request, largest: int) -> bytes | None:
        """The body, or None where it is larger than `largest`; nothing is read beyond four times that."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:19]) > 4 * largest:
            return None
        pieces: list[bytes] = []
        size = held = 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > 4 * largest:
                    return None
                if size > largest:
                    pieces.clear()
                    continue
                pieces.append(piece)
                if size > FREE:  # small ones always have room
                    if self._held + len(piece) > self._most:
                        raise Problem(503, "The server has all the bodies that it can hold. Try again later.")
                    self._held, held = self._held + len(piece), held + len(piece)
        except ClientDisconnect as error:
            raise Problem(400, "The body ended too early.") from error
        finally:
            self._held -= held
        return b"".join(pieces) if size <= largest else None


def _size(number: int) -> str:
    return f"{number / MEGABYTE:g} MB" if number >= MEGABYTE else f"{number:,} bytes"


def find(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """The model of a name; Problem 404 where there is none."""
    if name not in models:
        raise Problem(404, f"There is no model {name[:100]!r}. {nearest(name[:100], models)}")
    return models[name]
