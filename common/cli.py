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
    words = sys.argv[1:] if given is None else given
    exit_with(lambda: run(example, *arguments.parse(example, words, *launch.parameters())))


def callback(example: Example) -> Callable[..., Any]:
    """The same as a function that typer takes as a command."""
    return arguments.callback(example, lambda options, settings: run(example, options, settings), *launch.parameters())


def run(example: Example, options: Options, settings: dict[str, Any]) -> int:
    """Does what a parsed command line asks for.

    Args:
        settings: and, for a job, its place, by field name.

    Returns:
        the exit code.
    """
    place = launch.taken_place(options, settings)
    if place is not None:
        return launch.launch_parsed(example, options, settings, place)
    if options.seeds:
        execute_seeds(example, options, settings)
    else:
        execute(example, options, settings)
    return 0
