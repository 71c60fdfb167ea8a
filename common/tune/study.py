"""The memory of a search: every trial in an SQLite file, complete or still to be done, whatever interrupts it.

Optuna proposes and judges; this module makes its study repeatable. What it proposes for trial n depends on the seed, n
and the trials before it, so that a search that was stopped proposes what one that was never stopped would have.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import explain_write_errors
from common.machine.device import mix_seed
from common.tune.space import Space, plain_ranges

if TYPE_CHECKING:
    import optuna

STRATEGIES = ("tpe", "hyperband", "random")
RANDOM_TRIALS = 4  # after the defaults, before TPE has enough to go by
JUDGES = 4  # complete trials that a median needs


@dataclass(frozen=True)
class TrialRow:
    """One trial as it stands in the file.

    Attributes:
        state: "complete", "pruned", "failed", "running" or "waiting".
        score: the objective; of a pruned trial its last one.
        scores: the objective after each validation.
        notes: what the trainer noted, such as where the run lies.
    """

    number: int
    state: str
    values: dict[str, Any]
    score: float | None
    scores: list[float]
    notes: dict[str, Any]


@dataclass
class Trial:
    """A trial that is being trained: its settings, and how many of its validations have been reported."""

    number: int
    values: dict[str, Any]
    reported: int
    handle: optuna.Trial = field(repr=False)


class Study:
    """A search on disk.

    Args:
        folder: holds `study.db`; made if it is not there.
        made_with: what another search must have in common with this one to continue it.
        goal: "maximize" or "minimize".
    """

    def __init__(
        self, folder: Path, space: Space, made_with: dict[str, Any], *, goal: str, strategy: str, seed: int
    ) -> None:
        optuna = optuna_or_error()
        self.space, self.goal, self.strategy, self._seed = space, goal, strategy, seed
        self._distributions = space.distributions()
        self._validations = 0
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
        # Hyperband sorts trials into brackets by this name: it must be the same each time.
        self._study = optuna.create_study(
            storage=self._storage, study_name="study", direction=goal, load_if_exists=True
        )
        self._compare(folder, made_with | {"ranges": plain_ranges(space.ranges), "strategy": strategy, "seed": seed})
        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._wait_again(trial._trial_id)
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(space.defaults)  # trial 0: what has to be beaten

    def _compare(self, folder: Path, made_with: dict[str, Any]) -> None:
        text = json.dumps(made_with, sort_keys=True)
        saved = json.loads(self._study.user_attrs.setdefault("made_with", text))
        for name, value in json.loads(text).items():
            if saved.get(name) != value:
                raise UserError(
                    f"{folder} was made with other {name}: {_short(saved.get(name))}, not {_short(value)}.",
                    "Continue with the same command, or drop --resume to start another search.",
                )
        self._study.set_user_attr("made_with", text)

    @property
    def begun(self) -> int:
        """How many trials are finished or being trained."""
        return sum(row.state != "waiting" for row in self.rows())

    def rows(self) -> list[TrialRow]:
        """All trials by number."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
        return [
            TrialRow(
                trial.number,
                names.get(trial.state.name, "waiting"),
                dict(trial.params),
                trial.value,
                [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
                dict(trial.user_attrs),
            )
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def best(self) -> TrialRow | None:
        """The complete trial with the best score, of equal ones the first; None before any."""
        sign = 1 if self.goal == "maximize" else -1
        complete = [row for row in self.rows() if row.state == "complete"]
        return max(complete, key=lambda row: (sign * float(row.score or 0), -row.number), default=None)

    def ask(self) -> Trial:
        """The next trial: one that was interrupted, or a new one."""
        trials = self._study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state.name == "WAITING"]
        self._study.sampler = self._sampler(min(waiting, default=len(trials)))
        self._study.pruner = self._pruner()  # the sampler of Hyperband looks at trials of the same bracket
        handle = self._study.ask(self._distributions)
        known = self._study.get_trials(deepcopy=False)[handle.number].intermediate_values
        return Trial(handle.number, dict(handle.params), len(known), handle)

    def report(self, trial: Trial, scores: list[float]) -> bool:
        """Notes the objective after each validation so far; whether the trial should stop there.

        The validations are judged one by one: what comes of it does not depend on how often somebody looks.
        """
        for step in range(trial.reported + 1, len(scores) + 1):
            trial.handle.report(scores[step - 1], step)
            trial.reported = step
            self._study.pruner = self._pruner()
            if trial.handle.should_prune():
                return True
        return False

    def complete(self, trial: Trial, score: float, **notes: Any) -> None:
        self._note(trial, notes)
        self._study.tell(trial.handle, score)

    def prune(self, trial: Trial, **notes: Any) -> None:
        self._note(trial, notes)
        self._study.tell(trial.handle, state=optuna_or_error().trial.TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str, **notes: Any) -> None:
        self._note(trial, notes | {"reason": reason})
        self._study.tell(trial.handle, state=optuna_or_error().trial.TrialState.FAIL)

    def put_back(self, trial: Trial) -> None:
        """Lets an interrupted trial wait for the next search, which goes on with it."""
        self._wait_again(trial.handle._trial_id)

    def importance(self) -> dict[str, float]:
        """The share of each setting in the spread of the scores, the largest first; empty if there are too few.

        By PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255).
        """
        scores = {row.score for row in self.rows() if row.state == "complete"}
        if len(scores) < JUDGES:
            return {}
        shares = optuna_or_error().importance.get_param_importances(self._study)
        return {name: share for name, share in shares.items() if math.isfinite(share)}

    def _note(self, trial: Trial, notes: dict[str, Any]) -> None:
        for name, value in notes.items():
            trial.handle.set_user_attr(name, value)

    def _wait_again(self, trial_id: int) -> None:
        self._storage.set_trial_state_values(trial_id, optuna_or_error().trial.TrialState.WAITING)

    def _sampler(self, number: int) -> Any:
        samplers, seed = optuna_or_error().samplers, mix_seed(self._seed, "trial", number)
        if self.strategy == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, multivariate=True)

    def _pruner(self) -> Any:
        pruners = optuna_or_error().pruners
        if not self._validations:  # of a whole training, once there is one
            self._validations = next((len(row.scores) for row in self.rows() if row.state == "complete"), 0)
        if self.strategy == "hyperband" and self._validations:
            return pruners.HyperbandPruner(min_resource=1, max_resource=self._validations, reduction_factor=3)
        # Of the first half, at least the first validation, nothing is judged: while the learning rate is high, what
        # will win at its end often lies behind.
        grace = max(1, self._validations // 2)
        return pruners.MedianPruner(n_startup_trials=JUDGES, n_warmup_steps=grace + 1, n_min_trials=JUDGES)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second process from searching in the same folder; the lock ends with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is being searched by another process.", "Wait for it, or stop it.") from None
        yield


def optuna_or_error() -> Any:
    """The library; UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("Tuning needs Optuna.", "pip install -e '.[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _short(value: Any, length: int = 120) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= length else text[: length - 1] + "…"
