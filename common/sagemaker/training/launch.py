"""From a command line to a job: `--execution-mode` of every example, and run_training.py."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from common.command import arguments
from common.command.arguments import Options
from common.command.exits import exit_with, print_json
from common.config import flag
from common.errors import UserError
from common.sagemaker.training.here import Outcome, spare_for
from common.sagemaker.training.job import Place, TrainingJob, job_of, training_job
from common.sagemaker.training.spare import Spare

if TYPE_CHECKING:
    from common.example import Example

_OWN = ("data", "out")  # an example has flags of its own by these names


def main(default: str, words: Sequence[str] | None = None) -> NoReturn:
    """The command line of run_training.py: runs the job and exits."""
    script(
        "python sagemaker/run_training.py",
        default,
        words,
        _run,
        "Trains an example as a SageMaker job.",
        script_option("json", bool, typer.Option("--json", help="print the outcome as one JSON object"), False),
        script_option("quiet", bool, typer.Option("--quiet", "-q", help="say nothing on stderr but errors"), False),
    )


def _run(example: str, words: Sequence[str], place: Place, json: bool, quiet: bool) -> int:
    words = [*words, *(["--json"] if json else []), *(["--quiet"] if quiet else [])]
    with spare_for(place) as spare:
        return launch(training_job(example, words, place), json="--json" in words, spare=spare)


def script(
    name: str,
    default: str,
    words: Sequence[str] | None,
    action: Callable[..., Any],
    help: str,
    *options: inspect.Parameter,
    leave_out: Sequence[str] = (),
) -> NoReturn:
    """Runs a command line of an example's name, a place, options of its own, and after -- the example's arguments.

    Args:
        name: how the script is called.
        default: the example where none is named.
        words: None for those of this process.
        action: is called with the example, its arguments, the Place, and the own options by name.
        options: made by `script_option`.
        leave_out: fields of Place that are no options there.
    """
    given = list(sys.argv[1:] if words is None else words)
    split = given.index("--") if "--" in given else len(given)
    before, of_example = arguments.with_dashes(given[:split]), given[split + 1 :]

    def run(example: str, **settings: Any) -> Any:
        mine = {option.name: settings.pop(option.name) for option in options}
        place = Place(**{field: value for field, value in settings.items() if value is not None})
        return action(example, of_example, place, **mine)

    chosen = script_option("example", str, typer.Argument(help="one of: python -m common"), default)
    run.__signature__ = inspect.Signature([chosen, *options, *arguments.parameters(Place, leave_out)])  # type: ignore[attr-defined]
    run.__doc__ = f"{help} What follows -- goes to the example."
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(run)
    exit_with(lambda: typer.main.get_command(app).main(before, prog_name=name, standalone_mode=False))


def script_option(name: str, kind: type, option: Any, default: Any) -> inspect.Parameter:
    """An option of a script, beside those of the place."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def parameters() -> list[inspect.Parameter]:
    """What `--execution-mode` adds to the command line of an example."""
    return arguments.parameters(Place, leave_out=_OWN)


def taken_place(options: Options, settings: dict[str, Any]) -> Place | None:
    """The place that a command line names, taken out of what was said; None where training is to happen here."""
    fields = [f.name for f in dataclasses.fields(Place) if f.name not in _OWN]
    given = {name: settings.pop(name) for name in fields if name in settings}
    if given and "execution_mode" not in given:
        raise UserError(
            f"{flag(next(iter(given)))} belongs to a job.", "Say --execution-mode fast-local, local or aws."
        )
    return Place(**given, out=options.out) if given else None


def launch_parsed(example: Example, options: Options, settings: dict[str, Any], place: Place) -> int:
    """Starts the job that a parsed command line describes; returns the exit code."""
    return launch(job_of(example, options, settings, place), json=options.json)


def launch(job: TrainingJob, *, json: bool = False, spare: Spare | None = None) -> int:
    """Runs a job where its place says, says how it ended, and returns the exit code.

    Args:
        json: print the outcome as one JSON object on stdout.
        spare: in which fast-local runs it.
    """
    outcome = _run_job(job, spare)
    if outcome is None:  # a dry run
        return 0
    job.say("\n".join(outcome.lines()))
    if json:
        print_json(outcome.to_json())
    return outcome.exit_code


def _run_job(job: TrainingJob, spare: Spare | None) -> Outcome | None:
    # Each is imported where it is used: the SDK's weight is for those who use it.
    if job.place.mode == "fast-local":
        from common.sagemaker.training import here as fast_local

        return fast_local.train(job, spare) if spare else fast_local.train(job)
    if job.place.mode == "local":
        from common.sagemaker.training import docker as local

        return local.train(job)
    from common.sagemaker.training import aws as training

    return training.train(job)
