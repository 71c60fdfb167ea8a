"""Tunes an example: the search over its ranges, then one training with what was found best."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from common.command import exits as command
from common.command.arguments import Options
from common.config import read_json
from common.errors import Interrupted, UserError
from common.example import Example
from common.files import write_json
from common.training import checkpoint
from common.training.folders import find_run, new_folder
from common.training.tracking import read_history
from common.tune import page
from common.tune.found import Found
from common.tune.search import Limits, search
from common.tune.space import Space, space_of
from common.tune.study import Study, Trial, alone, optuna_or_error
from common.tune.workers import Worker, train

# What a run of an example imports late, and would again in every trial; the first of them for every optimiser.
PRELOAD = [
    "torch._dynamo",
    "common.command.execute",
    "torch.utils.tensorboard",
    "matplotlib.figure",
    "safetensors.torch",
    "sklearn.metrics",
]


@dataclass(frozen=True)
class Request:
    """What is to be tuned.

    Attributes:
        options, settings: of the example, as its command line was read.
        strategy: one of `study.STRATEGIES`.
        resume: go on with the newest search of the example under `out`.
    """

    example: Example
    options: Options
    settings: dict[str, Any]
    limits: Limits
    strategy: str = "tpe"
    out: str = "runs"
    resume: bool = False
    quiet: bool = False


def tune(request: Request) -> dict[str, Any]:
    """Searches, trains once more with the best settings, and writes `tune.html` and `result.json`.

    The search sees the example's objective, which is measured on validation data. Test scores are noted by every run
    and looked at only when the search is over: of the defaults and of the final training.

    Raises:
        UserError: a mistake in the request, or no trial that worked.
    """
    example = request.example
    space = space_of(example, request.options, request.settings)
    optuna_or_error()
    folder = _folder(request)
    say = _silence if request.quiet else command.say
    with signals_as_interrupts(), alone(folder):
        study = open_study(request, space, folder)
        say(f"search     {folder}")
        try:
            search(study, lambda trial: _begin(request, folder, trial), request.limits, say)
            best = study.best()
            if best is None:
                raise UserError(f"None of the trials was completed in {folder}.", first_reason(study))
            say(f"refit      with the settings of trial {best.number}")
            final = _refit(request, folder, best.number, best.values)
        except Interrupted:
            say("stopped; continue with the same command and --resume")
            raise
    found = _found(request, space, study, final)
    result = found.to_json() | {"study": str(folder)}
    page.write(folder / "tune.html", found)
    write_json(folder / "result.json", result)
    for line in found.lines():
        say(line)
    say(f"report     {folder / 'tune.html'}")
    say(f"predict    python -m common.predict {final.run} FILES...")
    return result


def open_study(request: Request, space: Space, folder: Path) -> Study:
    """The study of a request, new or to be continued."""
    example = request.example
    asked = {"tiny": request.options.tiny, "config": request.options.config, **request.settings}
    made_with = {"example": example.name, "objective": example.objective, "arguments": asked}
    seed = int(request.settings.get("seed", 0))
    return Study(folder, space, made_with, goal=example.goal, strategy=request.strategy, seed=seed)


@dataclass(frozen=True)
class ExampleTraining:
    """A run of the example in a process of its own, watched through its `metrics.jsonl`.

    Attributes:
        folder: of this trial; its run lies under it.
    """

    example: Example
    folder: Path
    worker: Worker

    @property
    def run(self) -> Path | None:
        """Its folder, once the training has begun."""
        return find_run("latest", self.folder, self.example.name)

    def scores(self) -> list[float]:
        return [row[self.example.objective] for row in self._history()]

    def finished(self) -> bool:
        return self.worker.code is not None

    def outcome(self) -> tuple[float, dict[str, Any]]:
        run = self.run
        if self.worker.code != 0 or run is None:
            raise self.worker.failure()
        result = read_json(run / "result.json")
        notes = {"run": str(run), "metrics": result["metrics"], "seconds": result["seconds"]["total"]}
        return self.score(), notes

    def score(self) -> float:
        """The objective of the weights that the run kept: of its best validation if it keeps those, else of the last.

        Raises:
            UserError: the run never logged the objective.
        """
        history, run = self._history(), self.run
        if not history or run is None:
            raise UserError(
                f"{self.example.name} logged no {self.example.objective}.",
                "Its objective must be what it validates by.",
            )
        kept = run / "checkpoints" / "best.pt"
        step = checkpoint.read(kept)["step"] if kept.exists() else history[-1]["step"]
        return float(next(row for row in reversed(history) if row["step"] <= step)[self.example.objective])

    def stop(self) -> None:
        self.worker.stop()

    def tidy(self) -> None:
        if self.run is not None:
            shutil.rmtree(self.run / "checkpoints", ignore_errors=True)

    def _history(self) -> list[dict[str, Any]]:
        run = self.run
        return [row for row in read_history(run) if self.example.objective in row] if run else []


@dataclass(frozen=True)
class Final:
    """The training with the best settings: its run, the number of the trial that had them, and its objective."""

    run: Path
    trial: int
    score: float
    metrics: dict[str, float]


def _begin(request: Request, folder: Path, trial: Trial) -> ExampleTraining:
    return _training(request, folder / f"trial-{trial.number}", trial.values, request.limits.workers)


def _training(request: Request, folder: Path, values: dict[str, Any], workers: int) -> ExampleTraining:
    example = request.example
    options = replace(request.options, out=str(folder), resume="latest", json=False, quiet=False)
    worker = Worker(
        train,
        (example.name, options, {**request.settings, **values}, workers),
        folder / "log.txt",
        [example.config.__module__, *PRELOAD],
    )
    return ExampleTraining(example, folder, worker)


def _refit(request: Request, folder: Path, number: int, values: dict[str, Any]) -> Final:
    training = _training(request, folder / f"refit-{number}", values, 1)
    try:
        training.worker.wait()
    except BaseException:
        training.stop()
        raise
    score, notes = training.outcome()
    return Final(Path(notes["run"]), number, score, notes["metrics"])


def _found(request: Request, space: Space, study: Study, final: Final) -> Found:
    rows = study.rows()
    return Found(
        example=request.example,
        strategy=request.strategy,
        fixed=request.settings,
        ranges=space.ranges,
        rows=rows,
        best=rows[final.trial],
        defaults=rows[0],
        score=final.score,
        metrics=final.metrics,
        model=str(final.run),
        note="the model is of one more training with the settings, seed and splits of the best trial; its test score "
        "was looked at once",
        importance=study.importance(),
    )


def _folder(request: Request) -> Path:
    example, out = request.example.name, Path(request.out)
    found = sorted((out / example).glob("*-tune")) if request.resume else []
    return found[-1] if found else new_folder(out, example, "tune")


def first_reason(study: Study) -> str:
    reasons = [str(row.notes["reason"]) for row in study.rows() if "reason" in row.notes]
    return f"The first reason: {reasons[0]}" if reasons else "Give it more time."


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the search alike: trainings are saved, and the exit code says which it was."""

    def note(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _silence(text: str) -> None:
    """In the place of `say` for those who want to hear nothing."""
