"""What a part of `make gpu` tells the process that started it: JSON lines on stdout, each as soon as it is known."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any


class Skip(Exception):
    """Something this needs is not here; the text says what."""


def check(name: str, status: str, note: str = "") -> None:
    """Whether something works: "ok", "failed" or "skipped"."""
    _say({"check": name, "status": status, "note": note})


def figure(name: str, value: float, unit: str, *, n: int = 1, command: str = "", note: str = "") -> None:
    """A number that was measured: a mean or a median of n."""
    _say({"figure": name, "value": value, "unit": unit, "n": n, "command": command, "note": note})


def checked(name: str, work: Callable[[], str | None]) -> bool:
    """Runs a check that returns a note, raises Skip, or fails by raising anything; the others go on."""
    try:
        check(name, "ok", work() or "")
    except Skip as reason:
        check(name, "skipped", str(reason))
    except Exception as error:
        traceback.print_exc()  # on stderr, which the report keeps
        check(name, "failed", f"{type(error).__name__}: {error}".splitlines()[0][:300])
        return False
    return True


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
