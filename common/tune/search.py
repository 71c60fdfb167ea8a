"""The search itself: some trainings at a time, each watched, the hopeless ones stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from common.errors import UserError
from common.tune.study import Study, Trial

LOOK = 0.1  # seconds between two looks at the trainings


class Training(Protocol):
    """One trial's training, wherever it runs."""

    def scores(self) -> list[float]:
        """The objective after each validation so far."""

    def finished(self) -> bool:
        """Whether it has ended, well or not; all its scores are there then."""

    def outcome(self) -> tuple[float, dict[str, Any]]:
        """Once finished: the objective of the model it kept, and notes for the study; UserError if it failed."""

    def stop(self) -> None:
        """Ends it now if it runs; returns when it has ended."""

    def tidy(self) -> None:
        """Removes what only a training that goes on would need."""


Trainer = Callable[[Trial], Training]


@dataclass(frozen=True)
class Limits:
    """How long to search: `trials` in all, of which none begins after `seconds`; `workers` at the same time."""

    trials: int
    seconds: float | None = None
    workers: int = 1


def search(study: Study, trainer: Trainer, limits: Limits, say: Callable[[str], None]) -> None:
    """Trains trials until the study has as many as it should.

    Whatever ends it early, a signal as well, stops the trainings and leaves their trials waiting in the study.

    Raises:
        UserError: the defaults (trial 0) failed, and so would most of the others.
    """
    began = time.monotonic()
    running: dict[int, tuple[Trial, Training]] = {}

    def more() -> bool:
        late = limits.seconds is not None and time.monotonic() - began >= limits.seconds
        return len(running) < limits.workers and not late and study.begun < limits.trials

    try:
        while True:
            while more():
                trial = study.ask()
                running[trial.number] = (trial, trainer(trial))
            if not running:
                return
            for number, (trial, training) in list(running.items()):
                if _look(study, trial, training, say):
                    del running[number]
                    training.tidy()
            time.sleep(LOOK)
    finally:
        for trial, training in running.values():
            training.stop()
            study.put_back(trial)


def _look(study: Study, trial: Trial, training: Training, say: Callable[[str], None]) -> bool:
    """Reports what is new of a training; whether its trial is settled."""
    finished = training.finished()  # asked before the scores are read, so that none is missed
    if study.report(trial, training.scores()):
        training.stop()
        study.prune(trial)
        say(f"trial {trial.number:>3}  pruned after {trial.reported} validations  {described(trial.values)}")
        return True
    if not finished:
        return False
    try:
        score, notes = training.outcome()
    except UserError as error:
        if trial.number == 0:
            raise UserError(f"The trial with the default settings failed: {error.what}", error.hint) from error
        study.fail(trial, error.what)
        say(f"trial {trial.number:>3}  failed  {described(trial.values)}  {error.what}")
        return True
    best = study.best()
    study.complete(trial, score, **notes)
    after = study.best()
    news = "  best so far" if best is None or (after and after.number == trial.number) else ""
    say(f"trial {trial.number:>3}  {score:.6g}  {described(trial.values)}{news}")
    return True


def described(values: dict[str, Any]) -> str:
    """Settings on one line, such as `lr 0.0123, dropout 0.2`."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
