"""One step of supervised training; on a GPU it is recorded as a graph and launched at once.

A small network on a fast GPU spends its time launching kernels: hundreds for each step, a few microseconds each. A CUDA
graph holds all of them, from the forward pass to the averaged weights, and one launch runs them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from common.machine import device as devices
from common.machine import distributed, nests
from common.training.run import Run

Loss = Callable[[Any, Any], Tensor]  # (outputs, targets), nests of B samples each -> scalar mean
Count = Callable[[Any], Tensor]  # targets -> over how many things, such as tokens or boxes, the loss is a mean
Graph = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]  # see `cuda_graph`

WARM_UP = 3  # steps before recording: libraries choose their kernels, optimisers make their state
CHECKED = 3  # compiled steps that are held against eager ones


class MovingAverage(AveragedModel):
    """An exponential moving average of a model's weights and buffers; integers, such as counts, are copied.

    Args:
        decay: per update, in [0, 1); the first update copies.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Moves towards the weights of a model."""
        self.blend(model, self.share)
        self.n_averaged += 1

    @property
    def share(self) -> float:
        """By which part of the way the next update moves."""
        return 1 - self.decay if self.n_averaged else 1.0

    @torch.no_grad()
    def blend(self, model: nn.Module, share: float) -> None:
        """The part of an update that happens on the device: nothing in it waits, so that it can be recorded."""
        mine = [*self.module.parameters(), *self.module.buffers()]
        others = [*model.parameters(), *model.buffers()]
        pairs = [(a, b) for a, b in zip(mine, others, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], share)
        for a, b in zip(mine, others, strict=True):
            if not a.is_floating_point():
                a.copy_(b)


class Step:
    """Forward, backward, clip, optimiser, average: what `fit` does with each batch.

    Args:
        model: placed by `run.place`.
        loss_fn: mean loss of a batch.
        optimizers: their rates are read anew at every step, so that any schedule may change them.
        count: what the loss is a mean over, where that is not the samples: pieces and processes then count by it, and
            the gradient is that of the whole batch at once.
        accumulate: pieces into which each batch is cut to save memory.
        clip: largest norm of the gradient; 0 for none.
        average: follows the model; None for none.

    Attributes:
        network: the model as it is called: under DistributedDataParallel where there are several processes.
        scaler: of the gradients, at work with fp16 only.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        loss_fn: Loss,
        optimizers: Sequence[Optimizer],
        *,
        count: Count | None = None,
        accumulate: int = 1,
        clip: float = 0.0,
        average: MovingAverage | None = None,
    ) -> None:
        assert run.plan is not None, "place the model first"
        self.model, self.loss_fn, self.optimizers, self.average = model, loss_fn, list(optimizers), average
        self.network = distributed.wrap(model, run.device)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.plan.precision == "fp16")
        self._run, self._count, self._accumulate, self._clip = run, count, accumulate, clip
        self._share = 1.0
        self._rates: list[Tensor] = []  # on the GPU, where a graph finds the learning rates of the moment
        self._learn: Callable[[Any, Any], Tensor] = self.learn
        self._unchecked = CHECKED if run.config.compile else 0
        if run.device.type == "cuda":
            self._prepare_graph(cuda_graph)

    def _prepare_graph(self, graph: Graph) -> None:
        reason = self._why_not()
        if reason:
            self._run.progress.say(f"graph      none: {reason}")
            return
        self._rates = [torch.zeros((), device=self._run.device) for _ in self._groups]
        for group in self._groups:
            if "capturable" in group:
                group["capturable"] = True
        self._learn = Recorded(self.learn, self._run.progress.say, graph)

    def _why_not(self) -> str:
        if not self._run.config.cuda_graph:
            return "--no-cuda-graph"
        if distributed.world() > 1:
            return "several processes exchange gradients within the step"
        if self.scaler.is_enabled():
            return "fp16 looks at every gradient before it is used; bf16 and fp32 don't"
        for optimizer in self.optimizers:
            if not all(group.get("fused") or "capturable" in group for group in optimizer.param_groups):
                return f"{type(optimizer).__name__} is neither fused nor made to be recorded"
        return ""

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def __call__(self, inputs: Any, targets: Any) -> Tensor:
        """Learns from one batch, nests of B samples, and returns its mean loss, a scalar on the device."""
        if self._rates:
            for rate, group in zip(self._rates, self._groups, strict=True):
                rate.fill_(group["lr"])
        if self.average is not None:
            self._share = self.average.share
        if self._unchecked:
            self._unchecked -= 1
            loss = self._checked(inputs, targets)
        else:
            loss = self._learn(inputs, targets)
        if self.average is not None:
            self.average.n_averaged += 1  # on the CPU: no part of the graph
        return loss

    def learn(self, inputs: Any, targets: Any) -> Tensor:
        """The step itself, kernel by kernel."""
        pieces = list(zip(nests.pieces(inputs, self._accumulate), nests.pieces(targets, self._accumulate), strict=True))
        losses = []
        for number, ((x, y), share) in enumerate(zip(pieces, self._shares(pieces), strict=True), start=1):
            with _hold_back_gradients(self.network, number < len(pieces)):
                with self._run.autocast():
                    part = self.loss_fn(self.network(x), y)
                    part = part if share is None else part * share
                self.scaler.scale(part).backward()
            losses.append(part.detach())
        if self._clip:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        with _rates_from(self._rates, self._groups):
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.blend(self.model, self._share)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _shares(self, pieces: list[tuple[Any, Any]]) -> Sequence[float | Tensor | None]:
        """The part of each piece in the mean over the batch; the mean over the processes is then that of all."""
        if self._count is None and len(pieces) == 1:
            return [None]  # all of it
        if self._count is None:
            sizes = [nests.size(x) for x, _ in pieces]
            return [size / sum(sizes) for size in sizes]
        counts = torch.stack([self._count(y).float() for _, y in pieces])
        total = distributed.mean(counts.sum())
        return list(counts / total.clamp(min=1e-12))  # a batch in which nothing counts teaches nothing

    # -- compiled code is not trusted unseen --------------------------------------------------------------

    def _checked(self, inputs: Any, targets: Any) -> Tensor:
        """The step in eager and in compiled code; the compiled one counts, unless they differ grossly."""
        before = self._state()
        with torch.compiler.set_stance("force_eager"):
            loss = self.learn(inputs, targets)
        eager = self._state()
        self._restore(before)
        compiled_loss = self.learn(inputs, targets)
        wrong = _difference(before, eager, self._state(), loss, compiled_loss)
        if not wrong:
            return compiled_loss
        self._restore(eager)
        self.model._compiled_call_impl = None
        self._unchecked = 0
        self._run.progress.say(f"compile    taken back: {wrong}. Training goes on without it.")
        return loss

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "scaler": self.scaler, "average": self.average}
        parts |= {f"optimizer {number}": optimizer for number, optimizer in enumerate(self.optimizers)}
        return {name: part for name, part in parts.items() if part is not None}

    def _state(self) -> dict[str, Any]:
        state = {name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()}
        return state | {"rng": devices.rng_state(self._run.device)}

    def _restore(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))
        devices.set_rng_state(state["rng"], self._run.device)


