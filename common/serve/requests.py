"""What every route does with a request: its body, within limits, and the model that it names."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request
from starlette.requests import ClientDisconnect

from common.errors import nearest
from common.serve.formats import Problem
from common.serve.models import Model
from common.serve.settings import MEGABYTE


async def read(request: Request, largest: int) -> bytes:
    """The body of a request.

    Args:
        largest: bytes that are taken. Up to four times as many are read all the same: a client that is cut off in the
            middle never sees the answer.

    Raises:
        Problem: 413 for a larger body, 400 for one that ends too early, 415 for one that is compressed.
    """
    body = await _pieces(request, largest, 4 * largest)
    if body is None:
        raise Problem(413, f"The body is larger than {largest / MEGABYTE:g} MB.")
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise Problem(415, "A compressed body is not taken.")
    return body


async def discard(request: Request) -> None:
    """Reads the body of a request that is not answered, up to a megabyte, and forgets it."""
    await _pieces(request, 0, MEGABYTE)


async def _pieces(request: Request, largest: int, most: int) -> bytes | None:
    """The body, or None where it is larger than `largest`; nothing is read beyond `most` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:19]) > most:
        return None
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                return None
            if size <= largest:
                pieces.append(piece)
            else:
                pieces.clear()
    except ClientDisconnect as error:
        raise Problem(400, "The body ended too early.") from error
    return b"".join(pieces) if size <= largest else None


def find(models: Mapping[str, Model], name: str) -> Model:
    """The model of a name; Problem 404 where there is none."""
    if name not in models:
        raise Problem(404, f"There is no model {name[:100]!r}. {nearest(name[:100], models)}")
    return models[name]
