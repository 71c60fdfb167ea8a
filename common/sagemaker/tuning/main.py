"""Tunes an example as SageMaker does: many training jobs, each with other settings, judged by what they log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from common.command.exits import print_json, say
from common.errors import UserError
from common.files import write_json
from common.sagemaker.training import launch
from common.sagemaker.training.job import Place
from common.sagemaker.tuning import aws as tuning_aws
from common.sagemaker.tuning import here as tuning_local
from common.sagemaker.tuning.plan import STRATEGIES, Tuning, tuning
from common.tune import page


def main(default: str, words: Sequence[str] | None = None) -> NoReturn:
    """The command line of tune.py: tunes and exits."""
    strategies = ", ".join(STRATEGIES)
    script_option = launch.script_option
    launch.script(
        "python sagemaker/tune.py",
        default,
        words,
        _run,
        "Tunes an example over the ranges of its Config.",
        script_option("jobs", int, typer.Option(help="training jobs in all"), 20),
        script_option("parallel", int, typer.Option(help="training jobs at the same time"), 1),
        script_option("strategy", str, typer.Option(help=f"how settings are proposed: {strategies}"), "bayesian"),
        script_option("json", bool, typer.Option("--json", help="print the result as one JSON object"), False),
        leave_out=("dialect",),
    )


def _run(example: str, words: Sequence[str], place: Place, json: bool, **asked: Any) -> None:
    found = tune(tuning(example, words, place, **asked))
    if json and found is not None:
        print_json(found)


def tune(plan: Tuning) -> dict[str, Any] | None:
    """Tunes where the place says, and writes `tune.html` and `result.json`; None in a dry run."""
    if plan.place.mode == "local":
        raise UserError("The SDK's local mode knows no tuning.", "Use --execution-mode fast-local or aws.")
    found = tuning_aws.tune(plan) if plan.place.mode == "aws" else tuning_local.tune(plan)
    if found is None:
        return None
    result = found.to_json() | {"tuning_job": plan.name, "folder": str(plan.folder)}
    page.write(plan.folder / "tune.html", found)
    write_json(plan.folder / "result.json", result)
    deploy = f"python sagemaker/deploy.py create {found.model} --execution-mode {plan.place.mode}"
    for line in [*found.lines(), f"report     {plan.folder / 'tune.html'}", f"deploy     {deploy}"]:
        say(line)
    return result
