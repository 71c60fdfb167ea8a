"""What a client of OpenAI's API asks for, in the words of this project's inputs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

from common.serve.formats import JSON, Problem

REFUSED = (  # what would change the answer and can't be done
    *("tools", "functions", "logit_bias", "presence_penalty", "frequency_penalty"),
    *("echo", "suffix", "audio", "prediction", "web_search_options"),
)
NEUTRAL: dict[str, tuple[Any, ...]] = {  # what some clients always send, and the values that change nothing
    "n": (1,),
    "best_of": (1,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
OPTIONS = ("temperature", "top_p", "stop", "seed", "top_k", "min_p", "repetition_penalty")
USUAL_TOKENS = 16  # of a completion where the request says nothing, as the reference has it


class Asked(NamedTuple):
    """A request.

    Args:
        model: its name; "" for the first.
        given: the text or the messages, with what is said of sampling.
        stream: whether the answer comes in events.
        usage: whether the last of them counts the tokens.
        logprobs: whether each piece comes with its probability.
    """

    model: str
    given: dict[str, Any]
    stream: bool
    usage: bool
    logprobs: bool


def completion(body: bytes) -> Asked:
    """A request to /v1/completions; Problem 400 where it can't be answered."""
    return _asked(object_of(body), _completion)


def conversation(body: bytes) -> Asked:
    """A request to /v1/chat/completions; Problem 400 where it can't be answered."""
    return _asked(object_of(body), _conversation)


def either(body: bytes) -> Asked | None:
    """One of both where it says "stream", true or false, else None: what SageMaker's one route is asked."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # said by whoever reads it next
        return None
    if not isinstance(value, dict) or "stream" not in value:
        return None
    return _asked(value, _conversation if "messages" in value else _completion)


def object_of(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as mistake:
        raise Problem(400, f"The body is not valid {JSON}: {mistake}.") from mistake
    if not isinstance(value, dict):
        raise Problem(400, "The body is not an object.")
    return value


def _asked(value: dict[str, Any], way: Callable[[dict[str, Any]], dict[str, Any]]) -> Asked:
    for name in REFUSED:
        if value.get(name):
            raise Problem(400, f"{name!r} is not known here.")
    for name, neutral in NEUTRAL.items():
        if value.get(name) is not None and value[name] not in neutral:
            why = (
                "'n' is 1 here: ask several times, with other seeds." if name == "n" else f"{name!r} is not known here."
            )
            raise Problem(400, why)
    for name in ("stream", "logprobs"):
        if value.get(name) not in (None, False, True):  # 0 and 1 are equal to these
            hint = "'logprobs' is 0 or 1 here: of the tokens that were chosen." if name == "logprobs" else ""
            raise Problem(400, hint or f"{name!r} is true or false.")
    options = value.get("stream_options")
    given = way(value) | {name: value[name] for name in OPTIONS if value.get(name) is not None}
    return Asked(
        "" if value.get("model") is None else str(value["model"]),
        {"temperature": 1.0, "seed": secrets.randbits(31), **given},
        bool(value.get("stream")),
        isinstance(options, dict) and bool(options.get("include_usage")),
        bool(value.get("logprobs")),
    )


def _completion(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("prompt"), str):
        raise Problem(400, "'prompt' is one text here.")
    return {"prompt": value["prompt"], "max_tokens": USUAL_TOKENS, **_tokens(value)}


def _conversation(value: dict[str, Any]) -> dict[str, Any]:
    if "messages" not in value:
        raise Problem(400, "'messages' is missing.")
    if value.get("top_logprobs"):
        raise Problem(400, "'top_logprobs' is 0 here: only the tokens that were chosen have one.")
    return {"messages": value["messages"], **_tokens(value)}


def _tokens(value: dict[str, Any]) -> dict[str, Any]:
    named = [value[name] for name in ("max_completion_tokens", "max_tokens") if value.get(name) is not None]
    return {"max_tokens": named[0]} if named else {}
