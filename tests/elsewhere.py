"""A device that is not there: tensors that claim to be on it and refuse to mix with the CPU's, on any machine.

An `Elsewhere` tensor holds an ordinary one, says that it lies on `cuda:0` (or `mps:0`) and fails where a GPU would:
in operators with tensors of both places, in `.numpy()`, with a generator of the other place. Inside `stand_in()`
everything that asks for such a device gets these. Arithmetic is the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from common.machine import device as devices

aten = torch.ops.aten
MIXED = "Expected all tensors to be on the same device, but found at least two devices"
# Joining takes no number of the CPU, as arithmetic does.
STRICT = {aten.cat.default, aten.stack.default}
# What is indexed says where; the indices may come from the CPU.
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor}
# Make constants for the device that PyTorch believes the tensor to be on, where no operator sees it.
WHOLE = {torch.cov}


class Elsewhere(torch.Tensor):
    """A tensor of a device that is not there."""

    where: Any = torch.device("cuda:0")
    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.shape,
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=torch.device("meta"),
            requires_grad=elem.requires_grad,
        )
        made.elem = elem.detach()
        return made

    def __init__(self, elem: Tensor) -> None:
        if Elsewhere.where.type == "mps" and elem.dtype is torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )

    @property
    def device(self) -> Any:  # type: ignore[override]
        return Elsewhere.where

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return Elsewhere.where.type == "cuda"

    def tolist(self) -> Any:
        return self.elem.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.elem!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        _refuse_mixtures(func, args, kwargs)
        held = {id(leaf.elem): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Elsewhere)}
        target = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
        output = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if func is aten._local_scalar_dense.default or (_copies(func) and target is not None and target.type == "cpu"):
            return output
        if func is aten.copy_.default and not isinstance(args[0], Elsewhere):
            return args[0]

        def put_back(value: Any) -> Any:
            if id(value) in held:  # changed in place: it is the tensor that was given
                return held[id(value)]
            return Elsewhere(value) if isinstance(value, Tensor) else value

        return tree_map(put_back, output)


def _bare(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.elem if isinstance(value, Elsewhere) else value


def _copies(func: Any) -> bool:
    return func._schema.name in ("aten::_to_copy", "aten::to", "aten::copy_")


def _refuse_mixtures(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    generator = kwargs.get("generator")
    if generator is not None and not _is_elsewhere(generator):
        raise RuntimeError(f"Expected a '{Elsewhere.where.type}' device type for generator but found 'cpu'")
    if _copies(func):
        return
    if func in INDEXING:
        tensors = [args[0], *tree_leaves(args[2:])] if isinstance(args[0], Elsewhere) else tensors
    here = [t for t in tensors if isinstance(t, Tensor) and not isinstance(t, Elsewhere)]
    there = any(isinstance(t, Elsewhere) for t in tensors)
    if there and any(t.dim() or func in STRICT for t in here):
        raise RuntimeError(f"{MIXED}, {Elsewhere.where} and cpu! (when calling {func})")


class Generator(torch.Generator):
    """A generator of either place."""

    elsewhere: bool

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made.elsewhere = _asks(device)
        return made


def _is_elsewhere(generator: torch.Generator) -> bool:
    return isinstance(generator, Generator) and generator.elsewhere


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
    """PyTorch's own makes masks where no stand-in sees it."""
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if is_causal:
        attn_mask = Elsewhere(torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return scores.softmax(-1) @ value


class _Factories(TorchFunctionMode):
    """Gives whoever asks for the device its tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere) and "device" not in kwargs:
            return Elsewhere(torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}))
        if func in WHOLE and isinstance(args[0], Elsewhere):
            return Elsewhere(func(args[0].elem, *args[1:], **kwargs))
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], Elsewhere):
            return _attention(*args, **kwargs)
        asked, generator = any(_asks(value) for value in (*args, *kwargs.values())), kwargs.get("generator")
        if not asked and generator is not None and _is_elsewhere(generator) and not isinstance(args[0], Elsewhere):
            raise RuntimeError(f"Expected a 'cpu' device type for generator but found '{Elsewhere.where.type}'")
        if not asked or func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        if generator is not None and not _is_elsewhere(generator):
            raise RuntimeError(f"Expected a '{Elsewhere.where.type}' device type for generator but found 'cpu'")
        if func is torch.Tensor.to and isinstance(args[0], Elsewhere):
            args = tuple(a for a in args if not _asks(a))
            kwargs = {k: v for k, v in kwargs.items() if not _asks(v)}
            return func(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
        cpu = torch.device("cpu")
        args = tuple(cpu if _asks(a) else a for a in args)
        output = func(*args, **{k: cpu if _asks(v) else v for k, v in kwargs.items()})
        return tree_map(_moved, output)


def _asks(value: Any) -> bool:
    """Whether an argument names the device."""
    return isinstance(value, (torch.device, str)) and str(value).partition(":")[0] == Elsewhere.where.type


def _moved(value: Any) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
        return value
    made = Elsewhere(value)
    return made.requires_grad_() if value.requires_grad and value.is_leaf else made


def _save(save: Callable[..., None]) -> Callable[..., None]:
    def saved(value: Any, *args: Any, **kwargs: Any) -> None:
        save(tree_map(_bare, value), *args, **kwargs)

    return saved


@contextmanager
def stand_in(kind: str = "cuda") -> Iterator[None]:
    """Lets every run compute on a stand-in for a device of that kind."""
    place, name = torch.device(kind, 0), getattr(torch, kind)
    patches: list[Any] = [
        mock.patch.object(Elsewhere, "where", place),
        mock.patch.object(devices, "pick_device", return_value=(place, "it stands in for one")),
        mock.patch.object(devices, "describe", return_value="stand-in"),
        mock.patch.object(devices, "peak_memory_mb", return_value=0.0),
        mock.patch.object(devices, "leave_for_cpu", lambda values: values.cpu),
        mock.patch.object(torch, "save", _save(torch.save)),
        mock.patch.object(torch, "Generator", Generator),
        # Its random numbers are the CPU's, whose state is kept anyway, and its sums those of one thread.
        mock.patch.object(name, "get_rng_state", return_value=torch.zeros(16, dtype=torch.uint8)),
        mock.patch.object(name, "set_rng_state"),
        mock.patch.object(torch.cuda, "set_device"),
        mock.patch.object(torch, "get_num_threads", return_value=1),
    ]
    for patch in patches:
        patch.start()
    try:
        with _Factories():
            yield
    finally:
        for patch in reversed(patches):
            patch.stop()
