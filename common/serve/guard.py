"""What every request passes before the application: whom it takes the server for, where it comes from, the token.

On loopback, a page from elsewhere may have its own name point to this machine (DNS rebinding) and then reads answers as
its own; so only the machine's own names are answered. And any page may send a POST here without reading the
answer; a browser says where it comes from, and only this server's own page may.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.serve.settings import Settings

NOSNIFF = (b"x-content-type-options", b"nosniff")  # a browser takes every answer for what it says it is
SAFE = ("GET", "HEAD", "OPTIONS")  # change nothing and cost little


class Guard:
    """Lets only requests through that may come in; and marks every answer.

    Args:
        open_paths: for which no token is needed.
    """

    def __init__(self, app: ASGIApp, settings: Settings, open_paths: Collection[str]) -> None:
        self._app = app
        self._hosts = settings.hosts
        self._expected = f"bearer {settings.token}".encode() if settings.token else b""
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start" and NOSNIFF not in message.get("headers", ()):
                message = {**message, "headers": [*message.get("headers", ()), NOSNIFF]}
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, marked)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers and b"content-length" in headers:
            # A proxy before this server may go by the other one, and take the rest of the body for a request.
            return _error(400, "A body has one length, not two.", {"Connection": "close"})
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and host and name_of(host) not in self._hosts:  # without a Host it is no browser
            what = f"This server is {self._hosts[0]}, not {host[:100]}; a proxy before it must pass on Host: localhost."
            return _error(421, what)
        if scope["method"] not in SAFE and is_foreign(headers, host):
            return _error(403, "A page of another site may not ask this server.")
        if self._expected and scope["path"] not in self._open:
            kind, _, token = headers.get(b"authorization", b"").partition(b" ")
            if not hmac.compare_digest(kind.lower() + b" " + token.strip(), self._expected):
                return _error(401, "A bearer token is needed.", {"WWW-Authenticate": "Bearer"})
        return None


def name_of(host: str) -> str:
    """The name in a Host header. Any port will do: a tunnel has its own, and a name that is ours can't be rebound."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def is_foreign(headers: Mapping[bytes, bytes], host: str) -> bool:
    """Whether a browser says that another site's page has sent a request; programs say nothing.

    Sec-Fetch-Site is asked first, since it is right behind a proxy that changes Host; old browsers, and plain http
    to another machine, have Origin only.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)
