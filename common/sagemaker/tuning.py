"""Tunes an example as SageMaker does: many training jobs, each with other settings, judged by what they log."""

from __future__ import annotations

import dataclasses
import json as json_
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import typer

from common import arguments
from common.call import Options
from common.command import print_json, say
from common.config import check_fields
from common.errors import UserError, nearest
from common.example import Example, get
from common.files import write_json
from common.sagemaker import launch
from common.sagemaker.job import Place, job_name
from common.tune import page
from common.tune.space import Space, space_of

STRATEGIES = {"bayesian": "tpe", "hyperband": "hyperband", "random": "random"}  # and their names in common.tune
LONGEST_NAME = 32  # of a tuning job


@dataclass(frozen=True)
class Tuning:
    """What is to be tuned, and where.

    Attributes:
        name: of the tuning job.
        options, said: of the example, as its command line was read.
        jobs: trainings in all, `parallel` of them at the same time.
        place: of each training.
    """

    name: str
    example: Example
    options: Options
    said: dict[str, Any]
    space: Space
    strategy: str
    jobs: int
    parallel: int
    place: Place

    @property
    def folder(self) -> Path:
        """For its results."""
        return (Path(self.place.out) / "sagemaker" / self.name).resolve()

    @property
    def seed(self) -> int:
        return int(self.said.get("seed", 0))


def main(words: Sequence[str] | None = None) -> NoReturn:
    """The command line of tune.py: tunes and exits."""
    strategies = ", ".join(STRATEGIES)
    own = launch.own
    launch.script(
        "python sagemaker/tune.py", words, _run, "Tunes an example over the ranges of its Config.",
        own("jobs", int, typer.Option(help="training jobs in all"), 20),
        own("parallel", int, typer.Option(help="training jobs at the same time"), 1),
        own("strategy", str, typer.Option(help=f"how settings are proposed: {strategies}"), "bayesian"),
        own("json", bool, typer.Option("--json", help="print the result as one JSON object"), False),
        leave_out=("dialect",),
    )  # fmt: skip


def _run(example: str, words: Sequence[str], place: Place, json: bool, **asked: Any) -> None:
    found = tune(tuning(example, words, place, **asked))
    if json and found is not None:
        print_json(found)


def tuning(
    example: str,
    of_example: Sequence[str],
    place: Place,
    *,
    strategy: str = "bayesian",
    jobs: int = 20,
    parallel: int = 1,
) -> Tuning:
    """Checks everything that can be checked before something is created.

    Args:
        of_example: the example's arguments; what they say is not searched.

    Raises:
        UserError: a mistake in any of them.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"--strategy {strategy}: unknown.", nearest(strategy, STRATEGIES))
    for flag, value in (("jobs", jobs), ("parallel", parallel)):
        if value < 1:
            raise UserError(f"--{flag} {value}: it must be at least 1.")
    place = dataclasses.replace(place, dialect="classic")
    check_fields(place)
    chosen = get(example)
    options, said = arguments.parse(chosen, of_example)
    for refused in ("seeds", "resume"):
        if getattr(options, refused):
            raise UserError(f"--{refused} does not go with tuning.", "Give --job-name NAME again to continue.")
    name = place.job_name or job_name(example, LONGEST_NAME)
    if len(name) > LONGEST_NAME:
        raise UserError(f"--job-name {name}: tuning jobs have names of up to {LONGEST_NAME} characters.")
    space = space_of(chosen, options, said)
    return Tuning(name, chosen, options, said, space, strategy, jobs, min(parallel, jobs), place)


def tune(plan: Tuning) -> dict[str, Any] | None:
    """Tunes where the place says, and writes `tune.html` and `result.json`; None in a dry run."""
    if plan.place.mode == "local":
        raise UserError("The SDK's local mode knows no tuning.", "Use --execution-mode fast-local or aws.")
    if plan.place.mode == "aws":
        from common.sagemaker import tuning_aws

        found = tuning_aws.tune(plan)
    else:
        from common.sagemaker import tuning_local

        found = tuning_local.tune(plan)
    if found is None:
        return None
    result = found.to_json() | {"tuning_job": plan.name, "folder": str(plan.folder)}
    page.write(plan.folder / "tune.html", found)
    write_json(plan.folder / "result.json", result)
    deploy = f"python sagemaker/deploy.py create {found.model} --execution-mode {plan.place.mode}"
    for line in [*found.lines(), f"report     {plan.folder / 'tune.html'}", f"deploy     {deploy}"]:
        say(line)
    return result


def describe(plan: Tuning) -> str:
    """A dry run of fast-local: what would be searched, as JSON."""
    from common.tune.space import plain_ranges

    facts = {"tuning_job": plan.name, "example": plan.example.name, "objective": plan.example.objective}
    return json_.dumps(facts | {"goal": plan.example.goal, "jobs": plan.jobs, "parallel": plan.parallel,
                                "ranges": plain_ranges(plan.space.ranges), "fixed": plan.said}, indent=2)  # fmt: skip
