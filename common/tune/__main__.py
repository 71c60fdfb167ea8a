"""Searches the settings of an example, and trains it with the best ones.

python -m common.tune vision.train --trials 20                        over the ranges that its Config declares
python -m common.tune vision.train --trials 40 --resume               goes on with the newest search, to 40 in all
python -m common.tune nlp.classify --trials 20 -- --data ag-news      what stands behind -- is not searched
"""

from __future__ import annotations

from typing import Annotated

import typer

from common.command import arguments
from common.command import exits as command
from common.errors import UserError, nearest
from common.example import get
from common.tune.search import Limits
from common.tune.study import STRATEGIES
from common.tune.tuning import Request, tune


def main(
    example: Annotated[str, typer.Argument(help="its name in the catalogue, such as vision.train")],
    example_arguments: Annotated[list[str] | None, typer.Argument(help="behind --: settings that stay fixed")] = None,
    trials: Annotated[int, typer.Option(help="trainings in all; the first has the default settings")] = 20,
    timeout: Annotated[float | None, typer.Option(help="seconds after which no trial begins")] = None,
    strategy: Annotated[str, typer.Option(help=f"how settings are proposed: {', '.join(STRATEGIES)}")] = "tpe",
    workers: Annotated[int, typer.Option(help="trainings at the same time")] = 1,
    out: Annotated[str, typer.Option("--out", "-o", help="folder under which runs are kept")] = "runs",
    resume: Annotated[bool, typer.Option("--resume", help="continue the newest search of the example")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say nothing on stderr but errors")] = False,
) -> None:
    """Searches the settings of an example on validation data, and trains it with the best ones."""
    limits = checked_limits(trials, timeout, workers)
    if strategy not in STRATEGIES:
        raise UserError(f"--strategy {strategy}: unknown.", nearest(strategy, STRATEGIES))
    declared = get(example)
    options, settings = arguments.parse(declared, example_arguments or [])
    for refused, hint in (
        ("seeds", "Give one --seed."),
        ("resume", "It goes before --."),
        ("out", "It goes before --."),
    ):
        if getattr(options, refused) != getattr(type(options), refused):
            raise UserError(f"--{refused} does not go behind --.", hint)
    result = tune(Request(declared, options, settings, limits, strategy, out, resume, quiet))
    if json:
        command.print_json(result)


def checked_limits(trials: int, timeout: float | None, workers: int, name: str = "trials") -> Limits:
    """Limits of a search; UserError where they make no sense."""
    for flag, value in ((name, trials), ("workers", workers), ("timeout", timeout)):
        if value is not None and value <= 0:
            raise UserError(f"--{flag} {value:g}: it must be more than 0.")
    return Limits(trials, timeout, workers)


if __name__ == "__main__":
    command.run(main, "python -m common.tune")
