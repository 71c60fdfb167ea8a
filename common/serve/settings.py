"""What a server allows, and where it listens."""

from __future__ import annotations

from dataclasses import dataclass

from common.serve import formats

MEGABYTE = 2**20
RATE = 100_000  # bytes a second, below which a body is too slow


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server allows.

    Attributes:
        max_body: bytes of a request.
        max_inputs: of a request.
        max_requests: at work at the same time, from their last byte to their answer; more are answered 503.
        timeout: seconds for an answer, from the last byte of its request.
        head_seconds: for the head of a request.
        body_seconds: for the body of a request, or for reading an answer; and one more for each RATE bytes of it.
        token: that requests must bear, except for /ping and /health; "" for none.
        default_format: of answers where the request does not ask for one.
        hosts: names that a request may call this server by, in lower case; empty for any.
    """

    max_body: int = 16 * MEGABYTE
    max_inputs: int = formats.MOST_INPUTS
    max_requests: int = 64
    timeout: float = 60.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    token: str = ""
    default_format: str = formats.JSON
    hosts: tuple[str, ...] = ()

    @property
    def max_connections(self) -> int:
        """Open at the same time; for one more, the one that has kept the server waiting longest is closed."""
        return 8 * self.max_requests


@dataclass(frozen=True)
class Address:
    """Where a server listens, and with what.

    Attributes:
        host: address; loopback unless the network is meant to reach the server.
        port: 0 for any that is free.
        workers: processes that share the port, each with its own copy of every model.
        precision: "auto", "fp32" or "bf16", of image models; weights of linear layers in "int8" or "int4".
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    precision: str = "auto"
