"""The API that most clients of language models speak: /v1/completions, whole or as a stream of events.

As OpenAI's reference has it: `model`, `prompt`, `max_tokens`, `temperature`, `top_p`, `stop`, `seed`, `stream`,
`stream_options.include_usage`, `logprobs`; unknown settings are passed over. A stream is lines of `data: {chunk}`, and
`data: [DONE]` at its end. What was streamed is, byte for byte, what the same request gets whole.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from common.errors import UserError
from common.kinds.base import decoded
from common.kinds.writing import News
from common.serve.counters import Counters
from common.serve.formats import JSON, Problem
from common.serve.models import ServedModel
from common.serve.requests import Intake, find
from common.serve.settings import Settings

REFUSED = ("tools", "tool_choice", "functions", "response_format", "echo", "suffix", "best_of", "logit_bias")
USUAL_TOKENS = 16  # as the reference has it, where the request says nothing


def add(
    app: FastAPI, models: Mapping[str, ServedModel], settings: Settings, intake: Intake, counters: Counters
) -> None:
    """Adds the routes, if there is a model that writes."""
    writers = {name: model for name, model in models.items() if model.desk is not None}
    if not writers:
        return

    @app.post("/v1/completions", tags=["texts"])
    async def completions(request: Request) -> Response:
        """Continues a text, as OpenAI's clients ask for it."""
        try:
            asked = _object(await intake.read(request))
            model = _model(writers, asked.get("model"))
            raw = model.predictor.input.request(_known(asked))
            item = decoded(model.predictor.input, raw, "The request")
            answer = _Answer(asked, model.name)
            news = _listened(model, item, settings, counters)
            if asked.get("stream"):
                first = await anext(news)  # what is refused, is refused with a status
                return StreamingResponse(answer.events(first, news), media_type="text/event-stream", headers=UNSTORED)
            async for one in news:
                answer.take(one)
                if await request.is_disconnected():
                    await news.aclose()
                    break
            return JSONResponse(answer.whole())
        except Problem as problem:
            return refusal(problem.status, problem.text)
        except UserError as mistake:
            return refusal(400, " ".join(str(mistake).split()))

    @app.post("/v1/chat/completions", tags=["texts"])
    async def conversations() -> Response:
        """Refused: the models here continue texts, and none was taught to converse."""
        return refusal(400, "This model continues texts and has not learned to converse: ask /v1/completions.")


UNSTORED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy may not wait for the end of a stream


def refusal(status: int, text: str) -> Response:
    return JSONResponse(error(status, text), status, {"Retry-After": "1"} if status == 503 else {})


def error(status: int, text: str) -> dict[str, Any]:
    """An error as these clients read it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = "model_not_found" if status == 404 else None
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as mistake:
        raise Problem(400, f"The body is not valid {JSON}: {mistake}.") from mistake
    if not isinstance(value, dict):
        raise Problem(400, "The body is not an object.")
    return value


def _model(writers: Mapping[str, ServedModel], name: Any) -> ServedModel:
    """The model of a request; the first one where it names none."""
    return next(iter(writers.values())) if name is None else find(writers, str(name))


def _known(asked: dict[str, Any]) -> dict[str, Any]:
    """The settings of a request that this API takes; Problem for what would change the answer and can't be done."""
    for name in REFUSED:
        if asked.get(name):
            raise Problem(400, f"{name!r} is not known here.")
    if asked.get("n", 1) != 1:
        raise Problem(400, "'n' is 1 here: ask several times, with other seeds.")
    if not isinstance(asked.get("prompt"), str):
        raise Problem(400, "'prompt' is one text here.")
    logprobs = asked.get("logprobs")
    if logprobs not in (None, False, True, 0, 1):
        raise Problem(400, "'logprobs' is 0 or 1 here: of the tokens that were chosen.")
    tokens = asked.get("max_tokens", asked.get("max_completion_tokens"))
    given = {name: asked.get(name) for name in ("prompt", "temperature", "top_p", "stop", "seed")}
    given |= {"max_tokens": USUAL_TOKENS if tokens is None else tokens}
    given |= {"temperature": 1.0} if given["temperature"] is None else {}
    if given["seed"] is None:
        given["seed"] = secrets.randbits(31)
    return {name: value for name, value in given.items() if value is not None}


async def _listened(
    model: ServedModel, item: Any, settings: Settings, counters: Counters
) -> AsyncGenerator[News, None]:
    """The news of a text; counted as one request."""
    began, status = time.perf_counter(), 499  # who goes before the end leaves this
    try:
        with counters.at_work(settings.max_requests):
            assert model.desk is not None
            async for news in model.desk.write(item, settings.timeout):
                yield news
        status = 200
    except Problem as problem:
        status = problem.status
        raise
    finally:
        counters.answered(model.name, status, time.perf_counter() - began)


class _Answer:
    """A text as the answer to a request, whole or in events."""

    def __init__(self, asked: dict[str, Any], model: str) -> None:
        options = asked.get("stream_options")
        self._usage = bool(isinstance(options, dict) and options.get("include_usage"))
        self._logprobs = bool(asked.get("logprobs"))
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._news: list[News] = []

    def take(self, news: News) -> None:
        self._news.append(news)

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        pieces = [piece for news in self._news for piece in news.pieces]
        text = "".join(news.text for news in self._news)
        choice = self._choice(text, pieces, self._news[-1].finish)
        return self._head | {"choices": [choice], "usage": _usage(self._news[-1])}

    async def events(self, first: News, rest: AsyncIterator[News]) -> AsyncIterator[str]:
        """The lines of a stream."""
        last = first
        yield self._event(first)
        try:
            async for last in rest:
                if last.pieces or last.finish:
                    yield self._event(last)
        except Problem as problem:  # too late for a status
            yield _line(error(problem.status, problem.text))
            return
        if self._usage:
            yield _line(self._head | {"choices": [], "usage": _usage(last)})
        yield "data: [DONE]\n\n"

    def _event(self, news: News) -> str:
        return _line(self._head | {"choices": [self._choice(news.text, news.pieces, news.finish)]})

    def _choice(self, text: str, pieces: list[tuple[str, float]], finish: str) -> dict[str, Any]:
        logprobs = None
        if self._logprobs:
            logprobs = {
                "tokens": [piece for piece, _ in pieces],
                "token_logprobs": [round(math.log(max(share, 1e-30)), 6) for _, share in pieces],
            }
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish or None}


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _usage(last: News) -> dict[str, int]:
    asked, written = last.writing.prompt_tokens, last.writing.tokens
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
