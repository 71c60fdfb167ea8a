"""The three ways to teach: instructions, preferences, rewards. Each changes the network that it is given."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.errors import UserError
from common.machine import distributed
from common.training.fit import Schedule, fit, make_optimizer, mean_figures
from common.training.run import Run
from common.training.step import Step
from nlp.chat import measure, rewards
from nlp.chat.base import Base
from nlp.chat.data import ChatData, Example
from nlp.chat.preferences import Answers, PreferenceLoss, likelihoods
from nlp.chat.rewards import RewardLoss, Rollouts
from nlp.chat.rows import Conversations, Pairs, RowLoader
from nlp.losses import count_of, log_probabilities, loss_of, sums
from nlp.optim import optimizers

if TYPE_CHECKING:
    from nlp.chat.__main__ import ChatConfig

VALIDATIONS = 6  # of a training with rewards
EMBEDDING_SHARE = 1.0  # of the matrices' rate under Muon


def optimizers_of(config: ChatConfig, model: nn.Module, device: torch.device) -> list[Optimizer]:
    """What changes the weights that are trained."""
    if config.optimizer == "adamw":
        return [make_optimizer("adamw", model, config.lr, config.weight_decay)]
    rates = {"lr": config.lr, "embedding_lr": config.lr * EMBEDDING_SHARE, "weight_decay": config.weight_decay}
    return optimizers("muon", model, device, **rates)


def instructions(run: Run, base: Base, data: ChatData, config: ChatConfig, adapters: Any) -> None:
    """Supervised fine-tuning (Ouyang et al. 2022, arXiv 2203.02155): the assistant's tokens are learnt, no others."""
    context = config.context
    train, valid = (Conversations(part, base.chat, context) for part in (data.train, data.valid))
    _say_skipped(run, train.skipped + valid.skipped, context)
    measured = RowLoader(valid, config.batch_size, train=False, device=run.device)
    known = [example for example in data.valid if example.task]

    def validate(network: nn.Module) -> dict[str, float]:
        found = {"val_loss": mean_figures(network, measured, sums, run.autocast())["loss"]}
        if known:
            said = measure.answers(dataclasses.replace(base, network=network), known, config.most)
            found["val_exact_match"] = measure.figures(known, said)["exact_match"]
        return found

    fit(
        run,
        base.network,
        loss_of,
        RowLoader(train, config.batch_size, train=True, device=run.device, seed=config.seed),
        config,
        optimizer=optimizers_of(config, base.network, run.device),
        count=count_of,
        validate=validate,
        monitor="val_exact_match" if known else "val_loss",
    )


def preferences(run: Run, base: Base, data: ChatData, config: ChatConfig, adapters: Any) -> None:
    """Direct preference optimisation. The reference is the network itself with its adapters off, or before a step."""
    train, valid = (Pairs(part, base.chat, config.context) for part in (data.train, data.valid))
    _say_skipped(run, train.skipped + valid.skipped, config.context)
    with adapters.disable_adapter() if adapters is not None else nullcontext():
        for pairs in (train, valid):
            pairs.reference = likelihoods(base.network, pairs, config.batch_size)[:, :, 0]
    loss = PreferenceLoss(config.beta, config.sft)
    model = Answers(base.network)
    fit(
        run,
        model,
        loss,
        RowLoader(train, config.batch_size, train=True, device=run.device, seed=config.seed),
        config,
        optimizer=optimizers_of(config, model, run.device),
        validate=RowLoader(valid, config.batch_size, train=False, device=run.device),
        score=loss.validate,
    )


def checked(run: Run, base: Base, data: ChatData, config: ChatConfig, adapters: Any) -> None:
    """Group-relative policy optimisation on questions whose answers can be checked."""
    network, per_step = base.network, config.batch_size // config.group
    questions, valid = (_that_fit(part, base, config) for part in (data.train, data.valid))
    if config.batch_size % config.group or per_step % distributed.world():
        what = f"--batch-size {config.batch_size} is not a multiple of --group {config.group} for each process."
        raise UserError(what, f"Use {config.group * distributed.world() * max(1, per_step // distributed.world())}.")
    ask = Rollouts(
        network,
        base.chat,
        base.context,
        reference=_reference(network, adapters) if config.beta else None,
        group=config.group,
        most=config.most,
        seed=config.seed,
        device=run.device,
    )
    (optimizer,) = optimizers_of(config, network, run.device)
    schedule = Schedule(config.schedule, optimizer, config.steps)
    step = Step(run, network, RewardLoss(config.beta), [optimizer], count=rewards.count_of, clip=config.clip)
    run.track(model=network, optimizer=optimizer, scheduler=schedule, scaler=step.scaler)
    held = Conversations(valid, base.chat, config.context)
    every = max(1, config.steps // VALIDATIONS)
    for number in run.loop(steps=config.steps):
        tokens, said, figures = ask(number, rewards.questions_of(questions, per_step, number, config.seed))
        run.log(loss=step(tokens, said), lr=schedule.get_last_lr()[0], **figures)
        schedule.step()
        if (number + 1) % every == 0 or number + 1 == config.steps:
            found = measure.figures(valid, measure.answers(base, valid, config.most))
            value = measure.loss(base, held, config.batch_size)
            run.log_now(val_loss=value, val_exact_match=found["exact_match"])
            run.keep_best(found["exact_match"], network.state_dict())
            network.train()
    network.load_state_dict(run.best())


def _that_fit(examples: list[Example], base: Base, config: ChatConfig) -> list[Example]:
    """Those whose answers can be checked, and have room."""
    kept = [e for e in examples if e.task and len(base.chat.prompt(e.question)) + config.most <= config.context]
    if not kept:
        raise UserError(f"No question leaves room for --most {config.most} tokens.", "Use a larger --context.")
    return kept


def _reference(network: nn.Module, adapters: Any) -> Any:
    """Log-probabilities of targets [N, T] as the network had them before: with its adapters off, or of a copy."""
    frozen = network if adapters is not None else copy.deepcopy(network).eval()

    def found(tokens: Tensor, targets: Tensor) -> Tensor:
        with adapters.disable_adapter() if adapters is not None else nullcontext():
            return log_probabilities(frozen(tokens), targets)

    return found


def _say_skipped(run: Run, count: int, context: int) -> None:
    if count:
        run.progress.say(f"note       {count:,} conversations are longer than {context} tokens: left out")


STAGES = {"sft": instructions, "dpo": preferences, "grpo": checked}
