"""From texts to token ids and back to the places in the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.kinds.text import TextInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN = 0, 1
LETTERS_PER_TOKEN = 64  # more of a long text are not looked at: a megabyte takes no longer than a page


@dataclass(frozen=True)
class TokenInput(TextInput):
    """A text, and what a network must know of its tokens.

    Args:
        max_length: tokens after which a text is cut.
        pad: id that fills short texts up.
        blank: id that stands for a token that is not known or not to be seen.
    """

    max_length: int = 256
    pad: int = PAD
    blank: int = UNKNOWN


def train_tokenizer(texts: Iterable[str], max_length: int, pieces: int) -> Tokenizer:
    """Byte-pair encoding of lower-case text (Sennrich et al. 2016): frequent words whole, others in pieces.

    The smallest pieces are bytes, so that no script and no emoji is unknown.

    Args:
        max_length: pieces after which a text is cut.
        pieces: size of the vocabulary, with PAD and UNKNOWN.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = {PAD: "<pad>", UNKNOWN: "<unk>"}
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=[special[i] for i in sorted(special)],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # a text that says "<pad>" means those letters
    tokenizer.enable_truncation(max_length)
    return tokenizer


def encode(tokenizer: Tokenizer, inputs: TokenInput, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, at most `max_length`; a text without any token is one `blank`."""
    most = inputs.max_length * LETTERS_PER_TOKEN
    return [found.ids or [inputs.blank] for found in tokenizer.encode_batch([text[:most] for text in texts])]


def places(tokenizer: Tokenizer, inputs: TokenInput, text: str) -> list[tuple[int, int]]:
    """Where each token of `encode` stands in the text: (start, end), equal for a token that is none of it."""
    found = tokenizer.encode(text[: inputs.max_length * LETTERS_PER_TOKEN])
    return [(int(start), int(end)) for start, end in found.offsets] or [(0, 0)]
