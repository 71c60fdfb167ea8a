"""Texts that come as they are written: what an endpoint is asked, and what is read from its parts.

An endpoint sends the lines of `common.serve.openai`, but SageMaker cuts them anywhere, even within a character.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from common.errors import UserError


def request(body: bytes) -> bytes:
    """The same request for a stream; UserError where it is not one that a model that writes takes."""
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not asked.keys() & {"messages", "prompt"}:
        example = '{"messages": [{"role": "user", "content": "Hello"}]}'
        raise UserError("A stream is asked for by an object with messages or a prompt.", f"Such as {example}")
    return json.dumps({**asked, "stream": True}).encode()


def events(parts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a stream.

    Args:
        parts: the stream in pieces, cut anywhere.

    Raises:
        UserError: it ends too early, or is none.
    """
    decode = codecs.getincrementaldecoder("utf-8")().decode
    rest = ""
    for part in parts:
        *lines, rest = (rest + decode(part)).split("\n\n")
        for line in lines:
            if line == "data: [DONE]":
                return
            if not line.startswith("data: "):
                raise UserError(f"The endpoint sends no stream: {line[:100]}")
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise UserError(f"The endpoint ended the text: {event['error']['message']}")
            yield event
    if not rest.startswith("data: ") and rest:
        raise UserError(f"The endpoint sends no stream: {rest[:100]}", "Ask without --stream.")
    raise UserError("The stream ended in the middle of the text.")


def texts(parts: Iterable[bytes]) -> Iterator[str]:
    """The pieces of the text; UserError as of `events`."""
    for event in events(parts):
        for choice in event["choices"]:
            piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
            if piece:
                yield piece
