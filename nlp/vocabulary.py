"""Vocabularies of models that write: every token is a run of bytes, so that any ids in a row are a text again."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = 0  # id of the end of a document, which is also what stands before its beginning
END_NAME = "<|endoftext|>"
FILE = "vocabulary.json"  # of an artifact
MOST_NAMED = 12  # unknown characters that an error names


class Vocabulary(ABC):
    """What a model reads and writes.

    Attributes:
        pieces: the bytes of each token, in the order of their ids; none for END.
        alphabet: all characters that can be said, where that is not every one.
        ends: ids after which nothing more is written.
    """

    pieces: list[bytes]
    alphabet: str = ""
    ends: frozenset[int] = frozenset([END])

    def __len__(self) -> int:
        return len(self.pieces)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; UserError for a character that can't be said."""

    def begin(self, item: Any) -> list[int]:
        """The ids of a decoded input, behind which a model writes; UserError as of `encode`."""
        (ids,) = self.encode([item.text])
        return [END, *ids]

    def decode(self, ids: Iterable[int]) -> bytes:
        """What tokens say; not always UTF-8, as a character may be cut."""
        return b"".join(self.pieces[number] for number in ids)

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The file that `from_bytes` reads."""


@dataclass
class Characters(Vocabulary):
    """A token for each of some characters; the others are said byte by byte, or not at all.

    Args:
        characters: each once.
        by_bytes: whether all bytes are tokens too.
    """

    characters: str
    by_bytes: bool

    def __post_init__(self) -> None:
        self.pieces = [b"", *(character.encode() for character in self.characters)]
        self._ids = {character: number for number, character in enumerate(self.characters, start=1)}
        self.alphabet = "" if self.by_bytes else self.characters
        if self.by_bytes:
            self._bytes = len(self.pieces)
            self.pieces += [bytes([byte]) for byte in range(256)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not self.by_bytes:
            self._check(texts)
        return [[number for character in text for number in self._of(character)] for text in texts]

    def _of(self, character: str) -> tuple[int, ...]:
        known = self._ids.get(character)
        return (known,) if known else tuple(self._bytes + byte for byte in character.encode())

    def _check(self, texts: Sequence[str]) -> None:
        unknown = sorted(set().union(*texts) - self._ids.keys()) if texts else []
        if unknown:
            named = " ".join(map(repr, unknown[:MOST_NAMED])) + (" …" if len(unknown) > MOST_NAMED else "")
            what = f"This model knows {len(self.characters)} characters, and not {named}."
            raise UserError(what, "Leave them out; a model trained with --tokenizer bpe knows every character.")

    def to_bytes(self) -> bytes:
        return json.dumps({"characters": self.characters, "by_bytes": self.by_bytes}, indent=1).encode()


@dataclass
class Symbols(Vocabulary):
    """A token for each of some symbols that stand between spaces, such as phonemes.

    Args:
        symbols: each once, without spaces.
    """

    symbols: Sequence[str]

    def __post_init__(self) -> None:
        self.pieces = [b"", *(f"{symbol} ".encode() for symbol in self.symbols)]
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols, start=1)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> Symbols:
        """The symbols that occur in texts."""
        return cls(sorted({symbol for text in texts for symbol in text.split()}))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        unknown = {symbol for text in texts for symbol in text.split()} - self._ids.keys()
        if unknown:
            raise UserError(f"This model knows {len(self.symbols)} symbols, and not {', '.join(sorted(unknown))}.")
        return [[self._ids[symbol] for symbol in text.split()] for text in texts]

    def to_bytes(self) -> bytes:
        return json.dumps({"symbols": list(self.symbols)}, indent=1).encode()


class Pieces(Vocabulary):
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) of bytes: frequent words whole, others in pieces.

    Attributes:
        special: ids of the tokens that stand for no text, by their names.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # a text that says "<|endoftext|>" means those letters
        byte_of = {letter: byte for byte, letter in enumerate(_letters())}
        added = tokenizer.get_added_tokens_decoder()
        names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self.pieces = [b""] * (names[-1][1] + 1)
        for name, number in names:
            if number not in added:
                self.pieces[number] = bytes(byte_of[letter] for letter in name)
            elif not added[number].special:
                self.pieces[number] = name.encode()
        self.special = {token.content: number for number, token in added.items() if token.special}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def to_bytes(self) -> bytes:
        return str(self._tokenizer.to_str()).encode()


def characters(texts: Iterable[str], others: Iterable[str], most: int) -> Characters:
    """The characters of a training text, the most frequent where there are more than `most`.

    The rest are said by their bytes where the training text has such, or `others`, texts that will be measured.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:most]
    known = set(frequent)
    whole = len(known) == len(counts) and all(known.issuperset(text) for text in others)
    return Characters("".join(sorted(known)), by_bytes=not whole)


def train_pieces(texts: Sequence[str], size: int) -> Pieces:
    """Byte-pair encoding learnt from texts.

    Args:
        size: tokens, with END and all bytes.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_NAME],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Pieces(tokenizer)


def from_bytes(content: bytes) -> Vocabulary:
    """The reverse of `to_bytes`; UserError where it is damaged."""
    try:
        fields = json.loads(content)
        if "characters" in fields:
            return Characters(str(fields["characters"]), bool(fields["by_bytes"]))
        if "symbols" in fields:
            return Symbols([str(symbol) for symbol in fields["symbols"]])
        from tokenizers import Tokenizer

        return Pieces(Tokenizer.from_buffer(content))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"The model's vocabulary is damaged: {str(error)[:100]}.", "Train the model again.") from error


def _letters() -> list[str]:
    """The letter that stands for each byte in the names of pieces, as GPT-2 has it: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
