"""How every program of this repository ends: its exit code, its error text, its JSON."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from common.errors import Interrupted, UserError


@atexit.register
def _end_at_once() -> None:
    """No search for cycles in memory that is given back anyway: among torch's objects it takes 0.4 s."""
    gc.disable()
    gc.freeze()


def run(main: Callable[..., Any], name: str) -> NoReturn:
    """Runs a function as a command line, its annotated parameters as arguments, and exits.

    Args:
        main: what typer takes; returns an exit code or None.
        name: how the program is called, such as "python -m common.predict".
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    exit_with(lambda: typer.main.get_command(app).main(prog_name=name, standalone_mode=False))


def exit_with(action: Callable[[], Any]) -> NoReturn:
    """Runs an action and exits; a mistake of the user gives one or two lines on stderr and code 2."""
    code = 0
    try:
        code = int(action() or 0)
    except Interrupted as stop:
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except UserError as error:
        group = _group()
        if group is None or group.rank() == 0 or not group.started():
            sys.stderr.write(f"error: {error}\n")
        code = 2
    except BrokenPipeError:  # the reader of our output has gone; that is its right
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        code = 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # a click usage error; typer carries its own copy of click
            raise
        sys.stderr.write(f"error: {error.format_message()}\n")
        code = 2
    if group := _group():
        group.stop()
    sys.exit(code)


def _group() -> Any:
    """`machine.distributed` where something has loaded it, and torch; most commands end without."""
    return sys.modules.get("common.machine.distributed")


def say(line: str) -> None:
    """One line on stderr, where everything goes that is no result."""
    sys.stderr.write(line + "\n")


def print_json(value: Any) -> None:
    """One JSON value on one line of stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()
