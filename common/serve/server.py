"""The process behind the server: loading, listening, several workers, and an end that loses no request."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from common.errors import UserError
from common.machine import device
from common.serve.models import ServedModel, load_models
from common.serve.settings import Address, Settings


def start(
    runs: Sequence[str], settings: Settings, place: Address, load: Callable[..., dict[str, ServedModel]] = load_models
) -> int:
    """Serves until SIGTERM or Ctrl-C; requests accepted by then are answered. Returns the exit code.

    Args:
        load: makes the models of runs, as `load_models` does.

    Raises:
        UserError: a model cannot be loaded or does not answer, the port is taken, or the extra is not installed.
    """
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):  # files of a neighbour; read on import
        os.environ.pop(name, None)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(
            "The server needs FastAPI, uvicorn and prometheus_client.", "pip install -e '.[serve]'"
        ) from error
    # Before the models are loaded, and once more when uvicorn hands on the signal that ended it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    listening = _listen(place)
    # Also with several workers, which load their own: what is wrong with a model is said once, and here.
    models = _load(runs, place, load)
    settings = replace(settings, hosts=own_names(listening))
    sys.stderr.write(_greeting(models, listening))
    if place.workers == 1:
        from common.serve.app import create_app

        uvicorn.Server(uvicorn.Config(create_app(models, settings), **options(settings))).run(sockets=[listening])
    else:
        from uvicorn.supervisors import Multiprocess

        factory = _Factory(tuple(runs), settings, place, load)
        config = uvicorn.Config(factory, factory=True, workers=place.workers, **options(settings))
        Multiprocess(config, sockets=[listening]).run()
    return 0


@dataclass(frozen=True)
class _Factory:
    """Makes the application in a worker's own process."""

    runs: tuple[str, ...]
    settings: Settings
    place: Address
    load: Callable[..., dict[str, ServedModel]]

    def __call__(self) -> Any:
        from common.serve.app import create_app

        return create_app(_load(self.runs, self.place, self.load), self.settings)


def _load(runs: Sequence[str], place: Address, load: Callable[..., dict[str, ServedModel]]) -> dict[str, ServedModel]:
    threads = device.set_threads(place.workers)
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    # In a thread that ends, and its OpenMP threads with it: with more of them in the process than cores, waiting for
    # one another is slow (libgomp stops spinning).
    with ThreadPoolExecutor(1) as loading:
        return loading.submit(load, runs, decoders, threads=threads, precision=place.precision).result()


def options(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told besides the application."""
    from common.serve.connections import Connection

    # A client that keeps its connection open between requests for a minute is a normal one behind a load balancer.
    fixed = {"log_level": logging.WARNING, "access_log": False, "timeout_keep_alive": 75, "ws": "none"}
    return {**fixed, "http": partial(Connection, settings)}


def own_names(listening: socket.socket) -> tuple[str, ...]:
    """What a request may call a server on loopback; nothing, for anything, where the network is meant to reach it."""
    host = str(listening.getsockname()[0])
    if not ipaddress.ip_address(host).is_loopback:
        return ()
    return tuple(dict.fromkeys((f"[{host}]" if ":" in host else host, "localhost", "127.0.0.1", "[::1]")))


def _listen(place: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only then; without it every answer takes 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((place.host, place.port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        what = f"Can't listen on {place.host}:{place.port}: {error.strerror or error}."
        raise UserError(what, "Choose another --port.") from error
    listening.set_inheritable(True)
    return listening


def _greeting(models: dict[str, ServedModel], listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    lines = [f"{name}: {m.saved.example}, {m.predictor.input.kind} in, {m.plan}" for name, m in models.items()]
    return "\n".join([*lines, f"serving at http://{shown}:{port}\n"])
