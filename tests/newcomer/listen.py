"""How much of a message in Morse code is dashes; an example in a domain that nothing lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common.kinds.morse import SIGNS, MorseInput
from common.kinds.tone import Tone
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import changed
from common.data.loaders import Loader
from common.example import Example
from common.kinds.answer import Predictor, Row
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, predict_all
from common.training.run import Run

LENGTH = 16


@dataclass(frozen=True)
class ListenConfig(FitConfig):
    epochs: int = changed(FitConfig, "epochs", default=12)
    batch_size: int = changed(FitConfig, "batch_size", default=32)
    lr: float = changed(FitConfig, "lr", default=0.3)


class Messages:
    """Random messages, and the share of dashes in each."""

    def __init__(self, count: int, seed: int) -> None:
        self.signs = torch.randint(3, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
        self.targets = (self.signs == SIGNS.index("-")).float().mean(1)

    def __len__(self) -> int:
        return len(self.signs)

    def __getitem__(self, index: int) -> Tensor:
        return self.signs[index]

    def in_memory(self) -> Tensor:
        return self.signs


class Network(nn.Module):
    """int64 [B, LENGTH] to the share of dashes [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.worth = nn.Embedding(len(SIGNS), 4)
        self.out = nn.Linear(4, 1)

    def forward(self, signs: Tensor) -> Tensor:
        return self.out(self.worth(signs).mean(1)).squeeze(1)


def train(config: ListenConfig, run: Run) -> Metrics:
    batch: dict[str, Any] = {"device": run.device}
    model = run.place(Network(), torch.zeros(1, LENGTH, dtype=torch.long))
    loader = Loader(Messages(512, 1), config.batch_size, train=True, seed=config.seed, **batch)
    valid = Loader(Messages(64, 2), 64, train=False, **batch)
    model = fit(run, model, F.mse_loss, loader, config, validate=valid, score=Tone().validate)
    metrics = Tone().measure(predict_all(model, valid), Messages(64, 2).targets)
    artifact.save(run, model, inputs=MorseInput(LENGTH), answer=Tone(), metrics=metrics)
    return metrics


def evaluate(saved: Artifact, config: ListenConfig) -> Metrics:
    loader = Loader(Messages(64, 2), 64, train=False, device=torch.device("cpu"))
    return Tone().measure(predict_all(saved.load_into(Network()), loader), Messages(64, 2).targets)


def load(saved: Artifact) -> Predictor:
    inputs, model = MorseInput.from_json(saved.inputs), saved.load_into(Network())

    @torch.inference_mode()
    def predict(messages: Sequence[Tensor]) -> list[Row]:
        return Tone().rows(model(inputs.network_input(messages)))

    return Predictor(inputs, Tone(), predict, model=model)


class Splits:
    """What `prepare` gives."""

    valid = Messages(64, 2)


example = Example(
    name="made.listen", task="Listens to Morse code", model="Embedding", seconds=1, headline="mse",
    config=ListenConfig, train=train, load=load, evaluate=evaluate, prepare=lambda config: Splits(),
    objective="val_loss", goal="minimize",
)  # fmt: skip


if __name__ == "__main__":
    from common.cli import main

    main(example)
