"""A text as the answer to a request, whole or as events: lines of `data: {chunk}`, and `data: [DONE]` at the end.

What was streamed is, byte for byte, what the same request gets whole.
"""

from __future__ import annotations

import json
import math
import secrets
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from common.errors import UserError
from common.kinds.writing import News
from common.serve.formats import Problem
from common.serve.openai.asked import Asked

Pieces = Sequence[tuple[str, float]]


class Answer(ABC):
    """What both ways of asking share.

    Attributes:
        kind, chunk: the names of an answer and of an event.
        mark: what an id begins with.
    """

    kind: ClassVar[str]
    chunk: ClassVar[str]
    mark: ClassVar[str]

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked = asked
        self._head = {"id": f"{self.mark}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._news: list[News] = []

    def take(self, news: News) -> None:
        """The next part of an answer that is given whole."""
        self._news.append(news)

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        last = self._news[-1]
        choice = self._choice(self._message("".join(news.text for news in self._news)), last.finish)
        choice["logprobs"] = self._logprobs([piece for news in self._news for piece in news.pieces])
        return {**self._head, "object": self.kind, "choices": [choice], "usage": _usage(last)}

    async def events(self, first: News, rest: AsyncGenerator[News, None]) -> AsyncIterator[str]:
        """The lines of a stream; the text ends with it."""
        last = first
        async with aclosing(rest):
            for event in [*self._begin(), *self._parts(first)]:
                yield self._line(event)
            try:
                async for last in rest:
                    for event in self._parts(last):
                        yield self._line(event)
            except Exception as mistake:  # too late for a status
                yield line(error(*said(mistake)))
                return
        if self._asked.usage:
            yield line({**self._head, "object": self.chunk, "choices": [], "usage": _usage(last)})
        yield "data: [DONE]\n\n"

    def _line(self, choice: dict[str, Any]) -> str:
        none = {"usage": None} if self._asked.usage else {}
        return line({**self._head, "object": self.chunk, "choices": [choice], **none})

    def _choice(self, content: dict[str, Any], finish: str) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish or None}

    @abstractmethod
    def _message(self, text: str) -> dict[str, Any]:
        """A text as the only choice of an answer has it."""

    @abstractmethod
    def _begin(self) -> list[dict[str, Any]]:
        """What is sent before the first piece."""

    @abstractmethod
    def _parts(self, news: News) -> list[dict[str, Any]]:
        """The choices of the events that news are."""

    @abstractmethod
    def _logprobs(self, pieces: Pieces) -> dict[str, Any] | None:
        """How likely each piece was; None where nobody asked."""


class Completion(Answer):
    """Of /v1/completions."""

    kind, chunk, mark = "text_completion", "text_completion", "cmpl"

    def _message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _begin(self) -> list[dict[str, Any]]:
        return []

    def _parts(self, news: News) -> list[dict[str, Any]]:
        if not news.pieces and not news.finish:
            return []
        return [{**self._choice(self._message(news.text), news.finish), "logprobs": self._logprobs(news.pieces)}]

    def _logprobs(self, pieces: Pieces) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        return {"tokens": [piece for piece, _ in pieces], "token_logprobs": [_log(share) for _, share in pieces]}


class Reply(Answer):
    """Of /v1/chat/completions: in a stream the role comes first, then pieces, then why it ended."""

    kind, chunk, mark = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _begin(self) -> list[dict[str, Any]]:
        return [self._choice({"delta": {"role": "assistant", "content": ""}}, "")]

    def _parts(self, news: News) -> list[dict[str, Any]]:
        parts = []
        if news.pieces:
            choice = self._choice({"delta": {"content": news.text}}, "")
            parts.append({**choice, "logprobs": self._logprobs(news.pieces)})
        if news.finish:
            parts.append(self._choice({"delta": {}}, news.finish))
        return parts

    def _logprobs(self, pieces: Pieces) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        content = [
            {"token": piece, "logprob": _log(share), "bytes": list(piece.encode()), "top_logprobs": []}
            for piece, share in pieces
        ]
        return {"content": content, "refusal": None}


def _log(share: float) -> float:
    return round(math.log(max(share, 1e-30)), 6)


def _usage(last: News) -> dict[str, int]:
    asked, written = last.writing.prompt_tokens, last.writing.tokens
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def line(value: dict[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def said(mistake: Exception) -> tuple[int, str]:
    """The status and the text of what went wrong; what is no fault of the client is written to the log."""
    if isinstance(mistake, Problem):
        return mistake.status, mistake.text
    if isinstance(mistake, UserError):
        return 400, " ".join(str(mistake).split())
    sys.stderr.write("".join(traceback.format_exception(mistake)))
    return 500, "The model failed on this text; the server's log says why."


def error(status: int, text: str) -> dict[str, Any]:
    """An error as these clients read it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = "model_not_found" if status == 404 else None
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}
