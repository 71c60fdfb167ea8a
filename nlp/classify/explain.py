"""Which tokens a classifier's answer hangs on, by occlusion; and the mistakes with those tokens marked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.data.texts.splits import Texts
from common.machine import device
from common.report import page as report
from nlp.tokens import TokenInput, encode, places

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 64  # hidden variants of a text per call of the model
MOST_PIECES = 128  # parts into which a long text is cut; a part is then more than one token
SHOWN = 600  # letters of a text in the report


@torch.inference_mode()
def occlusion(model: nn.Module, tokens: Sequence[int], target: int, blank: int) -> list[float]:
    """By how much each token speaks for a class: what the class's log-probability loses when the token is hidden.

    Zeiler and Fergus 2014, arXiv 1311.2901, on words. In nats; negative for tokens that speak against the class. Of a
    text longer than MOST_PIECES tokens several neighbours are hidden together and share the figure.

    Args:
        model: tokens int64 [B, T] to logits [B, K], in evaluation mode.
        tokens: ids of one text, T of them.
        target: the class.
        blank: id that is put in the place of a hidden token.
    """
    whole = torch.tensor(tokens)
    place = device.of(model)
    piece = torch.arange(len(whole)) // -(-len(whole) // MOST_PIECES)  # [T]
    count = int(piece[-1]) + 1
    variants = torch.where(piece == torch.arange(count).unsqueeze(1), blank, whole)  # [P, T]
    variants = torch.cat([whole.unsqueeze(0), variants])
    logits = torch.cat([model(part.to(place)).float().cpu() for part in variants.split(BATCH)])  # [1 + P, K]
    scores = logits.double().log_softmax(1)[:, target]
    found: list[float] = (scores[0] - scores[1:])[piece].tolist()
    return found


def telling_tokens(
    model: nn.Module, tokenizer: Tokenizer, inputs: TokenInput, text: str, target: int
) -> list[tuple[int, int, float]]:
    """(start, end, score) of each token of a text: where it stands, and what it says for the class; see `occlusion`."""
    scores = occlusion(model, encode(tokenizer, inputs, [text])[0], target, inputs.blank)
    spots = zip(places(tokenizer, inputs, text), scores, strict=True)
    return [(start, end, score) for (start, end), score in spots if end > start]


def mistakes(
    model: nn.Module,
    tokenizer: Tokenizer,
    inputs: TokenInput,
    test: Texts,
    logits: Tensor,
    classes: Sequence[str],
    count: int = 12,
) -> report.Section:
    """The test texts that the model got wrong with the most confidence, their telling tokens marked."""
    confidence, predicted = torch.softmax(logits.double(), dim=1).max(dim=1)
    wrong = (predicted != test.targets).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count].tolist()
    items = []
    for i in worst:
        marks = telling_tokens(model, tokenizer, inputs, test.texts[i], int(predicted[i]))
        said, true = classes[int(predicted[i])], classes[int(test.targets[i])]
        head = f"<strong>{escape(said)}</strong>, {confidence[i]:.1%} sure; is <strong>{escape(true)}</strong>"
        items.append(f"<p>{head}<br>{marked(test.texts[i], marks)}</p>")
    note = (
        f"{len(wrong):,} of {len(logits):,} test texts are misclassified; these are the most confident ones. The more "
        "a token speaks for the wrong answer, the bluer it is; orange ones speak against it."
    )
    return report.Section("Most confident mistakes", "\n".join(items) or "<p>There are none.</p>", note)


def marked(text: str, marks: Sequence[tuple[int, int, float]]) -> str:
    """A text as HTML, escaped, each token on a ground as strong as its score; cut off after SHOWN letters."""
    strongest = max((abs(score) for *_, score in marks), default=0.0) or 1.0
    parts, place = [], 0
    for start, end, score in marks:
        if start < place or end > SHOWN:
            continue
        colour = "36, 80, 184" if score > 0 else "214, 120, 20"
        strength = 0.6 * abs(score) / strongest
        parts.append(escape(text[place:start]))
        word = escape(text[start:end])
        ground = f'<span style="background: rgba({colour}, {strength:.2f})" title="{score:+.2f}">{word}</span>'
        parts.append(ground if strength >= 0.05 else word)
        place = end
    parts.append(escape(text[place:SHOWN]) + (" …" if len(text) > SHOWN else ""))
    return "".join(parts) or "<em>(an empty text)</em>"
