"""Supervised training and evaluation: the loop that most examples share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import distributed
from common.data.loaders import Loader
from common.run import Run

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs [B, ...], targets [B, ...]) -> scalar mean over the batch


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
    assert run.plan is not None, "place the model first"
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.plan.precision == "fp16")
    rates = scheduler(schedule, optimizer, epochs * len(train), warmup=len(train))
    average = moving_average(model, ema) if ema else None
    run.track(model=model, optimizer=optimizer, scheduler=rates, scaler=scaler)
    if average is not None:
        run.track(ema=average)
    network = distributed.wrap(model, run.device)
    network.train()

    for inputs, targets in run.loop(train, epochs=epochs):
        pieces = list(zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True))
        loss = torch.zeros((), device=run.device)
        for number, (x, y) in enumerate(pieces, start=1):
            with _hold_back_gradients(network, number < len(pieces)):
                with run.autocast():
                    part = loss_fn(network(x), y) * (len(x) / len(inputs))
                scaler.scale(part).backward()
            loss += part.detach()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss, lr=rates.get_last_lr()[0])
        rates.step()
        if average is not None:
            average.update_parameters(model)
        if run.last_in_epoch and validate is not None:
            kept = average.module if average is not None else model
            figures = _validate(run, kept, loss_fn, validate, score)
            network.train()
            _keep_or_stop(run, kept, figures, monitor, patience, len(train))

    kept = average.module if average is not None else model
    if validate is not None and "best_score" in run.state:
        kept.load_state_dict(run.best())
        # The last word on each figure: who reads the log, as SageMaker does, judges the model that is kept.
        figures = run.state.get("best_figures", {})
        run.progress.say("kept       " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    return kept


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers; integers, such as counts, are copied."""
    lerp = get_ema_multi_avg_fn(decay)

    def update(averages: Any, values: Any, steps: Any) -> None:
        if averages[0].is_floating_point():  # torch calls this once for each type of numbers
            lerp(averages, values, steps)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


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


def _hold_back_gradients(network: nn.Module, hold: bool) -> AbstractContextManager[None]:
    """Spares the exchange of gradients between processes until the last piece of a batch."""
    if hold and isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def classification_score(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Validation figures of a classifier, for `fit`'s `score`: plain cross-entropy in nats, and accuracy in [0, 1]."""
    correct = (logits.argmax(1) == targets).float().mean().item()
    return {"val_loss": nn.functional.cross_entropy(logits, targets).item(), "val_accuracy": correct}
