"""Batches of any shape: a tensor, or tuples, dictionaries and lists of such, as deep as it takes.

A tensor holds one sample in each entry of its first dimension, a list one sample in each entry (boxes of images, which
differ in number). Tuples and dictionaries hold parts of all samples. Whatever else a batch holds, such as None or a
number, belongs to all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def change(nest: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest with every tensor changed by a function."""
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, dict):
        return {key: change(part, function) for key, part in nest.items()}
    if isinstance(nest, tuple):
        parts = [change(part, function) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    return [change(part, function) for part in nest] if isinstance(nest, list) else nest


def tensors(nest: Any) -> list[Tensor]:
    """Every tensor of a nest, in order."""
    found: list[Tensor] = []
    change(nest, found.append)
    return found


def move(nest: Any, device: torch.device) -> Any:
    """The nest on a device; what lies in pinned memory is copied without waiting."""
    return change(nest, lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))


def size(nest: Any) -> int:
    """How many samples a nest holds.

    Raises:
        ValueError: it holds neither a tensor nor a list.
    """
    if isinstance(nest, (Tensor, list)):
        return len(nest)
    for part in nest.values() if isinstance(nest, dict) else nest if isinstance(nest, tuple) else ():
        if isinstance(part, (Tensor, list, dict, tuple)):
            return size(part)
    raise ValueError(f"a batch holds a tensor or a list of samples, not {type(nest).__name__}")


def cut(nest: Any, start: int, stop: int) -> Any:
    """The samples from `start` to `stop`."""
    return _by_sample(nest, lambda part: part[start:stop])


def pieces(nest: Any, count: int) -> list[Any]:
    """The nest cut into up to `count` pieces of about equal size, as `Tensor.chunk` cuts."""
    whole = size(nest)
    step = max(1, -(-whole // count))
    return [cut(nest, start, start + step) for start in range(0, whole, step)] or [nest]


def share(nest: Any, rank: int, world: int) -> Any:
    """One process's share of the samples, as `Tensor.tensor_split` cuts: the first ones may get one more."""
    if world == 1:
        return nest
    each, more = divmod(size(nest), world)
    start = rank * each + min(rank, more)
    return cut(nest, start, start + each + (rank < more))


def take(nest: Any, order: Tensor) -> Any:
    """The samples in the order of their numbers, int64 [N] on the device of the tensors."""
    return _by_sample(nest, lambda part: part[order] if isinstance(part, Tensor) else [part[i] for i in order.tolist()])


def join(nests: Sequence[Any]) -> Any:
    """Several nests of one structure as one, sample after sample.

    Raises:
        ValueError: there is none.
    """
    if not nests:
        raise ValueError("there is nothing to join")
    first = nests[0]
    if isinstance(first, Tensor):
        return torch.cat(list(nests))
    if isinstance(first, list):
        return [sample for nest in nests for sample in nest]
    if isinstance(first, dict):
        return {key: join([nest[key] for nest in nests]) for key in first}
    if isinstance(first, tuple):
        parts = [join(part) for part in zip(*nests, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return first


def outline(nest: Any) -> Any:
    """The shape of a nest, as JSON can hold it: each tensor is its number among `tensors`. `filled` is the reverse."""
    numbers = itertools.count()
    return change(nest, lambda _: next(numbers))


def filled(outline: Any, tensors: Sequence[Tensor]) -> Any:
    """The nest of an outline; what was a tuple may have become a list, as in JSON, and is a tuple again."""
    if isinstance(outline, dict):
        return {key: filled(part, tensors) for key, part in outline.items()}
    if isinstance(outline, (list, tuple)):
        return tuple(filled(part, tensors) for part in outline)
    return tensors[outline]


def _by_sample(nest: Any, function: Callable[[Any], Any]) -> Any:
    """The same nest with the samples of every tensor and list chosen by a function."""
    if isinstance(nest, (Tensor, list)):
        return function(nest)
    if isinstance(nest, dict):
        return {key: _by_sample(part, function) for key, part in nest.items()}
    if isinstance(nest, tuple):
        parts = [_by_sample(part, function) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    return nest
