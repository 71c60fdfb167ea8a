"""What a tuning job is to do, checked before anything is created."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import arguments
from common.command.arguments import Options
from common.config import check_fields
from common.errors import UserError, nearest
from common.example import Example, get
from common.sagemaker.training.job import Place, job_name
from common.tune.space import Space, space_of

STRATEGIES = {"bayesian": "tpe", "hyperband": "hyperband", "random": "random"}  # and their names in common.tune
LONGEST_NAME = 32  # of a tuning job


@dataclass(frozen=True)
class Tuning:
    """What is to be tuned, and where.

    Attributes:
        name: of the tuning job.
        options, settings: of the example, as its command line was read.
        jobs: trainings in all, `parallel` of them at the same time.
        place: of each training.
    """

    name: str
    example: Example
    options: Options
    settings: dict[str, Any]
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
        return int(self.settings.get("seed", 0))


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
    options, settings = arguments.parse(chosen, of_example)
    for refused in ("seeds", "resume"):
        if getattr(options, refused):
            raise UserError(f"--{refused} does not go with tuning.", "Give --job-name NAME again to continue.")
    name = place.job_name or job_name(example, LONGEST_NAME)
    if len(name) > LONGEST_NAME:
        raise UserError(f"--job-name {name}: tuning jobs have names of up to {LONGEST_NAME} characters.")
    space = space_of(chosen, options, settings)
    return Tuning(name, chosen, options, settings, space, strategy, jobs, min(parallel, jobs), place)


def describe(plan: Tuning) -> str:
    """A dry run of fast-local: what would be searched, as JSON."""
    from common.tune.space import plain_ranges

    facts = {"tuning_job": plan.name, "example": plan.example.name, "objective": plan.example.objective}
    return json.dumps(
        facts
        | {
            "goal": plan.example.goal,
            "jobs": plan.jobs,
            "parallel": plan.parallel,
            "ranges": plain_ranges(plan.space.ranges),
            "fixed": plan.settings,
        },
        indent=2,
    )
