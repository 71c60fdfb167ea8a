"""An example whose batches are nests: words of different lengths in, the next letter of each place out.

Its loss is a mean over letters, of which batches, pieces and processes hold different numbers; it has two optimisers
and validates every few steps by figures that are summed up batch by batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import artifact
from common.config import Config, option
from common.data.loaders import Loader
from common.example import Example
from common.metrics import Metrics
from common.training.fit import FitConfig, fit, mean_figures
from common.training.run import Run

LETTERS = 12
PAD = -100  # what cross_entropy passes over


@dataclass(frozen=True)
class WordsConfig(Config):
    epochs: int = option(3, "passes over the training data", at_least=1)
    accumulate: int = option(1, "pieces of a batch", at_least=1)
    adam: bool = option(True, "AdamW, which makes rounding grow, and not SGD")


class Words:
    """Words that count upwards, from random letters; most are short, a few long."""

    def __init__(self, seed: int, count: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(2, 5, (count,), generator=generator)
        lengths[::7] = 40
        starts = torch.randint(LETTERS, (count,), generator=generator)
        self.words = [(torch.arange(n) + s) % LETTERS for n, s in zip(lengths, starts, strict=True)]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> Tensor:
        return self.words[index]

    def collate(self, words: list[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        longest = max(len(word) for word in words)
        padded = torch.stack([F.pad(word, (0, longest - len(word)), value=PAD) for word in words])  # [B, T]
        return {"letters": padded[:, :-1], "words": words}, {"next": padded[:, 1:]}


class Network(nn.Module):
    """{"letters": [B, T]} to {"logits": [B, T, LETTERS], "sums": one number for each word, as a list}."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, 16)
        self.out = nn.Linear(16, LETTERS)

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        logits = self.out(self.embed(inputs["letters"].clamp(min=0)))
        return {"logits": logits, "sums": [word.sum() for word in inputs["words"]]}


def loss_fn(outputs: dict[str, Any], targets: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs["logits"].flatten(0, 1), targets["next"].flatten(), ignore_index=PAD)


def count(targets: dict[str, Tensor]) -> Tensor:
    return (targets["next"] != PAD).sum()


def sums(outputs: dict[str, Any], targets: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    letters = count(targets)
    right = (outputs["logits"].argmax(-1) == targets["next"]).sum()
    return {"val_loss": (loss_fn(outputs, targets) * letters, letters), "val_accuracy": (right, letters)}


def train(config: WordsConfig, run: Run) -> Metrics:
    batch: dict[str, Any] = {"device": run.device, "workers": 0}
    valid = Loader(Words(2, 50), 16, train=False, **batch)
    torch.manual_seed(config.seed)
    sample, _ = Words(0, 2).collate(Words(0, 2).words)
    model: Any = run.place(Network(), sample)
    kinds = (torch.optim.AdamW, torch.optim.AdamW) if config.adam else (torch.optim.SGD, torch.optim.SGD)
    fitting = FitConfig(epochs=config.epochs, schedule="cosine", accumulate=config.accumulate)
    model = fit(
        run,
        model,
        loss_fn,
        Loader(Words(1, 240), 24, train=True, seed=config.seed, **batch),
        fitting,
        optimizer=[kinds[0](model.embed.parameters(), 0.05), kinds[1](model.out.parameters(), 0.02)],
        count=count,
        validate=lambda kept: mean_figures(kept, valid, sums),
        validate_every=7,
    )
    metrics = Metrics("accuracy", {"accuracy": mean_figures(model, valid, sums)["val_accuracy"]})
    artifact.save(run, model, inputs=None, answer=None, metrics=metrics)
    return metrics


def _none(*_: Any) -> Any:
    raise AssertionError("this example has no predictor")


example = Example(
    name="tests.words",
    task="Words",
    model="MLP",
    seconds=1,
    headline="accuracy",
    config=WordsConfig,
    train=train,
    load=_none,
    evaluate=_none,
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
