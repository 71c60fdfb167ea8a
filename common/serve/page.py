"""The page at /: try every model that is served, by hand; and what it needs beyond the JSON API.

GET /                                        the page; /page/FILE are its parts
GET /v1/models/NAME/page                     what can be tried, and with what to begin
POST /v1/models/NAME/explain?class=          why: a heat map, the telling pieces of a text or columns of a row
GET /v1/models/NAME/latents/SEED             the point of the latent space that a seed means
POST /v1/models/NAME/games, …/games/ID       an agent at work; see common.serve.play.parse
GET /v1/models/NAME/report                   the report of the run
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from common import example
from common.artifact import Artifact
from common.kinds.game import Game
from common.serve import formats, play
from common.serve.explain import Explainer
from common.serve.formats import Problem
from common.serve.models import ServedModel
from common.serve.play import Games
from common.serve.requests import Intake, find
from common.serve.settings import Settings

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {p.relative_to(FOLDER).as_posix(): p.read_bytes() for p in sorted(FOLDER.rglob("*")) if p.suffix in TYPES}
OPEN = {"/", *(f"/page/{name}" for name in FILES)}  # without a token: here one is asked for, and they tell nothing
MOST_EXPLANATIONS = 8  # at work or waiting
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
)


def add(app: FastAPI, models: Mapping[str, ServedModel], settings: Settings, intake: Intake) -> None:
    """Gives an application the page and its routes; they are not part of the described API."""
    explainers = {name: Explainer(model.predictor) for name, model in models.items()}
    # One thread each, so that explanations and games never hold up a prediction.
    explaining, playing = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("explain", "play"))
    games = Games(playing)
    policy = _policy(settings)
    waiting = 0

    async def serve_file(name: str, request: Request) -> Response:
        if name not in FILES:
            raise Problem(404, "There is no such file.")
        tag = f'"{hashlib.sha256(FILES[name]).hexdigest()[:16]}"'
        headers = {"Content-Security-Policy": policy, "ETag": tag, "Cache-Control": "no-cache", **_GUARDED}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(FILES[name], media_type=TYPES[Path(name).suffix], headers=headers)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await serve_file("index.html", request)

    @app.get("/page/{name:path}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:
        return await serve_file(name, request)

    @app.get("/v1/models/{name}/page", include_in_schema=False)
    async def about(name: str) -> dict[str, Any]:
        model = find(models, name)
        return {**model.describe(), **describe(model), "explain": explainers[name].form}

    @app.post("/v1/models/{name}/explain", include_in_schema=False)
    async def explain(name: str, request: Request) -> dict[str, Any]:
        nonlocal waiting
        model, explainer = find(models, name), explainers[name]
        body = await intake.read(request)
        if waiting >= MOST_EXPLANATIONS:
            raise Problem(503, "Too many explanations are asked for. Try again later.")

        def work() -> dict[str, Any]:
            inputs = formats.parse(body, request.headers.get("content-type", ""), model.predictor.input)
            if len(inputs.raw) != 1:
                raise Problem(400, "One input is explained at a time.")
            return explainer(formats.decode(inputs, model.predictor.input)[0], request.query_params.get("class"))

        waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(explaining, work)
        finally:
            waiting -= 1

    @app.get("/v1/models/{name}/latents/{seed}", include_in_schema=False)
    async def latent(name: str, seed: str) -> dict[str, Any]:
        kind = find(models, name).predictor.input
        if not kind.latent:
            raise Problem(404, "This model has no latent space.")
        (item,) = formats.decode(formats.Inputs([seed.encode()]), kind)
        point: dict[str, Any] = kind.point(item)
        return point

    @app.post("/v1/models/{name}/games", include_in_schema=False)
    async def begin(name: str, request: Request) -> dict[str, Any]:
        asked = play.parse(await intake.read(request, 1024), 0)
        if asked.keys() - {"seed"}:
            raise Problem(400, 'A game begins with a "seed" or with nothing.')
        return await games.begin(name, _play(find(models, name)), asked.get("seed", 0))

    @app.post("/v1/models/{name}/games/{key}", include_in_schema=False)
    async def go_on(name: str, key: str, request: Request) -> dict[str, Any]:
        model = find(models, name)
        actions = len(model.predictor.answer.names)
        return await games.go_on(name, key, play.parse(await intake.read(request, 1024), actions))

    @app.delete("/v1/models/{name}/games/{key}", include_in_schema=False)
    async def end(name: str, key: str) -> dict[str, Any]:
        await games.end(name, key)
        return {}

    @app.get("/v1/models/{name}/report", include_in_schema=False)
    async def report(name: str) -> Response:
        path = report_of(find(models, name).saved)
        if path is None:
            raise Problem(404, "This model has no report.")
        headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-cache", **_GUARDED}
        return Response(path.read_bytes(), media_type="text/html", headers=headers)


_GUARDED = {"Referrer-Policy": "no-referrer"}


def _policy(settings: Settings) -> str:
    # Behind a token the page fetches the report itself and shows it in a sandbox that runs no script; the report's own
    # styles then need leave here.
    styles = "'self' 'unsafe-inline'" if settings.token else "'self'"
    return (
        f"default-src 'self'; style-src {styles}; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def describe(model: ServedModel) -> dict[str, Any]:
    """What the page must know of a model beyond the API's description."""
    saved, predictor = model.saved, model.predictor
    kind = predictor.input
    data = str(saved.config.get("data", "")).partition(":")[0]
    return {
        **kind.page(),
        "task": _task(saved),
        "data": data,
        "ask": _view(f"ask/{kind.kind}.js"),
        "show": _view(f"show/{predictor.answer.kind}.js"),
        "start": kind.start(),
        "play": predictor.play is not None,
        "report": report_of(saved) is not None,
        "headline": _headline(saved),
    }


def _view(name: str) -> str:
    """The view of a kind, found by its name; a plain one where it has none."""
    return name if name in FILES else "plain.js"


def _declared(saved: Artifact) -> example.Example | None:
    return example.get(saved.example) if saved.example in example.names() else None


def _task(saved: Artifact) -> str:
    declared = _declared(saved)
    return declared.task if declared else saved.example


def _headline(saved: Artifact) -> str:
    declared = _declared(saved)
    return declared.headline if declared and declared.headline in saved.metrics else ""


def report_of(saved: Artifact) -> Path | None:
    """The report beside a model, in the folder of its run; None where there is none."""
    path = saved.folder.parent / "report.html"
    return path if saved.folder.name == "model" and path.is_file() else None


def _play(model: ServedModel) -> Callable[[], Game]:
    if model.predictor.play is None:
        raise Problem(404, "There is nothing to play with this model.")
    return model.predictor.play
