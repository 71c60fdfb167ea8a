"""The serving container without a container: its real server in a process, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.sagemaker.training.processes import free_port

SERVE = Path(__file__).parents[3] / "sagemaker" / "serve"
STARTUP = 240.0  # seconds that a model may take to load; SageMaker gives it this long too, by default
TIMEOUT = 60.0  # seconds that a request may take, as on a SageMaker endpoint


class ServerAnswer(NamedTuple):
    """What the server said.

    Args:
        status: of HTTP; 200 where the prediction worked.
        content_type: of the body.
        body: the predictions, or the reason why there are none.
    """

    status: int
    content_type: str
    body: bytes

    @property
    def reason(self) -> str:
        """The body of an error as one line; our server sends `{"error": "..."}`."""
        text = self.body.decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(text)["error"])
        return " ".join(text.split()) or f"status {self.status}"


class Client:
    """Requests to a server on this machine; each thread keeps a connection of its own open."""

    def __init__(self, port: int, timeout: float = TIMEOUT) -> None:
        self._port = port
        self._timeout = timeout
        self._local = threading.local()

    def ping(self) -> bool:
        """Whether the server is there and its model works."""
        try:
            return self._ask("GET", "/ping", None, {}).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def invoke(self, body: bytes, content_type: str, accept: str) -> ServerAnswer:
        """POST /invocations.

        Raises:
            UserError: the server has gone, or gave no answer in time.
        """
        headers = {"Content-Type": content_type, "Accept": accept}
        try:
            return self._ask("POST", "/invocations", body, headers)
        except (ConnectionError, http.client.HTTPException):
            try:  # the server may close a connection that was idle, and only the next request tells
                return self._ask("POST", "/invocations", body, headers)
            except (OSError, http.client.HTTPException) as error:
                raise UserError(
                    f"The server at port {self._port} has gone: {error or type(error).__name__}."
                ) from error
        except TimeoutError as error:
            raise UserError(f"The server gave no answer within {self._timeout:.0f} seconds.") from error

    def stream(self, body: bytes, content_type: str, accept: str) -> Iterator[bytes]:
        """POST /invocations, the answer in parts as they come; its limit of time is one of each part.

        Raises:
            UserError: the server refused the request with its reason, has gone, or sent nothing in time.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": content_type, "Accept": accept})
                response = connection.getresponse()
                if response.status != 200:
                    answer = ServerAnswer(response.status, "", response.read())
                    raise UserError(f"The server refused the request: {answer.reason}")
                while part := response.read1(2**16):
                    yield part
            except TimeoutError as error:
                raise UserError(f"The server sent nothing for {self._timeout:.0f} seconds.") from error
            except (OSError, http.client.HTTPException) as error:
                what = f"The server at port {self._port} has gone: {error or type(error).__name__}."
                raise UserError(what) from error

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> ServerAnswer:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=self._timeout
            )
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return ServerAnswer(response.status, response.headers.get("Content-Type", ""), response.read())
        except (OSError, http.client.HTTPException):
            connection.close()  # it opens again with the next request
            raise


class Server:
    """`sagemaker/serve` with a model, on a free port of the loopback device, for the length of a `with` block.

    Args:
        model: folder of an artifact, what /opt/ml/model holds in the container.
        environment: further variables, such as those of batch transform.
        log: file that gets what the server prints; a temporary one if None.
        timeout: seconds that a request may take.

    Attributes:
        port: where it listens.
        pid: its process.
        client: requests to it.
        environment: all that it is told.
    """

    def __init__(
        self,
        model: Path,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._log = log
        self.port = free_port()
        self.client = Client(self.port, timeout)
        self.environment = {
            **os.environ,
            "SM_MODEL_DIR": str(model.resolve()),
            "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "PYTHONPATH": str(SERVE.parents[1]),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }

    def __enter__(self) -> Server:
        self._close = contextlib.ExitStack()
        if self._log is None:
            self._log = Path(self._close.enter_context(tempfile.TemporaryDirectory())) / "log.txt"
        output = self._close.enter_context(self._log.open("ab"))
        self._begin = output.tell()  # the log may hold what earlier servers said
        self._process = subprocess.Popen(
            [sys.executable, str(SERVE)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours: we stop it in order
        )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + STARTUP
        while not self.client.ping():
            if not self.running:
                raise UserError(f"The server ended with code {self._process.returncode}.", self._last_words())
            if time.monotonic() > deadline:
                raise UserError(f"The server was not ready within {STARTUP:.0f} seconds.", self._last_words())
            time.sleep(0.05)

    def _last_words(self) -> str:
        """The error that the server ended with, or its last line."""
        assert self._log is not None
        said = self._log.read_bytes()[self._begin :].decode(errors="replace").strip()
        error = said.rpartition("error: ")[2] if "error: " in said else said.rpartition("\n")[2]
        return f"It said: {' '.join(error.split())}" if error else ""
