"""Device, number format, memory layout, threads and seed, each with the reason for the choice."""

from __future__ import annotations

import ctypes
import os
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.machine import nests

# Below this share of multiply-adds in dense convolutions bf16 gains nothing or loses on a CPU, and below
# this much work per image the casts cost more than they save; docs/precision.md has the measurements.
DENSE_CONVOLUTION_SHARE = 0.8
MULTIPLY_ADDS_PER_IMAGE = 1e6
# Below this much work per sample a second thread gains nothing, and on a busy machine waiting for it costs much.
MULTIPLY_ADDS_PER_THREAD = 4e6
# One step of deep Q-learning launches about 200 kernels, and each takes the CPU about 5 µs: 1 ms on any GPU.
STEP_ON_A_GPU = 200 * 5e-6
# Of one core in the matrix products of small networks: 31 to 36e9 were measured for [128, 64..256] by [64..256]².
MULTIPLY_ADDS_PER_SECOND = 3e10


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """How one model is computed. It is saved with the run, so that a resumed or repeated run does the same.

    Attributes:
        precision: "fp32", "bf16" or "fp16".
        channels_last: whether images and convolution weights lie in memory as [B, H, W, C].
        threads: of the CPU; another number would sum in another order and end with other bits.
        why: the reason, for the log.
    """

    precision: str
    channels_last: bool
    why: str
    threads: int = 1

    @classmethod
    def from_json(cls, saved: Any, where: Path) -> Plan:
        """The reverse of `vars`, as the file `where` has it; UserError for anything else."""
        try:
            plan = cls(**saved)
            known = plan.precision in PRECISIONS and type(plan.channels_last) is bool and type(plan.threads) is int
            if not (known and 1 <= plan.threads <= 4096):
                raise TypeError
        except TypeError:
            raise UserError(f'{where}: "plan" is {str(saved)[:100]}, which is none.', "Start another run.") from None
        return plan

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which forward passes run."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(device.type, dtype=dtype, enabled=self.precision != "fp32")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def pick_device(request: str, local_rank: int = 0) -> tuple[torch.device, str]:
    """The device to compute on and the reason for it.

    Args:
        request: "auto", "cpu", "cuda", "cuda:N" or "mps".
        local_rank: which of this machine's processes this is; each takes its own GPU.

    Raises:
        UserError: what was asked for is not there.
    """
    kind = request.split(":")[0]
    if kind == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank % torch.cuda.device_count()), "a CUDA GPU is there"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "an Apple GPU is there"
        return torch.device("cpu"), "no GPU was found"
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda: PyTorch finds no CUDA GPU here.", "Use --device cpu, or --device auto.")
        index = request.partition(":")[2] or str(local_rank % torch.cuda.device_count())
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise UserError(f"--device {request}: there are {torch.cuda.device_count()} GPUs, counted from 0.")
        return torch.device("cuda", int(index)), "asked for"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: there is no Apple GPU here.", "Use --device cpu, or --device auto.")
    return torch.device(kind), "asked for"


def begun_on(saved: str, local_rank: int = 0) -> tuple[torch.device, str] | None:
    """The device of the kind that a run began on, which a resumed run needs for the same bits; None where it is gone.

    Args:
        saved: as the run noted it, such as "cuda:0".
    """
    kind = saved.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return (pick_device(kind, local_rank)[0], "as this run began") if there.get(kind) else None


def why_cpu(model: nn.Module, sample: Tensor, batch: int) -> str:
    """Why a network whose data come from the CPU at each step is trained faster there than on a GPU; "" if it is not.

    Forward and backward pass are three times the multiply-adds of the forward pass.

    Args:
        model: on the CPU; it is run once.
        sample: one input, [1, ...].
        batch: samples per step.
    """
    _, work = _convolution_work(model, sample)
    if 3 * work * batch / MULTIPLY_ADDS_PER_SECOND > STEP_ON_A_GPU:
        return ""
    weights = sum(p.numel() for p in model.parameters())
    return (
        f"a network of {weights:,} weights fed from the CPU: launching its kernels on the GPU takes longer than "
        "computing it here; --device cuda insists"
    )


