"""Supervised training and evaluation: the loop that most examples share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from common.config import Config, Range, option
from common.data.loaders import Loader
from common.machine import distributed, nests
from common.training.run import Run
from common.training.step import Count, Loss, MovingAverage, Step

Score = Callable[[Any, Any], dict[str, float]]  # (outputs, targets) of the whole set -> figures by name
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class FitConfig(Config):
    """What every supervised training takes. Fields that an example leaves open are its recipe's to decide."""

    epochs: int = option(
        None, "passes over the training data", at_least=1, unset="by data set", grows=True, common=True
    )
    batch_size: int = option(
        None,
        "samples per step, over all processes",
        at_least=1,
        unset="by data set",
        tune=(16, 32, 64, 128),
        common=True,
    )
    lr: float = option(
        None,
        "peak learning rate",
        above=0,
        at_most=100,
        unset="by data set",
        tune=Range(1e-4, 3e-2, log=True),
        common=True,
    )
    optimizer: str = option("adamw", "optimiser", choices=("adamw", "sgd"))
    schedule: str = option("one-cycle", "learning-rate schedule", choices=("one-cycle", "cosine", "constant"))
    weight_decay: float = option(
        0.01, "weight decay of matrices and kernels", at_least=0, at_most=10, tune=Range(1e-3, 0.3, log=True)
    )
    accumulate: int = option(1, "pieces into which a batch is cut to save memory", at_least=1)
    clip: float = option(0.0, "largest norm of the gradient; 0 for none", at_least=0)
    ema: float = option(0.0, "decay of averaged weights, such as 0.999; 0 for none", at_least=0, at_most=0.99999)
    patience: int = option(0, "validations without improvement before stopping; 0 for never", at_least=0)


