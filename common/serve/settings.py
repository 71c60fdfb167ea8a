"""What a server allows, and where it listens."""

from __future__ import annotations

from dataclasses import dataclass

from common.serve import formats

MEGABYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    Attributes:
        max_body: bytes of a request.
        max_requests: at work at the same time; more are answered 503.
        timeout: seconds for a request, from its first byte to its answer.
        token: that requests must bear, except for /ping and /health; "" for none.
        default_format: of answers where the request does not ask for one.
    """

    max_body: int = 16 * MEGABYTE
    max_requests: int = 64
    timeout: float = 60.0
    token: str = ""
    default_format: str = formats.JSON


@dataclass(frozen=True)
class Place:
    """Where a server listens, and with what.

    Attributes:
        host: address; loopback unless the network is meant to reach the server.
        port: 0 for any that is free.
        workers: processes that share the port, each with its own copy of every model.
        precision: "auto", "fp32" or "bf16", of image models.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    precision: str = "auto"