def describe(device: torch.device) -> str:
    """The device in words, such as "AMD EPYC, 2 threads" or "NVIDIA H200"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def of(model: nn.Module) -> torch.device:
    """Where the weights of a model are; the CPU for an export, which has none."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def plan(model: nn.Module, sample: Any, device: torch.device, precision: str = "auto") -> Plan:
    """Chooses number format and memory layout for a model, by rule or as asked.

    The rule for "auto": on a GPU with bf16 units, bf16. On a CPU with bf16 instructions, bf16 where at least
    DENSE_CONVOLUTION_SHARE of the multiply-adds are dense convolutions, none is a depthwise one, and an image takes
    at least MULTIPLY_ADDS_PER_IMAGE; fp32 elsewhere. Networks with convolutions get channels_last.

    Args:
        model: on any device; it is run once on `sample` to count its work.
        sample: one input batch of size 1, such as [1, C, H, W], or a nest of such tensors.
    """
    share, work = _convolution_work(model, sample)
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    pictures = any(part.dim() == 4 for part in nests.tensors(sample))
    channels_last = pictures and convolutional and device.type != "mps"
    threads = 1 if device.type == "cpu" and work < MULTIPLY_ADDS_PER_THREAD else torch.get_num_threads()
    if precision == "auto":
        precision, why = _choose_precision(device, share, work)
    else:
        why = "asked for"
        if precision == "fp16" and device.type == "cpu":
            raise UserError("--precision fp16 needs a GPU.", "On a CPU use --precision bf16, fp32 or auto.")
    return Plan(precision, channels_last, why, threads)


def _choose_precision(device: torch.device, share: float, work: float) -> tuple[str, str]:
    """The number format that pays, and why; see `plan`."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU has bf16 units"
        return "fp32", "the GPU has no bf16 units"
    if device.type != "cpu":
        return "fp32", "bf16 is not proven on this device"
    if not cpu_has_bf16():
        return "fp32", "this CPU has no bf16 instructions"
    if share < DENSE_CONVOLUTION_SHARE:
        return "fp32", "depthwise convolutions, attention and small matrix products do not gain from bf16 on a CPU"
    if work < MULTIPLY_ADDS_PER_IMAGE:
        return "fp32", "too little work per image for bf16 to pay"
    return "bf16", f"{share:.0%} of the work is dense convolution, and the CPU has bf16 instructions"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively (AMX or AVX512-BF16; Arm's bf16 is not proven here)."""
    with open(os.devnull) if not sys.platform.startswith("linux") else open("/proc/cpuinfo") as file:  # noqa: PTH123
        flags = file.read()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _convolution_work(model: nn.Module, sample: Any) -> tuple[float, float]:
    """The share of multiply-adds that are dense convolutions, and all multiply-adds, for one sample.

    The share is 0 where a network has depthwise convolutions: their few multiply-adds take most of its time, and
    they are slower in bf16 (docs/precision.md).
    """
    work = {"dense": 0.0, "depthwise": 0.0, "other": 0.0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            kernel = module.weight[0].numel()  # C / groups × height × width
            # Fewer than 8 channels a group is depthwise in all but name; a first layer on pixels is neither.
            narrow = module.in_channels // module.groups < 8
            kind = "depthwise" if narrow and module.groups > 1 else "other" if narrow else "dense"
            work[kind] += output[0].numel() * kernel
        elif isinstance(module, nn.Linear):
            work["other"] += output[0].numel() * module.in_features

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    training = model.training
    try:
        with torch.no_grad(), isolated_rng(0, nests.tensors(sample)[0].device):
            model.eval()(sample)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    total = sum(work.values())
    share = work["dense"] / total if total and not work["depthwise"] else 0.0
    return share, total


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Runs a block with its own seed and leaves the global random state as it was."""
    devices = [device.index or 0] if device.type in ("cuda", "mps") else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        yield


def mix_seed(*parts: int | str) -> int:
    """One seed from several numbers, well spread: neighbours give unrelated random streams."""
    return random.Random("-".join(map(str, parts))).getrandbits(32)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch, and asks for deterministic kernels."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; needed for fixed sums
    # The same as use_deterministic_algorithms(True, warn_only=True), which also imports the compiler: 0.8 s.
    torch.set_deterministic_debug_mode("warn")
    # A debugging aid of deterministic mode that would write every new tensor twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


# What PyTorch says in its deterministic "warn" mode, after the name of an operator.
_NOT_DETERMINISTIC = re.compile(
    r"(.+?) (?:does not have a deterministic implementation|defaults to a non-deterministic algorithm)"
)


@contextmanager
def nondeterminism(note: Callable[[str], None]) -> Iterator[None]:
    """Calls `note` with the name of an operator that sums in no fixed order, in place of PyTorch's warning about it."""
    always = torch.is_warn_always_enabled()
    with warnings.catch_warnings():  # also makes what was said before in this process count anew
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *place: Any, **rest: Any) -> None:
            found = _NOT_DETERMINISTIC.match(str(message))
            if found:
                note(found[1])
            else:
                show(message, category, *place, **rest)

        warnings.showwarning = shown
        torch.set_warn_always(True)  # of attention PyTorch would tell only the first run of a process
        try:
            yield
        finally:
            torch.set_warn_always(always)