def fit(
    run: Run,
    model: nn.Module,
    loss_fn: Loss,
    train: Loader,
    config: FitConfig,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    count: Count | None = None,
    validate: Loader | Validate | None = None,
    validate_every: int = 0,
    score: Score | None = None,
    monitor: str = "val_loss",
) -> nn.Module:
    """Trains a model and leaves it with the best weights of its validations (the last ones without any).

    Args:
        model: placed by `run.place`.
        loss_fn: mean loss of a batch.
        train: batches of any shape.
        config: every setting decided; `batch_size` is the loader's. With `accumulate` the gradient is that of the whole
            batch; with `ema` the averaged weights are what is validated and kept.
        optimizer: one or several, such as one for matrices and one for the rest, in place of the one that the config
            names; each gets the schedule.
        count: what the loss is a mean over, such as the tokens of the targets, where that is not the samples.
        validate: batches, whose outputs are kept and scored together; or a function of the model that gives the
            figures itself, such as one that calls `mean_figures`.
        validate_every: steps between validations; 0 for one after every epoch. The last step always validates.
        score: validation figures by name from outputs and targets; `val_loss` by `loss_fn` where none is given.
        monitor: the figure that decides which weights are best; lower is better if it ends in "loss".
    """
    optimizer = optimizer or make_optimizer(config.optimizer, model, config.lr, config.weight_decay)
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    steps, every = config.epochs * len(train), validate_every or len(train)
    schedules = [Schedule(config.schedule, each, steps, warmup=len(train)) for each in optimizers]
    average = MovingAverage(model, config.ema) if config.ema else None
    step = Step(
        run, model, loss_fn, optimizers, count=count, accumulate=config.accumulate, clip=config.clip, average=average
    )
    run.track(model=model, scaler=step.scaler)
    for number, (each, rates) in enumerate(zip(optimizers, schedules, strict=True)):
        run.track(**{numbered("optimizer", number): each, numbered("scheduler", number): rates})
    if average is not None:
        run.track(ema=average)
    kept = average.module if average is not None else model
    step.network.train()

    for inputs, targets in run.loop(train, epochs=config.epochs):
        loss = step(inputs, targets)
        run.log(loss=loss, lr=schedules[0].get_last_lr()[0])
        for rates in schedules:
            rates.step()
        if validate is not None and ((run.step + 1) % every == 0 or run.step + 1 == steps):
            figures = validate(kept) if callable(validate) else _validate(run, kept, loss_fn, validate, score)
            step.network.train()
            _keep_or_stop(
                run, kept, figures, monitor, config.patience, every, "epochs" if every == len(train) else "times"
            )

    if validate is not None and "best_score" in run.state:
        kept.load_state_dict(run.best())
        # The last word on each figure: who reads the log, as SageMaker does, judges the model that is kept.
        figures = run.state.get("best_figures", {})
        run.progress.say("kept       " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return kept


def numbered(name: str, number: int) -> str:
    """A name for the first of its kind, and the name with a number for those after it."""
    return f"{name}_{number}" if number else name


class Schedule:
    """A learning-rate schedule of one optimiser; a run that is made longer begins another for the steps it got.

    Args:
        name, warmup: as of `scheduler`.
        steps: of the run.
        every: of how many steps of the run the optimiser does one.
    """

    def __init__(self, name: str, optimizer: Optimizer, steps: int, warmup: int = 0, every: int = 1) -> None:
        self._name, self._optimizer, self._warmup, self._every = name, optimizer, warmup, every
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self.restart(steps)

    def restart(self, steps: int) -> None:
        """Begins again, from the peak rates, for so many steps of the run."""
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak
            group.pop("initial_lr", None)
        self._rates = scheduler(self._name, self._optimizer, steps // self._every, self._warmup)

    def step(self) -> None:
        self._rates.step()

    def get_last_lr(self) -> list[Any]:
        return self._rates.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        return self._rates.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rates.load_state_dict(state)
        for group, rate in zip(self._optimizer.param_groups, self._rates.get_last_lr(), strict=True):
            group["lr"] = rate


def scheduler(name: str, optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """A learning-rate schedule over all steps, its peak the optimiser's own rate.

    Args:
        name: "one-cycle" (Smith and Topin 2018, arXiv 1708.07120: up for 30 %, then down to almost 0),
            "cosine" (after a linear warm-up; Loshchilov and Hutter 2017, arXiv 1608.03983) or "constant".
        warmup: steps of the warm-up of "cosine".
    """
    steps = max(steps, 2)
    if name == "one-cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, total_steps=steps + 1, pct_start=0.3, cycle_momentum=False)
    if name == "cosine":
        warmup = min(warmup, steps // 2)
        ramp = LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        return SequentialLR(optimizer, [ramp, CosineAnnealingLR(optimizer, steps - warmup)], milestones=[warmup])
    return LinearLR(optimizer, start_factor=1.0, total_iters=1)


def weight_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters in two groups: matrices and kernels, which decay, and biases and norms, which do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(name: str, model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """The named optimiser, fused, over `weight_groups`.

    Args:
        name: "adamw" (Loshchilov and Hutter 2019, arXiv 1711.05101) or "sgd" (with Nesterov momentum 0.9).
    """
    groups = [g for g in weight_groups(model, weight_decay) if g["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)


def predict_all(model: nn.Module, batches: Loader, autocast: AbstractContextManager[object] | None = None) -> Any:
    """A model's outputs for a whole data set, a nest of [N, ...] in its order, floats as float32, on the CPU.

    Every sample once: no shuffling, no dropped or padded samples, whatever the number of processes.

    Args:
        autocast: the number format. None means fp32: a result must not depend on how a batch was rounded.
    """
    return _run_through(model, batches, autocast)[0]


def _run_through(model: nn.Module, batches: Loader, autocast: AbstractContextManager[object] | None) -> tuple[Any, Any]:
    """Outputs and targets of a whole data set."""
    model.eval()
    parts = []
    with torch.inference_mode(), autocast or nullcontext():
        for inputs, targets in batches.epoch(0):
            if nests.size(inputs):  # the last batch may have nothing for this process
                # Targets that the data set has all together need not be put together again.
                parts.append((nests.change(model(inputs), _as_float), targets if batches.targets is None else None))
    mine = nests.change(nests.join(parts), Tensor.cpu) if parts else None
    gathered = distributed.gather((batches.shard(), mine))
    order = torch.cat([indices for indices, _ in gathered])
    together = nests.join([values for _, values in gathered if values is not None])
    outputs, targets = nests.take(together, order.argsort())  # shards and sorted batches have orders of their own
    return outputs, targets if batches.targets is None else nests.change(batches.targets, Tensor.cpu)


def _as_float(output: Tensor) -> Tensor:
    return output.float() if output.is_floating_point() else output


def mean_figures(
    model: nn.Module,
    batches: Loader,
    sums: Callable[[Any, Any], dict[str, tuple[Tensor, Tensor]]],
    autocast: AbstractContextManager[object] | None = None,
) -> dict[str, float]:
    """Means over a whole data set, batch by batch: for outputs that are too large to be kept.

    Args:
        sums: outputs and targets of a batch to figures by name, each the sum of something and its count, such as the
            loss of all tokens and their number; scalars on the device.
    """
    model.eval()
    totals: dict[str, Tensor] = {}
    with torch.inference_mode(), autocast or nullcontext():
        for inputs, targets in batches.epoch(0):
            if not nests.size(inputs):
                continue
            for name, pair in sums(model(inputs), targets).items():
                both = torch.stack([value.detach().float() for value in pair])
                totals[name] = totals[name] + both if name in totals else both
    gathered = distributed.gather({name: both.tolist() for name, both in totals.items()})
    names = dict.fromkeys(name for mine in gathered for name in mine)
    pairs = {name: [mine[name] for mine in gathered if name in mine] for name in names}
    return {
        name: sum(total for total, _ in found) / max(sum(n for _, n in found), 1e-12) for name, found in pairs.items()
    }


def _validate(run: Run, model: nn.Module, loss_fn: Loss, batches: Loader, score: Score | None) -> dict[str, float]:
    outputs, targets = _run_through(model, batches, run.autocast())
    return score(outputs, targets) if score else {"val_loss": loss_fn(outputs, targets).item()}


def _keep_or_stop(
    run: Run, model: nn.Module, figures: dict[str, float], monitor: str, patience: int, every: int, unit: str
) -> None:
    run.log_now(**figures)
    value = figures[monitor]
    if run.keep_best(-value if monitor.endswith("loss") else value, model.state_dict()):
        run.state["best_figures"] = figures
    waited = (run.step + 1 - run.state["best_step"]) // every
    if patience and waited >= patience:
        run.stop(f"{monitor} has not improved for {waited} {unit}")
