"""The catalogue: `python -m common` lists every example, `usecases vision.train ...` runs one."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from common import cli, example
from common.command.exits import exit_with, print_json
from common.errors import UserError

COLUMNS = ("name", "task", "data", "model", "headline", "time", "command")


def rows() -> list[dict[str, Any]]:
    """One row per example, for people (`COLUMNS`) and, with `domain`, for programs."""
    return [
        {
            "name": e.name,
            "domain": e.domain,
            "task": e.task,
            "data": e.data,
            "model": e.model,
            "headline": e.headline,
            "time": f"{e.seconds:g} s",
            "command": e.command,
        }
        for e in example.catalogue()
    ]


def markdown() -> str:
    """The catalogue as the table that stands in the README."""
    head = ["Example", "Task", "Default data", "Model", "Headline metric", "Time", "Command"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows():
        cells = [row[c] for c in COLUMNS]
        cells[0], cells[-1] = f"`{cells[0]}`", f"`{cells[-1]}`"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def show() -> None:
    """Prints the catalogue as a table for the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="PyTorch Use Cases", title_justify="left", show_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows():
        table.add_row(*(row[column] for column in COLUMNS))
    Console().print(table)


def completed() -> typer.Typer:
    """All examples as commands of one program: what the shell completes `usecases ...` from."""
    app = typer.Typer(name="usecases")
    app.callback()(lambda: None)  # keeps a single example a command with a name
    for e in example.catalogue():
        app.command(e.name, help=e.task)(cli.callback(e))
    return app


def main() -> None:
    """`--json`, `--markdown`, nothing, or the name of an example and its arguments."""
    arguments = sys.argv[1:]
    if "_USECASES_COMPLETE" in os.environ or arguments[:1] in (["--install-completion"], ["--show-completion"]):
        completed()(prog_name="usecases")
    if arguments and not arguments[0].startswith("-"):
        name = arguments[0]

        def start() -> None:
            cli.main(example.get(name), arguments[1:])

        exit_with(start)
    exit_with(lambda: _list(arguments))


def _list(arguments: list[str]) -> None:
    actions = {(): show, ("--json",): lambda: print_json(rows()), ("--markdown",): lambda: sys.stdout.write(markdown())}
    if arguments == ["--help"]:
        sys.stdout.write(
            f"{__doc__}\n\nusage: python -m common [--json | --markdown | EXAMPLE ARGUMENTS...]\n"
            "       usecases --install-completion      completes examples, flags and choices in your shell\n"
        )
        return
    action: Any = actions.get(tuple(arguments))
    if action is None:
        raise UserError(
            f"Unknown argument {' '.join(arguments)}.", "Use --json, --markdown, or the name of an example."
        )
    action()


if __name__ == "__main__":
    main()
