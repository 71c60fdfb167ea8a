"""Supervised training and evaluation: the loop that most examples share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from common import distributed
from common.data.loaders import Loader
from common.run import Run
from common.step import Loss, MovingAverage, Step


def fit(
    run: Run,
    model: nn.Module,
    loss_fn: Loss,
    train: Loader,
    *,
    epochs: int,
    optimizer: Optimizer,
    schedule: str = "one-cycle",
    validate: Loader | None = None,
    score: Callable[[Tensor, Tensor], dict[str, float]] | None = None,
    monitor: str = "val_loss",
    accumulate: int = 1,
    clip: float = 0.0,
    ema: float = 0.0,
    patience: int = 0,
) -> nn.Module:
    """Trains a model and leaves it with the best weights of its validations (the last ones without any).

    Args:
        model: placed by `run.place`.
        loss_fn: mean loss of a batch.
        train, validate: batches; `validate` is seen after every epoch.
        schedule: "one-cycle", "cosine" or "constant", per step; see `scheduler`.
        score: validation figures by name from outputs and targets; `val_loss` by `loss_fn` where none is given.
        monitor: the figure that decides which weights are best; lower is better if it ends in "loss".
        accumulate: pieces into which each batch is cut to save memory; the gradient is that of the whole batch.
        clip: largest norm of the gradient; 0 for none.
        ema: decay per step of an exponential moving average of the weights, which is then what is validated
            and kept; 0 for none.
        patience: epochs without a better `monitor` after which training stops; 0 for never.
    """
    rates = scheduler(schedule, optimizer, epochs * len(train), warmup=len(train))
    average = MovingAverage(model, ema) if ema else None
    step = Step(run, model, loss_fn, optimizer, accumulate=accumulate, clip=clip, average=average)
    run.track(model=model, optimizer=optimizer, scheduler=rates, scaler=step.scaler)
    if average is not None:
        run.track(ema=average)
    step.network.train()

    for inputs, targets in run.loop(train, epochs=epochs):
        loss = step(inputs, targets)
        run.log(loss=loss, lr=rates.get_last_lr()[0])
        rates.step()
        if run.last_in_epoch and validate is not None:
            kept = average.module if average is not None else model
            figures = _validate(run, kept, loss_fn, validate, score)
            step.network.train()
            _keep_or_stop(run, kept, figures, monitor, patience, len(train))

    kept = average.module if average is not None else model
    if validate is not None and "best_score" in run.state:
        kept.load_state_dict(run.best())
        # The last word on each figure: who reads the log, as SageMaker does, judges the model that is kept.
        figures = run.state.get("best_figures", {})
        run.progress.say("kept       " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return kept


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


def predict_all(model: nn.Module, batches: Loader, autocast: AbstractContextManager[object] | None = None) -> Tensor:
    """A model's outputs for a whole data set, [N, ...] in its order, float32 on the CPU.

    Every sample once: no shuffling, no dropped or padded samples, whatever the number of processes.

    Args:
        autocast: the number format. None means fp32: a result must not depend on how a batch was rounded.
    """
    model.eval()
    parts = []
    with torch.inference_mode(), autocast or nullcontext():
        for inputs, _ in batches.epoch(0):
            if len(inputs):  # the last batch may have nothing for this process
                parts.append(model(inputs).float())
    outputs = torch.cat(parts).cpu() if parts else torch.empty(0)
    gathered = distributed.gather((batches.shard(), outputs))
    order = torch.cat([indices for indices, _ in gathered])
    together = torch.cat([values for _, values in gathered if len(values)])
    return together[order.argsort()]  # shards, and batches of similar length, come in an order of their own


def _validate(
    run: Run,
    model: nn.Module,
    loss_fn: Loss,
    batches: Loader,
    score: Callable[[Tensor, Tensor], dict[str, float]] | None,
) -> dict[str, float]:
    outputs, targets = predict_all(model, batches, run.autocast()), batches.targets.cpu()
    return score(outputs, targets) if score else {"val_loss": loss_fn(outputs, targets).item()}


def _keep_or_stop(
    run: Run, model: nn.Module, figures: dict[str, float], monitor: str, patience: int, per_epoch: int
) -> None:
    run.log_now(**figures)
    value = figures[monitor]
    if run.keep_best(-value if monitor.endswith("loss") else value, model.state_dict()):
        run.state["best_figures"] = figures
    waited = (run.step + 1 - run.state["best_step"]) // per_epoch
    if patience and waited >= patience:
        run.stop(f"{monitor} has not improved for {waited} epochs")


def classification_score(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Validation figures of a classifier, for `fit`'s `score`: plain cross-entropy in nats, and accuracy in [0, 1]."""
    correct = (logits.argmax(1) == targets).float().mean().item()
    return {"val_loss": nn.functional.cross_entropy(logits, targets).item(), "val_accuracy": correct}
