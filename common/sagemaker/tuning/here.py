"""A tuning job on this machine: its training jobs by fast-local, proposed and judged by `common.tune`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import arguments
from common.command.exits import say
from common.config import read_json
from common.errors import Interrupted, UserError
from common.sagemaker.training import here as fast_local
from common.sagemaker.training.job import Place, metric_definitions, training_job
from common.sagemaker.tuning.plan import STRATEGIES, Tuning, describe
from common.training.folders import check_writable
from common.tune.found import Found
from common.tune.search import Limits, search
from common.tune.study import Study, Trial, alone, optuna_or_error
from common.tune.tuning import first_reason, signals_as_interrupts
from common.tune.workers import Worker


def tune(plan: Tuning) -> Found | None:
    """Searches, or goes on with the tuning job of this name; None in a dry run.

    Results lie in OUT/sagemaker/NAME/, each training job's in OUT/sagemaker/NAME-000/ and so on.
    """
    if plan.place.dry_run:
        say(describe(plan))
        return None
    optuna_or_error()
    check_writable(plan.folder)
    made_with = {
        "example": plan.example.name,
        "objective": plan.example.objective,
        "data": plan.place.data,
        "arguments": {"tiny": plan.options.tiny, "config": plan.options.config, **plan.settings},
    }
    with signals_as_interrupts(), alone(plan.folder):
        study = Study(
            plan.folder,
            plan.space,
            made_with,
            goal=plan.example.goal,
            strategy=STRATEGIES[plan.strategy],
            seed=plan.seed,
        )
        say(f"tuning     {plan.name}: {plan.jobs} jobs, {plan.parallel} at a time")
        try:
            search(study, lambda trial: JobTraining.begin(plan, trial), Limits(plan.jobs, workers=plan.parallel), say)
        except Interrupted:
            say(f"stopped; continue with the same command and --job-name {plan.name}")
            raise
    best, rows = study.best(), study.rows()
    if best is None or best.score is None:
        raise UserError(f"None of the jobs was completed in {plan.folder}.", first_reason(study))
    return Found(
        example=plan.example,
        strategy=plan.strategy,
        fixed=plan.settings,
        ranges=plan.space.ranges,
        rows=rows,
        best=best,
        defaults=rows[0],
        score=best.score,
        metrics=best.notes["metrics"],
        model=str(best.notes["model"]),
        note="the model is that of the best training job; its test score played no part",
        importance=study.importance(),
    )


@dataclass(frozen=True)
class JobTraining:
    """A training job in a process of its own, judged by its log, as SageMaker does.

    Attributes:
        folder: with the job's results.
        regex: that finds the objective in a line of the log.
    """

    folder: Path
    regex: re.Pattern[str]
    worker: Worker

    @classmethod
    def begin(cls, plan: Tuning, trial: Trial) -> JobTraining:
        """Starts the job of a trial, or goes on with it."""
        name = f"{plan.name}-{trial.number:03}"
        place = dataclasses.replace(plan.place, job_name=name)
        words = arguments.words(plan.options, {**plan.settings, **trial.values})
        log = plan.folder / "launches" / f"{name}.txt"
        worker = Worker(_train, (plan.example.name, words, place), log, ["common.sagemaker.training.here", "torch"])
        definitions = {d["Name"]: d["Regex"] for d in metric_definitions(plan.example)}
        folder = (Path(place.out) / "sagemaker" / name).resolve()
        return cls(folder, re.compile(definitions[plan.example.objective]), worker)

    def scores(self) -> list[float]:
        log = self.folder / "log.txt"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        return [float(found[1]) for line in lines if (found := self.regex.search(line))]

    def finished(self) -> bool:
        return self.worker.code is not None

    def outcome(self) -> tuple[float, dict[str, Any]]:
        """The last value in the log: it is that of the weights that the run kept."""
        if self.worker.code != 0:
            failure = self.folder / "failure"
            raise UserError(failure.read_text(encoding="utf-8").strip()) if failure.exists() else self.worker.failure()
        done = read_json(self.folder / "job.json")
        scores = self.scores()
        if not scores:
            raise UserError(f"The job {self.folder.name} logged nothing that {self.regex.pattern} finds.")
        return scores[-1], {"model": done["model"], "metrics": done["metrics"], "seconds": done["seconds"]}

    def stop(self) -> None:
        self.worker.stop()

    def tidy(self) -> None:
        """Nothing: a job's checkpoints are small beside what it costs to lose one, and it may be continued by name."""


def _train(example: str, words: list[str], place: Place) -> int:
    """What the worker does: the job, as run_training.py would run it."""
    outcome = fast_local.train(training_job(example, words, place))
    return outcome.exit_code if outcome else 0