def rng_state(device: torch.device) -> dict[str, object]:
    """Every random state of this process, in types that load without unpickling."""
    state: dict[str, object] = {
        "python": [list(random.getstate()[1]), random.getstate()[2]],
        "torch": torch.get_rng_state(),
    }
    if "numpy" in sys.modules:
        name, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
        state["numpy"] = [name, keys.tolist(), int(position), int(has_gauss), float(gauss)]
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, object], device: torch.device) -> None:
    """Restores what `rng_state` took."""
    words, gauss = cast("list[Any]", state["python"])
    random.setstate((3, tuple(words), gauss))
    torch.set_rng_state(state["torch"])  # type: ignore[arg-type]
    if "numpy" in state:
        import numpy as np

        name, keys, *rest = cast("list[Any]", state["numpy"])
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)  # type: ignore[arg-type]
    if "mps" in state and device.type == "mps":
        torch.mps.set_rng_state(state["mps"])  # type: ignore[arg-type]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(processes: int = 1) -> int:
    """Shares this machine's cores among its processes; returns the threads of this one.

    OMP_NUM_THREADS is the user's word for one process. torchrun sets it to 1 unasked, so there it says nothing.
    """
    if processes == 1 and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        torch.set_num_threads(max(1, int(os.environ["OMP_NUM_THREADS"])))
        return torch.get_num_threads()
    threads = max(1, cores() // processes)
    torch.set_num_threads(threads)
    return threads


def leave_for_cpu(values: Tensor) -> Callable[[], Tensor]:
    """Starts to copy values to the CPU; what is returned waits until they are there, but not for later work."""
    if values.device.type != "cuda":
        return values.cpu
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return there

    return wait


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it to the system after every step.

    Activations are freed and asked for again each step; by default every round costs thousands of page
    faults. Measured here: 1.1–1.3 × the images per second on small convolutional networks.
    """
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
            libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its allowed maximum


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held, in megabytes: the GPU's where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def available_memory() -> int:
    """Bytes that can still be used, by the kernel's count and, in a container, by its limit; 8 GiB where unknown."""
    free = 8 * 2**30
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        group = Path("/sys/fs/cgroup")
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["file"])  # cached files give way
        free = min(free, int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):  # not Linux, or no limit ("max")
        pass
    return max(free, 0)
