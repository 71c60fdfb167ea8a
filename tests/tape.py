"""A graph of operators on the CPU: like a CUDA graph it keeps tensors and forgets Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output


def tape(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Records a function as `common.training.step.cuda_graph` does.

    On the CPU recording can't be done without running: the first replay, which follows at once, does nothing.
    """
    with _Tape() as recorded:
        output = function()
    waiting = [True]

    def replay() -> None:
        if waiting:
            waiting.clear()
            return
        with torch.no_grad():
            for func, args, kwargs, old in recorded.calls:
                inputs = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
                new = func(*args, **kwargs)
                for kept, made in zip(tree_leaves(old), tree_leaves(new), strict=True):
                    # What was written in place, or is a view, stands where it stood.
                    if isinstance(kept, Tensor) and id(kept) not in inputs and not _alias(kept, made):
                        kept.copy_(made)

    return replay, output


def _alias(left: Tensor, right: Tensor) -> bool:
    return left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()
