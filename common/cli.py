"""What `python -m EXAMPLE` does: trains here, with one seed or several, or starts a job on SageMaker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from common.command import arguments
from common.command.arguments import Options
from common.command.execute import execute, execute_seeds
from common.command.exits import exit_with
from common.example import Example
from common.sagemaker.training import launch


def main(example: Example, given: Sequence[str] | None = None) -> NoReturn:
    """Parses the arguments, runs the example, and exits with 0, 2 (a mistake), 130 or 143 (stopped)."""
    said = sys.argv[1:] if given is None else given
    exit_with(lambda: run(example, *arguments.parse(example, said, *launch.parameters())))


def callback(example: Example) -> Callable[..., Any]:
    """The same as a function that typer takes as a command."""
    return arguments.callback(example, lambda options, said: run(example, options, said), *launch.parameters())


def run(example: Example, options: Options, said: dict[str, Any]) -> int:
    """Does what a parsed command line asks for.

    Args:
        said: settings and, for a job, its place, by field name.

    Returns:
        the exit code.
    """
    place = launch.taken_place(options, said)
    if place is not None:
        return launch.launch_parsed(example, options, said, place)
    if options.seeds:
        execute_seeds(example, options, said)
    else:
        execute(example, options, said)
    return 0
