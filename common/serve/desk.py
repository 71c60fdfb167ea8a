"""Texts that are written for several clients at once: one thread, one writer, a token of every text at a time."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator
from typing import Any

from common.kinds.writing import News, Writer
from common.serve.formats import Problem

MOST_TEXTS = 16  # written at the same time
MOST_TOKENS = 2**15  # of all of them, with their prompts and all that they may come to: each is held in a cache


class Desk:
    """Writes texts in a thread of its own while there are any. Its methods belong to the event loop's thread.

    Args:
        writer: is touched by that thread only.
        most: texts at the same time.
        tokens: of all of them together.
    """

    def __init__(self, writer: Writer, most: int = MOST_TEXTS, tokens: int = MOST_TOKENS) -> None:
        self._writer = writer
        self._most = most
        self._tokens = tokens
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._open: set[_Order] = set()
        self._thread: threading.Thread | None = None

    async def write(self, item: Any, patience: float) -> AsyncIterator[News]:
        """The news of one text, until it ends. Who stops listening ends it within a token.

        Args:
            item: a decoded input, with its `sampling`.
            patience: seconds for each token.

        Raises:
            Problem: 503 where too many texts are being written or a token takes too long, 400 where this one alone may
                have too many tokens.
            UserError: the writer can't begin it.
        """
        if self._full():
            raise Problem(503, "The server writes all the texts that it can. Try again later.")
        order = _Order(item, asyncio.get_running_loop())
        self._open.add(order)
        try:
            self._orders.put(order)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
                self._thread.start()
            while True:
                try:
                    news = await asyncio.wait_for(order.news.get(), patience)
                except asyncio.TimeoutError as error:
                    raise Problem(503, f"A token took longer than {patience:g} seconds.") from error
                if isinstance(news, Exception):
                    raise news
                yield news
                if news.finish:
                    return
        finally:
            order.wanted = False
            self._open.discard(order)

    def _full(self) -> bool:
        return len(self._open) >= self._most

    def close(self) -> None:
        """Ends the thread; texts that are being written stay as they are."""
        self._orders.put(None)

    def _work(self) -> None:
        going: dict[Any, _Order] = {}
        while True:
            while not going or not self._orders.empty():
                order = self._orders.get()
                if order is None:
                    return
                if order.wanted:
                    try:
                        going[self._begun(order, going)] = order
                    except Exception as error:  # about this text alone
                        order.tell(error)
            for writing in [writing for writing, order in going.items() if not order.wanted]:
                self._writer.drop(writing)
                del going[writing]
            try:
                written = self._writer.step()
            except Exception as error:  # of a step that all share
                for writing, order in going.items():
                    order.tell(error)
                    self._writer.drop(writing)
                going.clear()
                continue
            for news in written:
                going[news.writing].tell(news)
                if news.finish:
                    del going[news.writing]

    def _begun(self, order: _Order, going: dict[Any, _Order]) -> Any:
        """The writing of an order, if there is room for its tokens."""
        writing = self._writer.add(order.item)
        prompt, more = writing.prompt_tokens, order.item.sampling.max_tokens
        order.tokens = prompt + more
        if order.tokens > self._tokens - sum(other.tokens for other in going.values()):
            self._writer.drop(writing)
            if order.tokens > self._tokens:
                what = f"The text has {prompt:,} tokens and asks for {more:,} more; {self._tokens:,} are the most."
                raise Problem(400, what)
            raise Problem(503, "The server holds all the tokens that it can. Try again later.")
        return writing


class _Order:
    """A text that somebody waits for.

    Attributes:
        news: that have not been read yet.
        tokens: that it may come to, with its prompt.
        wanted: whether somebody still waits.
    """

    def __init__(self, item: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.item = item
        self.news: asyncio.Queue[News | Exception] = asyncio.Queue()
        self.wanted = True
        self.tokens = 0
        self._loop = loop

    def tell(self, news: News | Exception) -> None:
        """From the writer's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever waited with it
            self._loop.call_soon_threadsafe(self.news.put_nowait, news)