def _difference(
    before: dict[str, Any], eager: dict[str, Any], compiled: dict[str, Any], loss: Tensor, compiled_loss: Tensor
) -> str:
    """What is grossly wrong with a compiled step, in words; "" where nothing is.

    Only grossly: rounding differs, dropout draws other numbers, and Adam's first steps turn tiny gradients into whole
    steps. But the loss must be about the same, and the weights must move about as far.
    """

    def moved(after: dict[str, Any]) -> float:
        total = torch.zeros((), dtype=torch.float32)
        for name, old in before["model"].items():
            if old.is_floating_point():
                total += (after["model"][name].float() - old.float()).square().sum().cpu()
        return total.sqrt().item()

    first, second = loss.item(), compiled_loss.item()
    if not abs(first - second) <= 0.05 * max(1.0, abs(first)):
        return f"its loss is {second:.4g} where eager code gives {first:.4g}"
    far, compiled_far = moved(eager), moved(compiled)
    if not 0.5 * far <= compiled_far <= 2 * far:
        return f"its step moves the weights by {compiled_far:.3g} where eager code moves them by {far:.3g}"
    return ""


class Recorded:
    """A function of nests of tensors that is recorded after a few calls and then replayed as one launch.

    It is recorded where the first calls bring the same shapes and nothing in it waits for the device. Calls with other
    shapes run it as it is, now and later. Nothing is changed by recording: the first calls and the replays are
    the steps that would have been done anyway.

    Args:
        function: nests to one tensor. What it does in Python happens only while it is recorded: everything that
            changes from call to call must be in tensors.
        say: gets one line, whether it was recorded or why not.
        graph: records, as `cuda_graph` does.
    """

    def __init__(self, function: Callable[..., Tensor], say: Callable[[str], None], graph: Graph) -> None:
        self._function, self._say, self._graph = function, say, graph
        self._calls = 0
        self._signature: Any = None
        self._inputs: tuple[Any, ...] = ()
        self._replay: Callable[[], None] | None = None
        self._output: Tensor | None = None
        self._given_up = False

    def __call__(self, *inputs: Any) -> Tensor:
        if self._given_up:
            return self._function(*inputs)
        signature = nests.change(inputs, lambda tensor: (tensor.shape, tensor.stride(), tensor.dtype))
        if self._replay is None and self._calls < WARM_UP:
            return self._warm_up(signature, inputs)
        if signature != self._signature:
            return self._function(*inputs)
        if self._replay is None and not self._record(inputs):
            return self._function(*inputs)
        assert self._replay is not None
        assert self._output is not None
        for static, given in zip(nests.tensors(self._inputs), nests.tensors(inputs), strict=True):
            static.copy_(given)
        self._replay()
        return self._output.clone()  # the next replay writes over it

    def _warm_up(self, signature: Any, inputs: tuple[Any, ...]) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            self._signature = signature
        if signature != self._signature:
            self._give_up("batches differ in shape")
            return self._function(*inputs)
        device = nests.tensors(inputs)[0].device
        with aside(device), waits(device) as found:
            output = self._function(*inputs)
        if found and self._calls == WARM_UP:  # the first calls may wait once, to build what they need
            self._give_up(f"the step waits for the device ({found[0]})")
        return output

    def _record(self, inputs: tuple[Any, ...]) -> bool:
        self._inputs = nests.change(inputs, Tensor.clone)
        try:
            self._replay, self._output = self._graph(lambda: self._function(*self._inputs))
        except RuntimeError as error:  # what can't be recorded, or has no room for a second set of activations
            self._give_up(f"recording failed ({str(error).splitlines()[0]})")
            return False
        self._say(f"graph      the step is one launch, recorded after {WARM_UP} steps")
        return True

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        self._inputs = ()
        self._say(f"graph      none: {reason}")


def cuda_graph(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Records a function without running it: what runs it, and where its output will then stand."""
    graph = torch.cuda.CUDAGraph()
    # Threads that pin memory for the next batches may go on meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function()
    return graph.replay, output


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Runs a block on another stream of a GPU, as steps before a recording must be; elsewhere just runs it."""
    if device.type != "cuda":
        yield
        return
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield
    main.wait_stream(side)


@contextmanager
def waits(device: torch.device) -> Iterator[list[str]]:
    """Notes the places, as "file:line", where a block makes the CPU wait for the GPU, which no recording may."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "synchronizing CUDA operation" in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}")
        elif "debug mode is a prototype" not in str(warning.message):  # which is said of the mode itself
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@contextmanager
def _rates_from(rates: list[Tensor], groups: list[dict[str, Any]]) -> Iterator[None]:
    """Lets optimisers read their learning rates from tensors: a graph would keep numbers as they are."""
    if not rates:
        yield
        return
    numbers = [group["lr"] for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    try:
        yield
    finally:
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number


def _hold_back_gradients(network: nn.Module, hold: bool) -> AbstractContextManager[None]:
    """Spares the exchange of gradients between processes until the last piece of a batch."""
    if hold and isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return nullcontext()
