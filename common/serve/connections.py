"""Connections that don't wait for slow clients: uvicorn's HTTP/1.1 with limits on time and number.

Whoever takes too long over the head of a request or over its body is answered 408. A connection beyond the limit takes
the place of the one that has kept the server waiting longest, so that idle or dripping ones never keep out a client
that has something to say.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.serve.settings import RATE, Settings

TICK = 0.25  # seconds between two looks at a connection


class Connection(H11Protocol):
    """One connection; uvicorn makes it, and gives it everything but the settings."""

    def __init__(self, settings: Settings, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = settings
        self._since = self.loop.time()  # when the part of a request that is awaited began
        self._begun = True  # something is due: bytes of a request, or its head on a new connection
        self._silent = True  # not a byte has come
        self._in_body = False
        self._received = 0  # bytes of the body, as they come over the wire
        self._unread_until: float | None = None  # when an answer must have been read
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits_for_client(self) -> bool:
        """Whether there is no whole request that awaits its answer."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle or self.conn.their_state is h11.SEND_BODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(TICK, self._look)
        if len(self.connections) > self._settings.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun, self._since = True, self.loop.time()
        self._silent = False
        self._received += len(data)
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        size = self.transport.get_write_buffer_size()
        if size and self._unread_until is None:
            self._unread_until = self.loop.time() + self._settings.body_seconds + size / RATE
        self._follow()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "This is not valid HTTP, or its head is too long.")

    def _follow(self) -> None:
        """Notes what is awaited now."""
        state = self.conn.their_state
        if state is h11.IDLE:
            if self._in_body or not self._begun:
                self._in_body, self._begun = False, bool(self.conn.trailing_data[0])
                self._since = self.loop.time()
        elif state is h11.SEND_BODY:
            if not self._in_body:
                self._in_body, self._since, self._received = True, self.loop.time(), 0
        else:  # the request is whole
            self._in_body, self._begun, self._since = False, False, self.loop.time()

    def _look(self) -> None:
        self._timer = self.loop.call_later(TICK, self._look)
        now, allowed = self.loop.time(), self._settings
        if self._unread_until is not None:
            if not self.transport.get_write_buffer_size():
                self._unread_until = None
            elif now > self._unread_until:
                self.transport.abort()
                return
        if not self._begun or self.transport.is_closing():
            return
        if self._in_body:
            longest = allowed.body_seconds + min(self._received, allowed.max_body) / RATE
            if now - self._since > longest:
                self._refuse(408, f"The body took longer than {longest:.0f} seconds.")
        elif now - self._since > allowed.head_seconds:
            if self._silent:  # a browser connects in advance, and would take a 408 for the answer to its first request
                self.timeout_keep_alive_handler()
                return
            self._refuse(408, f"The head of the request took longer than {allowed.head_seconds:g} seconds.")

    def _make_room(self) -> None:
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        waiting = [other for other in others if other.waits_for_client and not other.transport.is_closing()]
        if waiting:
            min(waiting, key=lambda other: other._since).give_way()
        else:
            self._refuse(503, "The server has all the connections that it can hold. Try again later.")

    def give_way(self) -> None:
        """Ends the connection for the sake of another one."""
        self._forget_request()
        self.transport.abort()

    def _refuse(self, status: int, text: str) -> None:
        """An answer without the application, where there is none yet; and the end of the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": text}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),
            ]
            self._unread_until = self.loop.time() + self._settings.body_seconds
            head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._forget_request()
        self.transport.close()

    def _forget_request(self) -> None:
        """Lets the application know that nobody is there any more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
