"""What /openapi.json says beyond the paths: the bodies that go in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.serve import formats
from common.serve.models import ServedModel

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_TEXT = {"schema": {"type": "string"}}
_DESCRIPTION = {
    "type": "object",
    "required": ["name", "example", "input", "answer", "scores", "classes", "metrics", "precision"],
    "properties": {
        "name": {"type": "string"},
        "example": {"type": "string"},
        "input": {"type": "object", "description": "its kind, and what an input must be like"},
        "answer": {"type": "string", "description": "the key of the answer in a row"},
        "scores": {"type": "string", "description": "the key of the scores in a row; empty where there are none"},
        "classes": {"type": "array", "items": {"type": "string"}},
        "metrics": {"type": "object", "description": "on the test split, when it was trained"},
        "precision": {"type": "string"},
    },
}


def _answer(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {formats.JSON: {"schema": schema}}}


def _errors(**why: str) -> dict[int | str, Any]:
    return {int(status[1:]): _answer(what, _ERROR) for status, what in why.items()}


HEALTH: dict[str, Any] = {
    "responses": {200: _answer("every model answers", {"type": "object"}), **_errors(_503="a model does not answer")}
}
_MANY = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array", "items": _DESCRIPTION}}}
MODELS: dict[str, Any] = {
    "response_model": None,
    "responses": {200: _answer("the models", _MANY), **_errors(_401="no token")},
}
MODEL: dict[str, Any] = {
    "response_model": None,
    "responses": {200: _answer("the model", _DESCRIPTION), **_errors(_401="no token", _404="there is no such model")},
}
METRICS: dict[str, Any] = {
    "responses": {200: {"description": "in Prometheus' text format", "content": {"text/plain": _TEXT}}}
}


def predictions(models: Mapping[str, ServedModel]) -> dict[str, Any]:
    """How a route for predictions is described, for the kinds of input that the models have."""
    several = {"schema": {"description": 'one input, a list, {"inputs": …} or {"instances": […]}'}}
    bodies: dict[str, Any] = {formats.JSON: several, formats.JSON_LINES: _TEXT}
    for model in models.values():
        bodies |= model.predictor.input.documents()
    kinds = {model.predictor.answer.kind: model.predictor.answer.schema() for model in models.values()}
    row = {"anyOf": list(kinds.values())}
    rows = {"anyOf": [row, {"type": "array", "items": row}]}
    good = _answer("a row for each input", rows)
    good["content"] |= {formats.JSON_LINES: _TEXT, formats.CSV: _TEXT}
    wrong = _errors(
        _400="the body is not what the model takes",
        _401="no token",
        _403="a page of another site asks",
        _404="there is no such model",
        _406="no such format of answers",
        _408="the request does not come to its end",
        _413="the body is too large, or too many inputs or pixels",
        _415="no such content type",
        _421="the Host header names another server",
        _503="too many requests, or too slow; Retry-After says when to come again",
    )
    return {"responses": {200: good, **wrong}, "openapi_extra": {"requestBody": {"required": True, "content": bodies}}}
