"""The Run: one training on disk, from its first step to its result, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from common.config import Config, read_json
from common.data.loaders import Batches
from common.errors import Interrupted, UserError
from common.files import explain_write_errors, write_json
from common.machine import device, distributed
from common.machine.facts import facts
from common.training import checkpoint, lock
from common.training.tracking import Progress, Taken, Tracker, Window

if TYPE_CHECKING:
    from common.kinds.answer import Answer

C = TypeVar("C", bound=Config)
LOG_LINES = 50  # about as many log lines as a run writes during training, whatever its length
# At most this share of training time goes into writing checkpoints, however slow the disk.
CHECKPOINT_SHARE = 0.005


class Run:
    """One training: its folder, its state, its loop.

    Everything that changes during training is either passed to `track`, put into `state`, or in a global
    random state; a checkpoint holds all three, so that a resumed run ends with the same bits as one that was
    never stopped.

    Args:
        folder: of this run; created when training starts, so that a mistake found before leaves nothing behind.
        example: name of the example, such as "vision.train".
        config: resolved and checked.
        resume: go on from the newest whole checkpoint in `folder`.
        quiet: say nothing on stderr.
        given: names of the settings that the user said; all others are defaults, which may be fitted to the data.

    Attributes:
        device: where to compute.
        plan: number format and memory layout, once `place` has chosen them.
        step: optimiser steps done.
        epoch: the epoch of the current batch, from 0.
        state: small plain values that belong to the training, such as the best score so far.
        sections: of the report, added by the example: what it alone can show.
        provenance: of the data, once `cite` has said it.
        lock: of the folder, held from the start of training; whoever made the run releases it.
        longer: whether a resumed run was given more steps than it had.
        usage: how an input is given to `common.predict`, once the model is saved.
        answer: the kind of what the model answers, likewise; it has a part of the report.
        listeners: called with the step and the values of every line of metrics, beside TensorBoard.
    """

    def __init__(
        self,
        folder: Path,
        example: str,
        config: Config,
        *,
        resume: bool = False,
        quiet: bool = False,
        given: Collection[str] = (),
    ) -> None:
        self.example = example
        self.config = config
        self.resume = resume
        self._given = given
        self.progress = Progress(quiet or distributed.rank() > 0)
        self._facts = read_json(folder / "config.json") if resume else {}
        device.keep_freed_memory()
        self.device, self.device_why = self._pick_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # graphs and streams are made where the current device says
        self.folder = distributed.share(folder)  # clocks differ; all ranks take the name that rank 0 chose
        device.set_threads(distributed.local_world())
        device.seed_everything(config.seed)
        self.plan: device.Plan | None = None
        self.step = 0
        self.epoch = 0
        self.last_in_epoch = False
        self.state: dict[str, Any] = {}
        self.checkpoints = checkpoint.Checkpoints(self.folder / "checkpoints")
        self.tracker = Tracker(None)
        self.train_seconds = 0.0
        self.created = False  # whether the folder is this process's own making
        self.lock = lock.Held(self.folder, None)
        self.sections: list[Any] = []
        self.provenance = ""
        self.usage = "FILES..."
        self.answer: Answer | None = None
        self.longer = False
        self.listeners: list[Callable[[int, dict[str, float]], None]] = []
        self._tracked: dict[str, Any] = {}
        self._own: dict[str, Any] = {}  # of this process alone
        self._best: dict[str, Tensor] | None = None
        self._best_saved = True
        self._window = Window()
        self._taken: tuple[int, int, Taken] | None = None  # its last step and epoch, and what was logged until then
        self._saved_at, self._save_seconds, self._saved_step = time.monotonic(), 0.0, -1
        self._signal = 0
        self._log_every, self._total = 1, 0
        self._save_every: int | None = None
        self._device_said = False
        if config.device != "auto" or self.device.type == "cpu":
            self._say_device()  # else it may still change: see `prefer_cpu`

    def _pick_device(self) -> tuple[torch.device, str]:
        saved, asked, rank = self._facts.get("device"), self.config.device, distributed.local_rank()
        begun = device.begun_on(saved, rank) if isinstance(saved, str) and asked == "auto" else None
        return begun or device.pick_device(asked, rank)

    def _say_device(self) -> None:
        if not self._device_said:
            self.progress.say(f"device     {device.describe(self.device)} ({self.device_why})")
        self._device_said = True

    def not_repeatable(self, operator: str) -> None:
        """Notes that an operator of this training sums in no fixed order: the bits can't be had again. Said once."""
        noted = self.state.setdefault("not_repeatable", [])
        if not noted:
            self.progress.say(
                f"note       not bit-reproducible on this device: {operator} sums in no fixed order. A repeated or "
                "resumed run ends with slightly other weights."
            )
        if operator not in noted:
            noted.append(operator)

    # -- what the training consists of ------------------------------------------------------------------

    def prefer_cpu(self, model: nn.Module, sample: Tensor, batch: int) -> None:
        """Leaves the GPU that `--device auto` found where the CPU trains this network faster; call it before `place`.

        For training whose data come from the CPU at each step, such as that of an agent.

        Args:
            sample: one input, [1, ...].
            batch: samples per step.
        """
        chosen = self.config.device == "auto" and not self._facts.get("device") and distributed.world() == 1
        why = device.why_cpu(model, sample, batch) if chosen and self.device.type != "cpu" else ""
        if why:
            self.device, self.device_why = torch.device("cpu"), why

    def place(self, model: nn.Module, sample: Any) -> nn.Module:
        """Moves a model to the device in the number format and layout that suit it, and compiles it if asked.

        The first model placed decides the plan of the run; a resumed run takes the plan it was started with.

        Args:
            sample: one input, [1, ...] or a nest of such tensors, by which the work of the model is judged.
        """
        self._say_device()
        if self.plan is None:
            saved = self._facts.get("plan")
            asked = self.config.precision
            place = self.folder / "config.json"
            self.plan = device.Plan.from_json(saved, place) if saved else device.plan(model, sample, self.device, asked)
            torch.set_num_threads(self.plan.threads)
            layout = ", channels last" if self.plan.channels_last else ""
            self.progress.say(f"precision  {self.plan.precision}{layout} ({self.plan.why})")
        model = model.to(self.device).to(memory_format=self.plan.memory_format)
        if self.config.compile:
            model.compile()  # in place: the names of the weights stay as they are
        return model

    def cite(self, provenance: str) -> None:
        """Says where the data come from and how they were split; it stands in the report too."""
        self.provenance = provenance
        self.progress.say(f"data       {provenance}")

    def settle(self, config: C, samples: int | None = None) -> C:
        """The config that this run is made with, now that the data are known; it is kept with the run, and said.

        A default batch size that is larger than the data becomes a quarter of them.

        Args:
            config: with every setting decided.
            samples: of the training data; None where there is no data set.

        Raises:
            UserError: there are more processes than samples.
        """
        batch, world = config.batch_size or 0, distributed.world()
        if samples is not None and samples < world:
            raise UserError(f"{world} processes can't share {samples} training samples.", f"Start {samples} or fewer.")
        size = batch if samples is None or samples >= batch else max(1, samples // 4)
        size = max(1, size // world) * world  # each process gets as many
        if batch and size != batch and "batch_size" not in self._given and not self.resume:
            why = (
                f"there are {samples} training samples"
                if samples is not None and samples < batch
                else f"{world} share them"
            )
            self.progress.say(f"note       batches of {size} instead of {batch}: {why}")
            config = dataclasses.replace(config, batch_size=size)
        self.config = config
        self.progress.say(f"settings   {config.describe()}")
        return config

    def autocast(self) -> Any:
        """The context for forward passes: the number format that `place` chose."""
        assert self.plan is not None, "place a model first"
        return self.plan.autocast(self.device)

    def track(self, **parts: Any) -> None:
        """Names what a checkpoint holds: anything with `state_dict` and `load_state_dict`."""
        self._tracked.update(parts)

    def track_each(self, **parts: Any) -> None:
        """The same for what every process has of its own, such as a replay memory: each saves and restores its own."""
        self._own.update(parts)

    # -- the loop ---------------------------------------------------------------------------------------

    def loop(
        self,
        batches: Batches | None = None,
        *,
        epochs: int = 1,
        steps: int | None = None,
        checkpoint_every: int | None = None,
    ) -> Iterator[Any]:
        """Yields the batches (or step numbers, without batches) that are still to be trained on.

        After each one: count, log, save when due, and stop when asked to. The code behind the last batch of an
        epoch (`run.last_in_epoch`) belongs to that step: a validation there is repeated or not, never halved.

        Args:
            checkpoint_every: save after every so many steps and at no other, whatever the clock says. For training
                whose checkpoints leave a mark, such as environments that can't be saved and start anew there: the
                mark is then the same in every run. Being stopped saves nothing more; such a run goes back to the
                last of these steps.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the step is finished and saved.
            UserError: a logged value is not finite.
        """
        per_epoch = len(batches) if batches is not None else steps or 1
        total = epochs * per_epoch if batches is not None else per_epoch
        if steps is not None:
            total = min(total, steps) if batches is not None else steps
        self._total, self._log_every = total, max(10, total // LOG_LINES)
        self._save_every = checkpoint_every
        self._begin(total)
        began, spent = time.monotonic(), self.train_seconds
        try:
            while self.step < total and not self.stopped:
                self.epoch, start = divmod(self.step, per_epoch)
                source = batches.epoch(self.epoch, start) if batches is not None else iter(range(start, total))
                for batch in source:
                    self.last_in_epoch = (self.step + 1) % per_epoch == 0
                    yield batch
                    self.step += 1
                    self.train_seconds = spent + time.monotonic() - began
                    self._after_step(last=self.step >= total or self.stopped)
                    if self.step >= total or self.stopped:
                        break
            self.save_checkpoint()
        finally:
            self.progress.stop()
            self._release_signals()

    def log(self, **values: Tensor | float) -> None:
        """Notes values of this step. Means are written every few steps; the device is not made to wait."""
        self._window.add(values)

    def log_now(self, **values: float) -> None:
        """Writes values that stand for themselves, such as those of a validation."""
        self._write_taken()
        for name, value in values.items():
            if not -float("inf") < value < float("inf"):
                self.flush()  # names the step of the loss that went wrong first, where there is one
                self._fail(name, value, self.step + 1)
        self._write(self.step + 1, self.epoch, values)
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.progress.say(f"epoch {self.epoch + 1:>3}  step {self.step + 1:>6}  {text}")

    def _write(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self.tracker.scalars(step, epoch, values)
        for listen in self.listeners:
            listen(step, values)

    def stop(self, reason: str) -> None:
        """Ends the loop after this step."""
        self.state["stopped"] = reason
        self.progress.say(f"stopped early: {reason}")

    @property
    def stopped(self) -> bool:
        return "stopped" in self.state

    def flush(self) -> None:
        """Writes the means of what was logged since the last time, and checks that they are finite."""
        self._write_taken()
        self._take()
        self._write_taken()

    def _take(self) -> None:
        """Ends the window here. It is written a step later: a GPU then has that step to do and does not stand still."""
        self._taken = (self.step, self.epoch, self._window.take())

    def _write_taken(self) -> None:
        if self._taken is None:
            return
        last, epoch, taken = self._taken
        self._taken = None
        values = self._mean_of_all(taken.values())
        means = {name: sum(v) / len(v) for name, v in values.items()}
        length = max((len(v) for v in values.values()), default=0)
        for name, series in values.items():
            for position, value in enumerate(series):
                if not -float("inf") < value < float("inf"):
                    rate = values["lr"][position] if "lr" in values else None
                    self._fail(name, value, last - length + position + 1, rate)
        if means:
            self._write(last, epoch, means)
            self.progress.note("  ".join(f"{name} {value:.4g}" for name, value in means.items()))

    def _mean_of_all(self, values: dict[str, list[float]]) -> dict[str, list[float]]:
        """A window's values, step by step the mean over the processes, whose shares of a batch are equal."""
        windows = distributed.gather(values)
        return {
            name: [sum(step) / len(windows) for step in zip(*(w[name] for w in windows), strict=True)]
            for name in windows[0]
        }

    def _fail(self, name: str, value: float, step: int, rate: float | None = None) -> None:
        steps = self.checkpoints.steps()
        good = f"The last good checkpoint is {self.checkpoints.folder}/step-{steps[-1]}.pt." if steps else ""
        at = f" at a learning rate of {rate:.3g}" if rate is not None else ""
        raise UserError(f"{name} became {value} at step {step}{at}.", f"Try a lower --lr. {good}".strip())

    def _after_step(self, last: bool) -> None:
        self.progress.update(self.step, self.epoch + 1)
        # What is left behind the last whole window joins it: a mean of a few steps would stand apart in the chart.
        whole = self.step % self._log_every == 0 and self._total - self.step >= self._log_every
        self._write_taken()
        if last:
            self.flush()
        elif whole:
            self._take()
        # Ranks see signals and clocks differently; they act on the largest of what they say.
        wish = distributed.agree(float(self._signal) or (0.5 if self._due() else 0.0))
        if wish and (self._save_every is None or self.step % self._save_every == 0):
            self.save_checkpoint()
        if wish >= 1:
            raise Interrupted(int(wish))

    def _due(self) -> bool:
        if self._save_every is not None:
            return self.step % self._save_every == 0
        waited = time.monotonic() - self._saved_at
        wait = self.config.checkpoint_seconds
        return waited >= (max(wait, self._save_seconds / CHECKPOINT_SHARE) if wait else 0)

    # -- checkpoints ------------------------------------------------------------------------------------

    def keep_best(self, score: float, weights: dict[str, Tensor]) -> bool:
        """Keeps these weights if no earlier score was higher; they reach the disk with the next checkpoint.

        Returns:
            whether they were kept. Of equal scores the later is kept.
        """
        if score < self.state.get("best_score", -float("inf")):
            return False
        self.state.update(best_score=score, best_step=self.step + 1)
        self._best = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
        self._best_saved = False
        return True

    def best(self) -> dict[str, Tensor]:
        """The weights that `keep_best` kept."""
        return self._best if self._best is not None else self.checkpoints.load_best()["weights"]

    def save_checkpoint(self) -> None:
        """Saves now, unless this step is saved already. Every rank takes part; rank 0 writes."""
        if self.step == self._saved_step:  # known to every rank alike, as what lies on the disk is not
            return
        began = time.monotonic()
        self._write_taken()  # before the checkpoint, so that no line is written a second time after a resume
        values = self._window.fetch()
        finite = all(-float("inf") < v < float("inf") for series in values.values() for v in series)
        if distributed.agree(float(not finite)):
            self.flush()  # raises: weights that gave NaN are not worth keeping
        random_states = distributed.gather(device.rng_state(self.device))
        own = {name: part.state_dict() for name, part in self._own.items()}
        if distributed.rank() > 0 and own:
            self._own_checkpoints().save(self.step, own)
        if own:
            distributed.agree(0.0)  # all have theirs before the checkpoint that counts on it
        if distributed.rank() == 0:
            state = {
                "parts": {**{name: part.state_dict() for name, part in self._tracked.items()}, **own},
                "state": self.state,
                "step": self.step,
                "window": values,
                "rng": random_states,
                "seconds": {"train": self.train_seconds, "total": self.tracker.seconds},
            }
            if not self._best_saved:  # before the checkpoint that counts on it
                self.checkpoints.save_best({"weights": self._best, "step": self.state["best_step"]})
                self._best_saved = True
            self.checkpoints.save(self.step, state)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began
        self._saved_step = self.step

    def _own_checkpoints(self) -> checkpoint.Checkpoints:
        """Where a process other than the first keeps what is its own."""
        return checkpoint.Checkpoints(self.checkpoints.folder / f"rank-{distributed.rank()}")

    def _begin(self, total: int) -> None:
        """Makes the folder, or restores what was saved in it."""
        clock = 0.0
        self._saved_at = time.monotonic()
        if distributed.world() > 1:  # each rank its own stream, for dropout
            torch.manual_seed(device.mix_seed(self.config.seed, "rank", distributed.rank()))
        if self.resume:
            clock = self._restore(total)
            if self.longer:
                self._lengthen()
        else:
            if distributed.rank() == 0:
                self._create()
            self.folder = distributed.share(self.folder)
            self.checkpoints = checkpoint.Checkpoints(self.folder / "checkpoints")
        self.state |= {"total": total, "legs": self.state.get("legs", [0])}
        self.tracker.close()
        self.tracker = Tracker(self.folder if distributed.rank() == 0 else None, self.step, clock)
        self.progress.start(total, self.step)
        self._catch_signals()

    def _create(self) -> None:
        named, count = self.folder, 1
        with explain_write_errors(named):
            named.parent.mkdir(parents=True, exist_ok=True)
            while True:  # another run may have taken the name since it was chosen
                try:
                    self.folder.mkdir()
                    self.created = True
                    self.lock = lock.take(self.folder)  # before config.json, by which --resume finds it
                    break
                except FileExistsError:
                    count += 1
                    self.folder = named.parent / f"{named.name}-{count}"
        write_json(
            self.folder / "config.json",
            {
                "example": self.example,
                "config": self.config.to_dict(),
                **facts(self.device, self.device_why, self.plan),
            },
        )
        self.progress.say(f"run        {self.folder}")

    def _restore(self, total: int) -> float:
        step, state, damaged = self.checkpoints.latest()
        for line in damaged:
            self.progress.say(f"warning: {line} Using the one before it.")
        if state is None:
            self.progress.say(f"resume     {self.folder} has no checkpoint yet: starting at step 0")
            return 0.0
        if len(state["rng"]) != distributed.world():
            raise UserError(
                f"{self.folder} was trained by {len(state['rng'])} processes, this is {distributed.world()}.",
                "Resume with the same number.",
            )
        parts = dict(state["parts"])
        if distributed.rank() > 0 and self._own:
            parts |= checkpoint.read(self._own_checkpoints().folder / f"step-{step}.pt")
        self.state, self.step = state["state"], step
        longer = self._begin_leg(total)
        for name, part in {**self._tracked, **self._own}.items():
            if name not in parts:
                raise UserError(f"The checkpoint of {self.folder} holds no {name}.", "It was made by another version.")
            restarts = hasattr(part, "restart") and len(self.state["legs"]) > 1
            if restarts:
                part.restart(total - self.state["legs"][-1])
            if restarts and longer:
                continue
            try:
                part.load_state_dict(parts[name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"The {name} in the checkpoint of {self.folder} does not fit what its config.json describes."
                raise UserError(what, "It was changed, or made by another version.") from error
        self._saved_step = step
        self._window.load(state["window"])
        device.set_rng_state(state["rng"][distributed.rank()], self.device)
        self.train_seconds = state["seconds"]["train"]
        self.progress.say(f"resume     {self.folder} at step {step}")
        return float(state["seconds"]["total"])

    def _lengthen(self) -> None:
        """Makes it a run that is on its way, now that its data and its checkpoint are known to be there."""
        if distributed.rank() == 0:
            (self.folder / "result.json").unlink(missing_ok=True)  # first: a run with a result is never continued
            write_json(self.folder / "config.json", self._facts | {"config": self.config.to_dict()})
        distributed.share(None)  # all wait for it

    def _begin_leg(self, total: int) -> bool:
        """Whether the run was given more steps than it had: they are a leg with schedules of its own."""
        legs = self.state.setdefault("legs", [0])
        if total <= self.state.get("total", total):
            return False
        legs.append(self.step)
        self.state.pop("stopped", None)
        self.progress.say(f"longer     {total - self.step:,} steps from here, with a schedule of their own")
        return True

    # -- signals ----------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        def note(number: int, frame: FrameType | None) -> None:
            if self._signal:  # the second one does not wait for the step
                raise Interrupted(number)
            self._signal = number
            then = "saving" if self._save_every is None else "stopping; the last checkpoint counts"
            self.progress.say(f"{signal.Signals(number).name}: finishing this step, then {then}")

        self._handlers = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
