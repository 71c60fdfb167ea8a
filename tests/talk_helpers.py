"""A model to talk with that nobody trained: what it writes is drawn by chance, from the real decoder, and at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.kinds.answer import Predictor, Row
from common.kinds.continuation import Continuation
from common.kinds.messages import Conversation, MessagesInput
from common.kinds.prompt import Prompt, PromptInput
from common.kinds.writing import News
from common.serve.models import ServedModel
from nlp import decoding
from nlp.vocabulary import END, Characters
from tests.page_helpers import toy

LETTERS = "abcdefghijklmnopqrstuvwxyz .,?!ABCéß€😀\n"
WORDS = Characters(LETTERS, by_bytes=True)


class Bigrams(nn.Module):
    """A network that sees one token only: logits of the next one from a table."""

    def __init__(self) -> None:
        super().__init__()
        table = 2 * torch.randn(len(WORDS), len(WORDS), generator=torch.Generator().manual_seed(5))
        table[:, len(LETTERS) + 1 :] -= 5  # single bytes are rare
        table[:, END] = -1.0
        self.table = nn.Parameter(table)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def start(self, batch: int) -> Any:
        return Nothing()

    def extend(self, tokens: Tensor, lengths: Tensor, cache: Any) -> Tensor:
        return self.table[tokens]


class Nothing:
    """What the network keeps of the tokens before."""

    def join(self, other: Any) -> None: ...

    def keep(self, rows: Tensor) -> None: ...


def script(item: Any) -> Prompt:
    """A conversation as one text, as a chat template makes it."""
    if isinstance(item, Conversation):
        return Prompt("".join(f"{role}: {content}\n" for role, content in item.messages), item.sampling)
    return Prompt(*item)


class Talker(decoding.Writer):
    """Answers conversations, and goes on with prompts.

    Args:
        wait: seconds that each token takes.
    """

    def __init__(self, network: Any, wait: float = 0.0) -> None:
        super().__init__(network, WORDS, limit=64)
        self.wait = wait
        self.steps = 0

    def add(self, item: Any) -> Any:
        return super().add(script(item))

    def step(self) -> list[News]:
        time.sleep(self.wait)
        self.steps += 1
        return super().step()


def talker(kind: Any = None, wait: float = 0.0) -> Predictor:
    """A predictor that talks; of PromptInput one that continues."""
    network = Bigrams().eval()

    def predict(items: Sequence[Any]) -> list[Row]:
        asked = [script(item) for item in items]
        texts = decoding.generate(network, WORDS, [a.text for a in asked], [a.sampling for a in asked], limit=64)
        return [text.row(WORDS) | {"prompt_pieces": []} for text in texts]

    return Predictor(
        kind or MessagesInput("How are you?"), Continuation(), predict, writer=partial(Talker, network, wait)
    )


def talkers(decoders: ThreadPoolExecutor) -> dict[str, ServedModel]:
    """One that talks, a slow one, and one that only continues texts."""
    kinds: dict[str, Any] = {"talk": talker(), "slow": talker(wait=0.03), "goes-on": talker(PromptInput("To be"))}
    return {name: toy(name, predictor, [], decoders) for name, predictor in kinds.items()}
