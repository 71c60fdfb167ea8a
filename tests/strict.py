"""Requests to AWS held against botocore's own model, more strictly than boto3 and moto do.

botocore checks types and required members when it serialises. It leaves enums, patterns, lengths and ranges to
the service, which no test has.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

# botocore's type names, and the Python types that its serialiser takes for them.
_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (float, int),
    "double": (float, int),
    "blob": (bytes, bytearray),
}

# What stands in the patterns in Java's spelling, and the same in Python's.
_PYTHON = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\d",
    r"\p{Z}": r"\s",
    r"\p{Print}": "[ -~]",
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010FFFF",  # beyond 16 bits
}


def problems(operation: str, request: dict[str, Any], service: str = "sagemaker") -> list[str]:
    """What the service would refuse in a request, one line each such as `$.RoleArn: length 3 is below 20`.

    Args:
        operation: as the API calls it, such as "CreateTrainingJob".
        request: the parameters as boto3 takes them.
        service: as boto3 calls it.
    """
    return list(_check(_model(service).operation_model(operation).input_shape, request, "$"))


@functools.cache
def _model(service: str) -> Any:
    import botocore.session

    return botocore.session.get_session().get_service_model(service)


def _check(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    expected = _TYPES.get(kind)
    if expected and (not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{path}: {type(value).__name__} in place of {kind}"
    elif kind == "structure":
        yield from _check_structure(shape, value, path)
    elif kind == "list":
        yield from _check_bounds(shape, len(value), "length", path)
        for position, item in enumerate(value):
            yield from _check(shape.member, item, f"{path}[{position}]")
    elif kind == "map":
        yield from _check_bounds(shape, len(value), "length", path)
        for key, item in value.items():
            yield from _check(shape.key, key, f"{path}<key {key}>")
            yield from _check(shape.value, item, f"{path}.{key}")
    elif kind == "string":
        yield from _check_string(shape, value, path)
    elif kind in ("integer", "long", "float", "double"):
        yield from _check_bounds(shape, value, "value", path)


def _check_structure(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in shape.required_members:
        if name not in value:
            yield f"{path}.{name}: required"
    for name, item in value.items():
        if name in shape.members:
            yield from _check(shape.members[name], item, f"{path}.{name}")
        else:
            yield f"{path}.{name}: unknown"
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield f"{path}: {len(value)} members of a union, not one"


def _check_string(shape: Any, value: str, path: str) -> Iterator[str]:
    choices = getattr(shape, "enum", None)
    if choices and value not in choices:
        yield f"{path}: {value!r} is not among its {len(choices)} values"
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(_in_python(pattern), value):
        yield f"{path}: {value!r} does not match {pattern}"
    yield from _check_bounds(shape, len(value), "length", path)


def _in_python(pattern: str) -> str:
    for java, python in _PYTHON.items():
        pattern = pattern.replace(java, python)
    return pattern


def _check_bounds(shape: Any, size: float, what: str, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"{path}: {what} {size} is below {low}"
    if high is not None and size > high:
        yield f"{path}: {what} {size} is above {high}"
