"""Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): answers that are right become likelier.

The network answers each question several times. What an answer is worth is how much better it was than the others to
the same question; nothing else is learnt, and no network judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.kinds.messages import Conversation
from common.kinds.sampling import Sampling
from common.machine import distributed, nests
from common.machine.device import mix_seed
from nlp import decoding
from nlp.chat.data import Example
from nlp.chat.rows import filled
from nlp.chat.template import Chat
from nlp.decoding import Text
from nlp.losses import IGNORED, log_probabilities


def reward(example: Example, text: Text, chat: Chat) -> float:
    """1 for the right answer that ends by itself, else 0."""
    return float(text.end is not None and text.row(chat)["text"] == example.answer)


def advantages(rewards: Tensor) -> Tensor:
    """How much better each answer was than the mean of its group, in deviations of the group: [P, G] to [P, G]."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, correction=0, keepdim=True) + 1e-4)


class RewardLoss:
    """−advantage × log-probability, a mean over tokens (as DAPO has it, Yu et al. 2025, arXiv 2503.14476).

    Each batch is answered by the very network that learns from it, once: the ratio of GRPO is 1 and clips nothing, but
    its gradient is this one. With `beta` the divergence from the reference is added (Schulman's k3 estimate).
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def __call__(self, logits: Tensor, said: dict[str, Tensor]) -> Tensor:
        """Of logits [N, T, V], and {"targets" [N, T], "advantages" [N], "reference" [N, T]}; a scalar."""
        counts = said["targets"] != IGNORED
        found = log_probabilities(logits, said["targets"])
        loss = -said["advantages"].unsqueeze(1) * found
        if self.beta:
            apart = said["reference"] - found
            loss = loss + self.beta * (apart.exp() - apart - 1)
        return (loss * counts).sum() / counts.sum().clamp(min=1)


def count_of(said: dict[str, Tensor]) -> Tensor:
    """Over how many tokens the loss is a mean."""
    return (said["targets"] != IGNORED).sum()


class Rollouts:
    """Answers of the network to a batch of questions, and what they are worth.

    Args:
        reference: makes log-probabilities [N, T] of tokens and targets as the network before the training had them;
            None where they don't count.
        group: answers to each question.
        most: tokens of an answer.
    """

    def __init__(
        self,
        network: nn.Module,
        chat: Chat,
        limit: int,
        *,
        reference: Callable[[Tensor, Tensor], Tensor] | None,
        group: int,
        most: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._network, self._chat, self._limit, self._reference = network, chat, limit, reference
        self._group, self._most, self._seed, self._device = group, most, seed, device

    def __call__(self, step: int, questions: Sequence[Example]) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """Tokens [N, T] of this process's share, what RewardLoss takes, and figures of the answers."""
        mine = _mine(list(enumerate(questions)))
        items = [
            Conversation(example.question, self._sampling(step, number, k))
            for number, example in mine
            for k in range(self._group)
        ]
        self._network.eval()
        texts = decoding.write(self._network, self._chat, items, limit=self._limit)
        self._network.train()
        asked = [example for _, example in mine for _ in range(self._group)]
        rewards = torch.tensor([reward(example, text, self._chat) for example, text in zip(asked, texts, strict=True)])
        tokens, targets = filled([_row(text) for text in texts])
        said = {"targets": targets, "advantages": advantages(rewards.view(-1, self._group)).flatten()}
        tokens, said = nests.move((tokens, said), self._device)
        if self._reference is not None:
            with torch.no_grad():
                said["reference"] = self._reference(tokens, said["targets"])
        figures = {"reward": float(rewards.mean()), "answer_tokens": sum(t.tokens for t in texts) / len(texts)}
        return tokens, said, figures

    def _sampling(self, step: int, number: int, k: int) -> Sampling:
        return Sampling(max_tokens=self._most, temperature=1.0, seed=mix_seed(self._seed, "answer", step, number, k))


def _mine(values: list[Any]) -> list[Any]:
    """This process's part of a list that all have."""
    return values[distributed.rank() :: distributed.world()]


def _row(text: Text) -> tuple[Tensor, Tensor]:
    """A question with the answer that was written to it, of which the answer counts, and its end."""
    ids = torch.tensor(text.ids + ([] if text.end is None else [text.end]))
    targets = ids[1:].clone()
    targets[: text.prompt_tokens - 1] = IGNORED
    return ids[:-1], targets


def questions_of(examples: Sequence[Example], count: int, step: int, seed: int) -> list[Example]:
    """The questions of a step: all are asked once, in random order, before one is asked again."""
    found = []
    for place in range(step * count, (step + 1) * count):
        passed, number = divmod(place, len(examples))
        generator = torch.Generator().manual_seed(mix_seed(seed, "questions", passed))
        if place == step * count or number == 0:
            order = torch.randperm(len(examples), generator=generator)
        found.append(examples[int(order[number])])
    return found
