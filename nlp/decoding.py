"""How a language model writes: token by token, from a cache, for several prompts of different lengths at once.

A network that writes here has `network(tokens)`, tokens [B, T] to logits [B, T, V], and for a cache `start(batch)` and
`extend(tokens, lengths, cache)`, as those of nlp.gpt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.kinds.answer import Row
from common.kinds.prompt import Prompt
from common.kinds.sampling import Sampling
from common.kinds.writing import News
from common.machine import device
from nlp.vocabulary import END, Vocabulary


class Scored(NamedTuple):
    """A token and the probability that the network gave it, before anything was done to it by options."""

    token: int
    probability: float


@dataclass(eq=False)
class Text:
    """A text that is being written.

    Attributes:
        ids: all tokens so far, the prompt's too.
        sampling: how to go on.
        written: what came after the prompt.
        finish: why it ended: "stop", "length", or "" while it goes on.
        cut: bytes of what was written that count, where a stop string ended it.
        end: the token by which it ended itself; None where it did not.
    """

    ids: list[int]
    sampling: Sampling
    written: list[Scored] = field(default_factory=list)
    finish: str = ""
    cut: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.sampling.seed)
        self.prompt_tokens = len(self.ids)
        self._bytes = b""  # of what was written
        self._shown = self._shown_bytes = 0  # tokens of it that `news` has given, and their bytes

    @property
    def tokens(self) -> int:
        return len(self.written)

    def add(self, scored: Scored, vocabulary: Vocabulary) -> None:
        """Takes the next token and ends the text where it is over."""
        if scored.token in vocabulary.ends:
            self.finish, self.end = "stop", scored.token
            return
        self.ids.append(scored.token)
        self.written.append(scored)
        before = len(self._bytes)
        self._bytes += vocabulary.pieces[scored.token]
        stops = [stop.encode() for stop in self.sampling.stop]
        places = [p for stop in stops if (p := self._bytes.find(stop, max(0, before - len(stop) + 1))) >= 0]
        if places:
            self.finish, self.cut = "stop", min(places)
            return
        if len(self.written) >= self.sampling.max_tokens:
            self.finish = "length"

    def row(self, vocabulary: Vocabulary) -> Row:
        """The answer, as `common.kinds.continuation` has it."""
        pieces = readable([(vocabulary.pieces[token], probability) for token, probability in self.written], self.cut)
        text = "".join(piece for piece, _ in pieces)
        shown = [[piece, round(probability, 6)] for piece, probability in pieces]
        return {"text": text, "tokens": len(self.written), "finish_reason": self.finish, "pieces": shown}

    def news(self, vocabulary: Vocabulary) -> list[tuple[str, float]]:
        """The pieces that can be shown now and have not been given before; together they are the text of `row`."""
        ready = len(self._bytes) - self._held()
        given: list[tuple[bytes, float]] = []
        waiting = b""
        shown, end = self._shown, self._shown_bytes
        for number in range(self._shown, len(self.written)):
            token, probability = self.written[number]
            piece = vocabulary.pieces[token]
            end, waiting = end + len(piece), waiting + piece
            given.append((piece, probability))
            if end > ready:
                break
            if not _is_cut(waiting):
                waiting, shown, self._shown_bytes = b"", number + 1, end
        if self.finish:
            rest = [(vocabulary.pieces[token], share) for token, share in self.written[self._shown :]]
            before = len(vocabulary.decode(token for token, _ in self.written[: self._shown]))
            self._shown = len(self.written)
            return readable(rest, None if self.cut is None else max(0, self.cut - before))
        fresh = given[: shown - self._shown]
        self._shown = shown
        return readable(fresh)

    def _held(self) -> int:
        """How many of the last bytes may be the beginning of a stop string."""
        if self.finish:
            return 0
        lengths = (
            length
            for stop in (text.encode() for text in self.sampling.stop)
            for length in range(min(len(stop) - 1, len(self._bytes)), 0, -1)
            if self._bytes.endswith(stop[:length])
        )
        return max(lengths, default=0)


def readable(pieces: Sequence[tuple[bytes, float]], cut: int | None = None) -> list[tuple[str, float]]:
    """Pieces as text; those that only together are a character become one, with the product of their probabilities.

    Args:
        cut: bytes after which the rest is left out.
    """
    found: list[tuple[str, float]] = []
    waiting, probability, used = b"", 1.0, 0
    for content, share in pieces:
        if cut is not None:
            content = content[: max(0, cut - used)]
        used += len(content)
        waiting, probability = waiting + content, probability * share
        if not _is_cut(waiting):
            if waiting:
                found.append((waiting.decode("utf-8", "replace"), probability))
            waiting, probability = b"", 1.0
    return [*found, (waiting.decode("utf-8", "replace"), probability)] if waiting else found


def _is_cut(content: bytes) -> bool:
    """Whether a text ends within a character."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


