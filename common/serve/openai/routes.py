"""/v1/completions and /v1/chat/completions, as OpenAI's reference has them, for models that write texts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from common.kinds.base import decoded
from common.kinds.writing import News
from common.serve.counters import Counters
from common.serve.models import ServedModel
from common.serve.openai import asked as requests
from common.serve.openai.answers import Answer, Completion, Reply, error, said
from common.serve.openai.asked import Asked
from common.serve.requests import Intake, find
from common.serve.settings import Settings

UNSTORED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy may not wait for the end of a stream


class Texts:
    """Answers requests for texts.

    Args:
        models: by name, those that write.
    """

    def __init__(self, models: Mapping[str, ServedModel], settings: Settings, counters: Counters) -> None:
        self._models = {name: model for name, model in models.items() if model.desk is not None}
        self._settings = settings
        self._counters = counters

    def __bool__(self) -> bool:
        return bool(self._models)

    def model(self, name: str) -> ServedModel:
        """The model of a request; the first where it names none, Problem 404 where there is none such."""
        return find(self._models, name) if name else next(iter(self._models.values()))

    async def answer(self, request: Request, asked: Asked, model: ServedModel) -> Response:
        """The text, whole or as it is written; Problem or UserError where there will be none."""
        kind = model.predictor.input
        item = decoded(kind, kind.request(asked.given), "The request")
        answer: Answer = (Reply if "messages" in asked.given else Completion)(asked, model.name)
        news = self._listened(model, item)
        first = await anext(news)  # what is refused, is refused with a status
        if asked.stream:
            return StreamingResponse(answer.events(first, news), media_type="text/event-stream", headers=UNSTORED)
        answer.take(first)
        async for one in news:
            answer.take(one)
            if await request.is_disconnected():
                await news.aclose()
                break
        return JSONResponse(answer.whole())

    async def _listened(self, model: ServedModel, item: Any) -> AsyncGenerator[News, None]:
        """The news of a text; counted as one request."""
        began, status = time.perf_counter(), 499  # who goes before the end leaves this
        try:
            with self._counters.at_work(self._settings.max_requests):
                assert model.desk is not None
                async for news in model.desk.write(item, self._settings.timeout):
                    yield news
            status = 200
        except Exception as mistake:
            status = getattr(mistake, "status", 500)
            raise
        finally:
            self._counters.answered(model.name, status, time.perf_counter() - began)


def add(app: FastAPI, texts: Texts, intake: Intake) -> None:
    """Adds the routes, if there is a model that writes."""
    if not texts:
        return

    async def serve(request: Request, read: Callable[[bytes], Asked]) -> Response:
        try:
            asked = read(await intake.read(request))
            return await texts.answer(request, asked, texts.model(asked.model))
        except Exception as mistake:
            status, text = said(mistake)
            return JSONResponse(error(status, text), status, {"Retry-After": "1"} if status == 503 else {})

    @app.post("/v1/completions", tags=["texts"])
    async def completions(request: Request) -> Response:
        """Continues a text, as OpenAI's clients ask for it."""
        return await serve(request, requests.completion)

    @app.post("/v1/chat/completions", tags=["texts"])
    async def conversations(request: Request) -> Response:
        """Writes the next message of a conversation, as OpenAI's clients ask for it."""
        return await serve(request, requests.conversation)
