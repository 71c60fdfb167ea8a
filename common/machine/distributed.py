"""Several processes: one group, one writer, and gradients that mean what one process would have computed.

Start with `torchrun --nproc-per-node N -m DOMAIN.EXAMPLE`. Without torchrun every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """This process's number among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world() -> int:
    """How many processes there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def start() -> None:
    """Joins the process group: nccl for gradients on GPUs, gloo on CPUs and for everything that is said in Python."""
    if world() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        dist.init_process_group(backend, timeout=timedelta(minutes=30))


def started() -> bool:
    """Whether this process has joined a group."""
    return dist.is_initialized()


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model under DistributedDataParallel, with batch statistics over the global batch; itself in one process."""
    if world() == 1:
        return model
    synchronize_batch_norm(model)
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def average_gradients(*models: nn.Module) -> None:
    """Replaces every gradient by its mean over the processes: what `wrap` does by itself, for loops of other shapes.

    For two networks whose losses pass through each other, or gradients of gradients, which
    DistributedDataParallel does not follow. Call it after `backward`. All parameters that have a gradient must
    have one on every process.
    """
    if world() == 1:
        return
    gradients = [p.grad for model in models for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])  # one message instead of one per parameter
    dist.all_reduce(flat)
    flat /= world()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def mean(value: Tensor) -> Tensor:
    """The mean of the processes' tensors, where they lie."""
    if world() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world()


def gather(value: Any) -> list[Any]:
    """Every process's value, in order of rank. Values travel by pickle between our own processes."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def agree(value: float) -> float:
    """The largest of the processes' values: how they decide together to stop or to save."""
    if world() == 1:
        return value
    agreed = torch.tensor(value, dtype=torch.float64)  # on the CPU, so that no GPU has to be waited for
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return agreed.item()


def share(value: Any) -> Any:
    """Rank 0's value, on every process."""
    return gather(value)[0]


@contextmanager
def first() -> Iterator[None]:
    """Runs a block on rank 0 before the others: a download happens once and the rest find it."""
    if world() > 1 and rank() > 0:
        dist.barrier()
    try:
        yield
    finally:
        if world() > 1 and rank() == 0:
            dist.barrier()


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the global batch, by autograd-aware sums, on any device.

    torch.nn.SyncBatchNorm does the same on GPUs only. Mean and variance are taken over [B, H, W] of all
    processes (Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1). State dict as in nn.BatchNorm2d.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:  # frozen or evaluating: the running statistics, no communication
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce

        x = input.float()  # [B, C, ...]; sums of bf16 would lose digits
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.new_tensor([x.numel() / x.shape[1]])
        mean, total = _split(all_reduce(torch.cat([x.sum(axes), count])))
        mean = mean / total
        centred = x - mean.view(shape)  # two passes: x² − mean² would cancel
        variance = all_reduce(centred.square().sum(axes)) / total
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.detach(), momentum)
                self.running_var.lerp_(variance.detach() * (total / (total - 1)), momentum)
        output = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)


def _split(sums: Tensor) -> tuple[Tensor, Tensor]:
    return sums[:-1], sums[-1].detach()


def synchronize_batch_norm(module: nn.Module) -> None:
    """Turns every nn.BatchNorm of a model into SyncBatchNorm, in place, with the same parameters and state."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.__class__ = SyncBatchNorm
