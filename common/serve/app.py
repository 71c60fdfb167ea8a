"""The web application: SageMaker's contract and a JSON API over the same models.

FastAPI is an extra, and routes need its names here: import this module inside the function that starts a server.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from common.errors import UserError
from common.serve import documents, formats, page
from common.serve.counters import Counters
from common.serve.formats import Problem
from common.serve.guard import Guard
from common.serve.models import ServedModel
from common.serve.openai import asked as texts_asked
from common.serve.openai import routes
from common.serve.openai.routes import Texts
from common.serve.requests import Intake, find
from common.serve.settings import Settings

OPEN = {"/ping", "/health", *page.OPEN}  # without a token
TARGET_HEADER = "x-amzn-sagemaker-target-model"


def create_app(models: Mapping[str, ServedModel], settings: Settings | None = None) -> FastAPI:
    """The application for models that are loaded; the first is the one that /invocations means by default."""
    settings = settings or Settings()
    counters = Counters(list(models))
    intake = Intake(settings.max_body, settings.max_requests * settings.max_body)
    texts = Texts(models, settings, counters)
    for model in models.values():
        model.observe = _counting(counters, model.name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for model in models.values():
            model.close()

    # The pages for trying the API load scripts from elsewhere; the description itself is at /openapi.json.
    app = FastAPI(title="PyTorch Use Cases", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    _explain_errors(app)
    app.add_middleware(Guard, settings=settings, open_paths=OPEN)

    @app.get("/ping", **documents.HEALTH)
    @app.get("/health", **documents.HEALTH)
    async def ping() -> Response:
        """Whether every model answers; green only when a real prediction works."""
        for model in models.values():
            if not await model.well():
                raise Problem(503, f"The model {model.name} does not answer.")
        return Response('{"status": "ok"}', media_type=formats.JSON)

    @app.get("/v1/models", **documents.MODELS)
    async def list_models() -> dict[str, Any]:
        """Every model, and what it takes and gives."""
        described = [model.describe() for model in models.values()]
        return {"models": described, "object": "list", "data": [_listed(name) for name in models]}

    @app.get("/v1/models/{name}", **documents.MODEL)
    async def describe_model(name: str) -> dict[str, Any]:
        """One model, and what it takes and gives."""
        return {**find(models, name).describe(), **_listed(name)}

    @app.post("/v1/models/{name}/predict", **documents.predictions(models))
    async def predict(name: str, request: Request) -> Response:
        """Predictions for one input or several."""
        return await serve(request, find(models, name))

    @app.post("/invocations", **documents.predictions(models))
    async def invocations(request: Request) -> Response:
        """The same for SageMaker; the query `model` or the target-model header names one of several models.

        Of a model that writes, an object with "stream" is a request of OpenAI's form, and answered so.
        """
        name = request.query_params.get("model") or request.headers.get(TARGET_HEADER)
        model = find(models, name) if name else next(iter(models.values()))
        if model.desk is None:
            return await serve(request, model)
        body = await intake.read(request)
        asked = texts_asked.either(body)
        if asked is None:
            return await serve(request, model, body)
        try:
            return await texts.answer(request, asked, model)
        except UserError as mistake:
            raise Problem(400, str(mistake)) from mistake

    @app.get("/metrics", **documents.METRICS)
    async def metrics() -> Response:
        """Counts of requests and batches, for Prometheus."""
        return Response(counters.text(), media_type="text/plain; version=0.0.4")

    async def serve(request: Request, model: ServedModel, body: bytes | None = None) -> Response:
        began, status = time.perf_counter(), 500
        try:
            body = await intake.read(request) if body is None else body
            with counters.at_work(settings.max_requests):  # only now: a slow client takes no other one's place
                answer = await asyncio.wait_for(_answer(request, body, model, settings), settings.timeout)
            status = 200
            return answer
        except asyncio.TimeoutError as error:
            status = 503
            raise Problem(503, f"The answer took longer than {settings.timeout:g} seconds.") from error
        except Problem as problem:
            status = problem.status
            raise
        finally:
            counters.answered(model.name, status, time.perf_counter() - began)

    page.add(app, models, settings, intake)
    routes.add(app, texts, intake)
    return app


def _listed(name: str) -> dict[str, Any]:
    """A model as OpenAI's clients know one."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "you"}


async def _answer(request: Request, body: bytes, model: ServedModel, settings: Settings) -> Response:
    media = formats.accepted(request.headers.get("accept", ""), settings.default_format)
    answer = await model.answer(body, request.headers.get("content-type", ""), media, settings.max_inputs)
    return Response(answer, media_type=media)


def _counting(counters: Counters, name: str) -> Callable[[int, float], None]:
    return lambda size, seconds: counters.ran(name, size, seconds)


def _explain_errors(app: FastAPI) -> None:
    """Every error is {"error": one line}."""

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        # A second is about what it takes to work off a full queue.
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        return JSONResponse({"error": error.text}, error.status, headers)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)

    async def bug(request: Request, error: Exception) -> Response:
        sys.stderr.write("".join(traceback.format_exception(error)))
        # It passes no middleware, so it is marked here.
        what = {"error": "The model failed on this input; the server's log says why."}
        return JSONResponse(what, 500, {"X-Content-Type-Options": "nosniff"})

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)
