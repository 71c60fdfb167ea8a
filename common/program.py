"""What an export says of itself, and a network that computes by it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import trust
from common.errors import UserError
from common.files import inside
from common.machine import nests

Program = Callable[..., Any]  # nests of tensors in, a nest of tensors out


@dataclass(frozen=True)
class Export:
    """The entry "export" in the `model.json` of an artifact that holds an exported file in the place of weights.

    Attributes:
        format: one of FORMATS.
        quantize: "none", "bf16", "int8-weight" or "int8".
        batch: how many samples the program takes at once; None for any number.
        file: that holds the program.
        shapes: of the weights it was made from, by name.
        outputs: of the program, as `nests.outline` describes them; 0 for a tensor.
    """

    format: str
    quantize: str
    batch: int | None
    file: str
    shapes: dict[str, list[int]]
    outputs: Any = 0

    def put_into(self, model: nn.Module, folder: Path) -> nn.Module:
        """The model, its own layers taken out, with the exported program as its `forward`.

        Whoever looks for a layer, to see where the model looked, finds none, rather than one that was never trained.

        Raises:
            UserError: the file is missing or damaged, or what runs it is not installed.
        """
        program = self.load(folder)

        def forward(*inputs: Any) -> Any:
            return in_batches(program, [x for x in inputs if x is not None], self.batch)

        for parts in (model._modules, model._parameters):
            parts.clear()
        model.forward = forward
        return model.eval()

    def load(self, folder: Path) -> Program:
        """The program.

        Raises:
            UserError: as of `put_into`, or it can run code and is not trusted.
        """
        path = self.path(folder)
        self.check_trust(folder)
        try:
            with quietly():
                program = FORMATS[self.format].load(path)
            if not FORMATS[self.format].flat:
                return program
            return lambda *inputs: nests.filled(self.outputs, program(*nests.tensors(inputs)))
        except ImportError as error:
            extra = "executorch" if self.format == "executorch" else "export"
            raise UserError(f"{path} needs a package: {error}.", f"pip install -e '.[{extra}]'") from error
        except Exception as error:  # each format has errors of its own for a damaged file
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"Can't load {path}: {reason}", "Export the model again.") from error

    def path(self, folder: Path) -> Path:
        """The file of the program; UserError where the format is unknown, or no such file is in the folder."""
        if self.format not in FORMATS:
            raise UserError(f"{folder}/model.json names an unknown format, {self.format!r}.")
        path = inside(folder, self.file)
        if not path.is_file():
            raise UserError(f"Can't read {path}: there is no such file.", "Export the model again.")
        return path

    def check_trust(self, folder: Path) -> str:
        """The digest of a program that can run code and is trusted; "" for one that is data.

        Raises:
            UserError: it can run code, and `trust.check` refuses it.
        """
        path = self.path(folder)
        return trust.check(path) if FORMATS[self.format].runs_code else ""


def in_batches(program: Program, inputs: list[Any], batch: int | None) -> Any:
    """A program's outputs for any number of samples, even if it takes only `batch` of them at once."""
    if batch is None:
        return program(*inputs)
    count = nests.size(inputs[0])
    short = -count % batch
    given = tuple(inputs)
    if short:
        given = nests.change(given, lambda x: torch.cat([x, x[-1:].expand(short, *x.shape[1:])]))
    starts = range(0, count + short, batch)
    parts = [nests.change(nests.cut(given, start, start + batch), Tensor.contiguous) for start in starts]
    return nests.cut(nests.join([program(*part) for part in parts]), 0, count)


@contextmanager
def quietly() -> Iterator[None]:
    """Runs a block without the warnings and the log of the libraries in it."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _torch_export(path: Path) -> Program:
    from torch.ao.quantization.fx import _decomposed  # noqa: F401, RUF100  registers the operators of int8 programs

    return torch.export.load(path).module()


def _onnx(path: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    # Threads that wait spinning take the cores from those that decode: a server with one client was half as fast.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return run


def _aoti(path: Path) -> Program:
    from torch._inductor import aoti_load_package

    program: Any = aoti_load_package(str(path))
    return lambda *inputs: program(*nests.change(inputs, Tensor.contiguous))


def _executorch(path: Path) -> Program:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda *inputs: [x.clone() for x in method.execute([x.contiguous() for x in inputs])]


class Format(NamedTuple):
    """How the file of a format becomes a program.

    Args:
        runs_code: whether a file of that format can run code of its maker's.
        flat: whether its program takes and gives lists of tensors, and knows nothing of nests.
    """

    load: Callable[[Path], Program]
    runs_code: bool
    flat: bool = False


FORMATS = {
    "torch-export": Format(_torch_export, runs_code=True),  # holds pickles and Python objects
    "onnx": Format(_onnx, runs_code=False, flat=True),  # a graph of known operators
    "aoti": Format(_aoti, runs_code=True),  # a shared library
    "executorch": Format(_executorch, runs_code=False, flat=True),  # a graph of known operators
}
