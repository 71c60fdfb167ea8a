"""Endpoints without an account: the real server in a process of this machine, found again by its name.

OUT/sagemaker/endpoints/NAME.json says where an endpoint listens. Whoever started it serves for as long as the file
names that server: `delete` takes the file away and `update` writes another, so that no process is ever ended by a
number that may mean another one by now.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from common.command.exits import say
from common.config import read_json
from common.errors import UserError, nearest
from common.files import write_json
from common.sagemaker.hosting.models import TrainedModel
from common.sagemaker.hosting.server import Client, Server
from common.sagemaker.training.job import NAME

ENDING = 30.0  # seconds that a server gets to end in order


class Endpoint:
    """An endpoint for the length of a `with` block, under a name by which other processes find it.

    Args:
        name: of the endpoint.
        model: what it serves.
        out: folder under which runs are kept.
        replace: take the place of an endpoint of this name, which serves until this one is ready.

    Raises:
        UserError: the name is taken or not allowed, nothing is there to be replaced, or the model can't be served.
    """

    def __init__(self, name: str, model: TrainedModel, out: str = "runs", replace: bool = False) -> None:
        check_name(name)
        if replace:
            find(name, out)
        elif alive(_read(_state_file(name, out))):
            raise UserError(f"There is an endpoint {name} already.", "Use update, delete it first, or choose --name.")
        self.name = name
        self._model = model
        self._file = _state_file(name, out)

    def __enter__(self) -> Endpoint:
        self._temporary = tempfile.TemporaryDirectory()
        try:
            saved = self._model.unpack(Path(self._temporary.name))
            saved.check_trust()  # said here rather than by the server, in its log
        except BaseException:
            self._temporary.cleanup()
            raise
        folder = saved.folder
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.server = Server(folder, log=self._file.with_suffix(".log"))
        try:
            self.server.__enter__()
        except BaseException:
            self._temporary.cleanup()
            raise
        self.client = self.server.client
        self._state = {"name": self.name, "port": self.server.port, "pid": self.server.pid, "model": str(folder)}
        write_json(self._file, self._state)
        return self

    def __exit__(self, *_: object) -> None:
        if _read(self._file) == self._state:
            self._file.unlink(missing_ok=True)
        self.server.__exit__()
        self._temporary.cleanup()

    @property
    def wanted(self) -> bool:
        """Whether it was neither deleted nor replaced."""
        return _read(self._file) == self._state

    def serve(self) -> None:
        """Stays until Ctrl-C, `delete` or `update`.

        Raises:
            UserError: the server ended by itself.
        """
        while self.wanted:
            if not self.server.running:
                raise UserError(f"The server of {self.name} has ended.", f"See {self._file.with_suffix('.log')}.")
            time.sleep(0.2)
        say(f"{self.name} was deleted or replaced.")


def check_name(name: str) -> None:
    """Raises UserError for a name that SageMaker would refuse; one that goes here goes there."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} can't name an endpoint.", "Letters, digits and dashes between them, 63 at the most.")


def find(name: str, out: str) -> Client:
    """Requests to the endpoint of that name; what a crash left behind is cleared away.

    Raises:
        UserError: there is none, or it is dead.
    """
    file = _state_file(name, out)
    state = _read(file)
    if state is None:
        names = [path.stem for path in sorted(file.parent.glob("*.json"))]
        hint = nearest(name, names) if names else "Start one with: python sagemaker/deploy.py create MODEL"
        raise UserError(f"There is no endpoint {name} in {file.parent}.", hint)
    if not alive(state):
        file.unlink(missing_ok=True)
        raise UserError(f"The endpoint {name} is no longer running; it is off the list now.", "Start it again.")
    return Client(state["port"])


def delete(name: str, out: str) -> None:
    """Has an endpoint end, and waits for it.

    Raises:
        UserError: there is none, or the process that started it was killed and its server stayed.
    """
    client = find(name, out)
    file = _state_file(name, out)
    pid = (_read(file) or {}).get("pid")
    file.unlink(missing_ok=True)
    deadline = time.monotonic() + ENDING
    while client.ping():
        if time.monotonic() > deadline:
            raise UserError(f"The server of {name} goes on: whoever started it was killed.", f"End process {pid}.")
        time.sleep(0.1)


def alive(state: dict[str, Any] | None) -> bool:
    """Whether the server that a state file names still answers."""
    return state is not None and Client(state["port"]).ping()


def _state_file(name: str, out: str) -> Path:
    return Path(out) / "sagemaker" / "endpoints" / f"{name}.json"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return read_json(file)
    except UserError:  # gone, perhaps at this moment, or not ours
        return None
