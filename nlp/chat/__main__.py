"""Teaches a language model to answer: on instructions, on preferences, or by rewards for what can be checked.

python -m nlp.chat                                              a new network learns templated tasks, no download
python -m nlp.chat --from runs/nlp.gpt/RUN                      one that has learnt to write before
python -m nlp.chat --from smollm2 --data instructions:FILE.json --lora
python -m nlp.chat --stage dpo --from RUN                       chosen before rejected answers; or --stage grpo
python -m common.chat RUN                                       talk with it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common import artifact
from common.artifact import Artifact
from common.config import Range, changed, option
from common.errors import UserError
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.kinds.continuation import Continuation
from common.kinds.messages import Conversation, MessagesInput
from common.machine import distributed
from common.metrics import Metrics
from common.training.fit import FitConfig
from common.training.run import Run
from nlp import decoding
from nlp.chat import base as bases
from nlp.chat import data as sources
from nlp.chat import measure
from nlp.chat.base import Base
from nlp.chat.data import ChatData
from nlp.chat.measure import Before, Exam
from nlp.chat.preferences import PreferenceLoss
from nlp.chat.stages import STAGES
from nlp.pretrained import PREFIX, with_adapters

# --- config ------------------------------------------------------------------------------------------------

# What suits a stage, for networks of ours and for those that were trained elsewhere.
RECIPES: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 2, "batch_size": 32, "lr": 0.02, "optimizer": "muon", "beta": 0.0},
    "dpo": {"epochs": 1, "batch_size": 64, "lr": 1e-4, "optimizer": "adamw", "beta": 0.1},
    "grpo": {"epochs": 1, "batch_size": 256, "lr": 3e-4, "optimizer": "adamw", "beta": 0.0},
}
PRETRAINED: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 2, "batch_size": 16, "lr": 5e-5},
    "dpo": {"epochs": 1, "batch_size": 8, "lr": 1e-6},
    "grpo": {"epochs": 1, "batch_size": 64, "lr": 1e-6},
}
TINY: dict[str, Any] = {"epochs": 24, "batch_size": 16}  # of the data set "numbers", for a new network
LONGEST = 1024  # tokens of a conversation at most, of networks that see more
LORA = 10  # times the learning rate of all weights


@dataclass(frozen=True)
class ChatConfig(FitConfig):
    """Everything that decides the result of one training."""

    data: str = option("tasks", "conversations", group="Data", choices=tuple(sources.SOURCES), common=True)
    questions: int = option(
        None, "test questions that are answered", group="Data", at_least=1, unset="all, or 64 of a pretrained network"
    )
    from_: str = option(
        "new",
        "network: new, smollm2, hf:MODEL, or a run of nlp.gpt or nlp.chat",
        group="Model",
        path=True,
        common=True,
    )
    stage: str = option("sft", "instructions, preferences, rewards", group="Model", choices=tuple(RECIPES), common=True)
    context: int = option(
        None, "tokens of a conversation at most", group="Model", at_least=8, at_most=8192, unset="as of the network"
    )
    lora: bool = option(False, "train low-rank adapters", group="Model")

    batch_size: int = changed(FitConfig, "batch_size", help="conversations, pairs or answers per step")
    lr: float = changed(FitConfig, "lr", unset="by stage and network", tune=Range(1e-5, 3e-2, log=True))
    optimizer: str = changed(
        FitConfig, "optimizer", default=None, choices=("muon", "adamw"), unset="by stage", help="optimiser of matrices"
    )
    schedule: str = changed(FitConfig, "schedule", default="wsd")
    weight_decay: float = changed(FitConfig, "weight_decay", default=0.0, tune=Range(0.0, 0.3))
    clip: float = changed(FitConfig, "clip", default=1.0)
    beta: float = option(
        None, "how little the answers may leave those of before", at_least=0, at_most=100, unset="by stage"
    )
    sft: float = option(
        None,
        "weight of the chosen answer's own loss, of --stage dpo",
        at_least=0,
        at_most=100,
        unset="1, or 0 of a pretrained network",
    )
    steps: int = option(120, "optimiser steps of --stage grpo", at_least=1)
    group: int = option(8, "answers to each question, of --stage grpo", at_least=2, at_most=256)
    most: int = option(
        None,
        "tokens of an answer while training and measuring",
        at_least=1,
        at_most=2048,
        unset="128, or 48 for rewards",
    )

    @classmethod
    def tiny(cls) -> ChatConfig:
        return cls(data="numbers")

    @property
    def pretrained(self) -> bool:
        """Whether the network was trained elsewhere."""
        return self.from_ == "smollm2" or self.from_.startswith(PREFIX)

    @property
    def cache(self) -> Path:
        """Where weights that were converted are kept."""
        return self.data_folder or Path("data")

    def resolve(self) -> ChatConfig:
        """Fills what was left open: by the stage, by where the network comes from, by the data set."""
        recipe = RECIPES[self.stage]
        if self.pretrained:
            recipe = recipe | {"optimizer": "adamw", "questions": 64, "sft": 0.0} | PRETRAINED[self.stage]
        elif self.data == "numbers" and self.stage == "sft":
            recipe = recipe | TINY
        elif self.from_ != "new" and self.stage == "sft":
            recipe = recipe | {"lr": 0.01}
        if self.lora:
            recipe = recipe | {"optimizer": "adamw", "lr": LORA * (recipe["lr"] if self.pretrained else 3e-4)}
        most = 48 if self.stage == "grpo" else 128
        return self.filled({"questions": 1_000_000, "sft": 1.0 if self.stage == "dpo" else 0.0, "most": most} | recipe)

    def check(self) -> None:
        super().check()
        if self.stage != "sft" and self.from_ == "new":
            what = f"--stage {self.stage} starts from a model that answers already."
            raise UserError(what, "Train one with --stage sft and name its run: --from RUN.")
        kind = self.data.partition(":")[0]
        if (self.stage == "dpo" and kind == "instructions") or (self.stage != "dpo" and kind == "preferences"):
            raise UserError(f"--stage {self.stage} does not learn from --data {self.data}.", STAGE_HINT)
        if self.stage == "grpo" and kind not in ("tasks", "numbers"):
            raise UserError("--stage grpo needs answers that can be checked.", "Use --data tasks.")


STAGE_HINT = "sft learns from instructions:FILE, dpo from preferences:FILE, each from tasks."

# --- data --------------------------------------------------------------------------------------------------


def prepare(config: ChatConfig) -> ChatData:
    """The conversations of each split."""
    with distributed.first():
        return sources.load(config.data, config.data_folder)


# --- model -------------------------------------------------------------------------------------------------


def start(config: ChatConfig) -> Base:
    """The network that is trained, with its vocabulary."""
    with distributed.first():
        base = bases.load(config.from_, config.data, config.cache, config.context)
    if config.stage != "sft" and not base.converses:
        what = f"--stage {config.stage} starts from a model that answers already, and {config.from_} does not."
        raise UserError(what, "Train it with --stage sft first.")
    return base


def adapt(base: Base) -> Any:
    """Adds low-rank adapters to the network; what has new tokens is trained whole.

    Returns:
        peft's model, which can switch them off and merge them.
    """
    adapters = with_adapters(base.network, dropout=0.0)
    if not base.converses:
        for name, weight in base.network.named_parameters():
            if name in ("embedding.weight", "head.weight") or "embed_tokens" in name:
                weight.requires_grad_(True)
    return adapters


def exam_of(base: Base, data: ChatData, config: ChatConfig) -> Exam:
    """What is measured of it."""
    return Exam(
        base.chat,
        data,
        context=config.context,
        questions=config.questions,
        most=config.most,
        batch_size=config.batch_size,
        preferences=PreferenceLoss(config.beta) if config.stage == "dpo" else None,
    )


# --- train -------------------------------------------------------------------------------------------------


def train(config: ChatConfig, run: Run) -> Metrics:
    """Measures the network as it is, trains it by its stage, measures it again, and saves it."""
    data = prepare(config)
    run.cite(data.provenance)
    base = start(config)
    context = config.context or min(base.context or LONGEST, LONGEST)
    config = run.settle(dataclasses.replace(config, context=context), samples=len(data.train))
    adapters = adapt(base) if config.lora else None
    run.place(base.network, sample=torch.zeros(1, 8, dtype=torch.int64))
    sizes = {weight: weight.numel() for weight in base.network.parameters()}
    trained = sum(size for weight, size in sizes.items() if weight.requires_grad)
    run.progress.say(f"model      {config.from_}, {trained:,} of {sum(sizes.values()):,} weights are trained")

    exam = exam_of(base, data, config)
    before = exam.before(base)
    STAGES[config.stage](run, base, data, config, adapters)
    if adapters is not None:
        adapters.merge_and_unload()
    metrics, sections = exam.after(base, before)
    run.sections += sections
    inputs = MessagesInput(example=exam.questions[0].question[-1].content, alphabet=base.chat.alphabet)
    files = {**bases.parts(base), measure.FILE: before.to_bytes()}
    artifact.save(run, bases.inner(base.network), inputs=inputs, answer=Continuation(), metrics=metrics, files=files)
    return metrics


# --- evaluate ----------------------------------------------------------------------------------------------


def evaluate(saved: Artifact, config: ChatConfig) -> Metrics:
    """Measures a saved model again, beside what was kept of the one it was made of."""
    base = bases.from_artifact(saved)
    return exam_of(base, prepare(config), config).after(base, Before.of(saved))[0]


# --- predict -----------------------------------------------------------------------------------------------


def load(saved: Artifact) -> Predictor:
    """A conversation in, the assistant's answer out."""
    base = bases.from_artifact(saved)
    inputs: MessagesInput = MessagesInput.from_json(saved.inputs)
    options: dict[str, Any] = {"limit": base.context, "cached": base.cached}

    def predict(conversations: Sequence[Conversation]) -> list[Row]:
        asked = [base.chat.begin(conversation) for conversation in conversations]
        read = decoding.read_tokens(base.network, base.chat, asked, base.context)
        texts = decoding.write(base.network, base.chat, conversations, **options)
        return [text.row(base.chat) | {"prompt_pieces": pieces} for text, pieces in zip(texts, read, strict=True)]

    writer = partial(decoding.Writer, base.network, base.chat, **options)
    return Predictor(inputs, Continuation(), predict, model=base.network, writer=writer)


example = Example(
    name="nlp.chat",
    task="Chat: instructions, preferences, rewards",
    model="Transformer decoder",
    seconds=150,
    headline="exact_match",
    config=ChatConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    tag=lambda config: f"{config.stage}-{config.data.split(':')[0]}",
    objective="val_loss",
    goal="minimize",
    extras=("lora", "smollm2"),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