# --- the next token ----------------------------------------------------------------------------------------


def probabilities(logits: Tensor, sampling: Sampling, before: Sequence[int]) -> Tensor:
    """The distribution from which the next token is drawn, [V]; a single 1 where the likeliest is taken.

    Args:
        logits: [V].
        before: all tokens so far, which the repetition penalty is about.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1 and before:
        seen = torch.tensor(sorted(set(before)), device=logits.device)
        there = logits[seen]
        penalty = sampling.repetition_penalty
        logits = logits.index_put((seen,), torch.where(there > 0, there / penalty, there * penalty))
    if sampling.temperature == 0:
        return nn.functional.one_hot(logits.argmax(), len(logits)).float()
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        least = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    shares = logits.softmax(0)
    if sampling.top_p < 1:
        ordered, order = shares.sort(descending=True, stable=True)
        beyond = ordered.cumsum(0) - ordered >= sampling.top_p  # the first always stays
        beyond[0] = False
        shares = shares.index_fill(0, order[beyond], 0.0)
    if sampling.min_p > 0:
        shares = shares.masked_fill(shares < sampling.min_p * shares.max(), 0.0)
    return shares / shares.sum()


def choose(logits: Tensor, text: Text) -> Scored:
    """The next token of a text, drawn by its own generator: what else is in a batch makes no difference."""
    shares = probabilities(logits, text.sampling, text.ids).cpu()
    token = int(shares.argmax()) if text.sampling.temperature == 0 else draw(shares, text.generator)
    return Scored(token, float(logits.float().softmax(0)[token]))


def draw(shares: Tensor, generator: torch.Generator) -> int:
    """A token by its probability, [V] on the CPU."""
    return int(torch.multinomial(shares, 1, generator=generator))


# --- several texts at once ---------------------------------------------------------------------------------


def window(length: int, limit: int) -> int:
    """Where what the network still sees of a text begins, so that at most `limit` tokens are seen.

    It moves in steps of half of them: a cache is built anew only then.
    """
    if length <= limit:
        return 0
    half = max(1, limit // 2)
    return -(-(length - limit) // half) * half


@torch.inference_mode()
def generate(
    network: Any,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    samplings: Sequence[Sampling],
    *,
    limit: int,
    cached: bool = True,
) -> list[Text]:
    """Continues texts; each as it would be alone, but for rounding.

    Args:
        limit: tokens that the network sees at once; 0 for any number.
        cached: whether keys and values, or states, are kept; otherwise every token reads all of the text again.

    Raises:
        UserError: a prompt has characters that the vocabulary lacks.
    """
    items = [Prompt(text, sampling) for text, sampling in zip(prompts, samplings, strict=True)]
    return write(network, vocabulary, items, limit=limit, cached=cached)


@torch.inference_mode()
def write(network: Any, vocabulary: Vocabulary, items: Sequence[Any], *, limit: int, cached: bool = True) -> list[Text]:
    """As `generate`, of decoded inputs as the vocabulary begins them."""
    writer = Writer(network, vocabulary, limit=limit, cached=cached)
    texts = [writer.add(item) for item in items]
    while writer.step():
        pass
    return texts


class Writer:
    """Texts that are written at the same time, each from when it is added until it ends (Orca, Yu et al. 2022).

    Args:
        limit, cached: as of `generate`.
    """

    def __init__(self, network: Any, vocabulary: Vocabulary, *, limit: int, cached: bool = True) -> None:
        self._reader = (Cached if cached else Uncached)(network, limit)
        self._vocabulary = vocabulary
        self._going: list[Text] = []  # in the order of the reader's rows; those that are new stand at the end

    def add(self, item: Any) -> Text:
        """Begins a text; UserError where it has characters that the vocabulary lacks."""
        text = Text(self._vocabulary.begin(item), item.sampling)
        self._going.append(text)
        return text

    @torch.inference_mode()
    def step(self) -> list[News]:
        """Writes one more token of every text; empty where there is none."""
        texts = list(self._going)
        if not texts:
            return []
        news = []
        for text, logits in zip(texts, self._reader.read([text.ids for text in texts]), strict=True):
            text.add(choose(logits, text), self._vocabulary)
            news.append(News(text, text.news(self._vocabulary), text.finish))
        self._keep([number for number, text in enumerate(texts) if not text.finish])
        return news

    @torch.inference_mode()
    def drop(self, writing: Text) -> None:
        """Ends a text that nobody waits for any more."""
        self._keep([number for number, text in enumerate(self._going) if text is not writing])

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self._going):
            self._reader.keep(rows)
            self._going = [self._going[row] for row in rows]


class Uncached:
    """Reads whole texts every time."""

    def __init__(self, network: Any, limit: int) -> None:
        self._network, self._limit = network, limit

    def read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits of the token after each text, [B, V]."""
        seen = [text[window(len(text), self._limit) if self._limit else 0 :] for text in texts]
        tokens, lengths = padded(seen, device.of(self._network))
        logits: Tensor = self._network(tokens)
        return logits[torch.arange(len(seen), device=logits.device), lengths - 1]

    def keep(self, rows: Sequence[int]) -> None:
        """Nothing is kept of any."""


