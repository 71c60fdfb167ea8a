"""Options of the scripts in sagemaker/, from the fields of dataclasses: `option` says their help and their bounds."""

from __future__ import annotations

import dataclasses
import inspect
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from common import arguments
from common.command import exit_with
from common.config import check_fields


def takes(**groups: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes the fields of dataclasses options of a command; it is called with a checked object of each.

    Args:
        groups: parameter of the function to its dataclass, such as `where=Where`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(**given: Any) -> Any:
            for parameter, group in groups.items():
                said = {f.name: given.pop(f.name) for f in dataclasses.fields(group)}
                made = group(**{name: value for name, value in said.items() if value is not None})
                check_fields(made)
                given[parameter] = made
            return function(**given)

        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in groups]
        added = [parameter for group in groups.values() for parameter in arguments.parameters(group)]
        signature = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
        run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate


def run(name: str, *commands: Callable[..., Any]) -> NoReturn:
    """Runs a script whose commands are these functions, each under its own name; the only one needs no name.

    Args:
        name: how the script is called, such as "python sagemaker/deploy.py".
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    for function in commands:
        app.command()(function)
    words = arguments.with_dashes(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers that we started end too
    exit_with(lambda: typer.main.get_command(app).main(words, prog_name=name, standalone_mode=False))