class Cached:
    """Reads only what is new; a text that has filled the context is read again from where its window now begins."""

    def __init__(self, network: Any, limit: int) -> None:
        self._network, self._limit = network, limit
        self._cache: Any = None
        self._begins: list[int] = []

    def read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """As of Uncached; each text is the one of the last call with one more token, those at the end may be new."""
        begins = [window(len(text), self._limit) if self._limit else 0 for text in texts]
        known = len(self._begins)
        if begins[:known] != self._begins:  # a window has moved: what it has left can't be taken out of a cache
            self._cache, known = None, 0
        parts = []
        if known:
            parts.append(self._extend(self._cache, [text[-1:] for text in texts[:known]]))
        if known < len(texts):
            fresh = self._network.start(len(texts) - known)
            whole = zip(texts[known:], begins[known:], strict=True)
            parts.append(self._extend(fresh, [text[begin:] for text, begin in whole]))
            if known:
                self._cache.join(fresh)
            else:
                self._cache = fresh
        self._begins = begins
        return torch.cat(parts)

    def _extend(self, cache: Any, new: Sequence[Sequence[int]]) -> Tensor:
        tokens, lengths = padded(new, device.of(self._network))
        logits: Tensor = self._network.extend(tokens, lengths, cache)
        return logits[torch.arange(len(new), device=logits.device), lengths - 1]

    def keep(self, rows: Sequence[int]) -> None:
        kept = [row for row in rows if row < len(self._begins)]  # others have not been read yet
        if len(kept) == len(self._begins):
            return
        self._begins = [self._begins[row] for row in kept]
        if kept:
            self._cache.keep(torch.tensor(kept, device=device.of(self._network)))
        else:
            self._cache = None


def padded(texts: Sequence[Sequence[int]], place: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens filled up at their ends, [B, T], and their lengths [B]."""
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.full((len(texts), int(lengths.max())), END)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    return tokens.to(place), lengths.to(place)


@torch.inference_mode()
def read(network: Any, vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> list[list[list[Any]]]:
    """The pieces of each text and the probability that the network gave to each, from one pass over all of them.

    Args:
        limit: tokens that the network sees at once; of a longer text only the end is read. 0 for any number.
    """
    return read_tokens(network, vocabulary, [[END, *found] for found in vocabulary.encode(texts)], limit)


@torch.inference_mode()
def read_tokens(network: Any, vocabulary: Vocabulary, ids: Sequence[list[int]], limit: int) -> list[list[list[Any]]]:
    """As `read`, of tokens; the first of each text is not shown."""
    seen = [text[window(len(text), limit) if limit else 0 :] for text in ids]
    tokens, lengths = padded(seen, device.of(network))
    shares = network(tokens).float().softmax(2)  # [B, T, V]
    likely = shares[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2).tolist()
    rows = []
    for text, shown, row in zip(seen, likely, lengths.tolist(), strict=True):
        pairs = [(vocabulary.pieces[token], share) for token, share in zip(text[1:], shown[: row - 1], strict=True)]
        rows.append([[piece, round(share, 6)] for piece, share in readable(pairs)])
    return rows
