"""The recorded training step. A tape of operators stands in for a CUDA graph: it keeps tensors and forgets Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.command.arguments import Options
from common.command.execute import execute
from common.example import get
from common.training import step
from common.training.step import WARM_UP, Recorded, Step
from tests import toy
from tests.helpers import final_weights, same
from tests.tape import tape


def refused(function: Callable[[], Tensor]) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.fixture
def recorded_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Lets every `Step` record by the function that is given, as if the CPU were a GPU."""
    original = Step.__init__

    def use(graph: Any) -> None:
        def init(self: Step, *args: Any, **options: Any) -> None:
            original(self, *args, **options)
            self._prepare_graph(graph)

        monkeypatch.setattr(Step, "__init__", init)

    return use


def trained(example: Any, out: Path, **values: Any) -> dict[str, Tensor]:
    options = Options(tiny=True, quiet=True, out=str(out))
    return final_weights(Path(execute(example, options, values)["run"]))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"schedule": "cosine", "ema": 0.9, "clip": 0.1},
        {"accumulate": 2, "schedule": "constant", "dropout": 0.0},
    ],
    ids=["plain", "ema-clip", "accumulate"],
)
def test_replayed_steps_give_the_bits_of_eager_ones(
    recorded_by: Callable[[Any], None], tmp_path: Path, values: dict[str, Any]
) -> None:
    """Rates that were kept as numbers, counts in Python or a mask drawn only once would show here."""
    recorded_by(tape)
    replayed = trained(toy.example, tmp_path / "tape", **values)
    recorded_by(refused)
    assert same(replayed, trained(toy.example, tmp_path / "eager", **values))


def test_mixup_smoothing_and_batch_norm_in_a_recorded_step(recorded_by: Callable[[Any], None], tmp_path: Path) -> None:
    values = {"mixup": 0.4, "label_smoothing": 0.1, "ema": 0.9, "model": "resnet", "optimizer": "sgd"}
    recorded_by(tape)
    replayed = trained(get("vision.train"), tmp_path / "tape", **values)
    recorded_by(refused)
    assert same(replayed, trained(get("vision.train"), tmp_path / "eager", **values))


def test_muon_and_dropout_in_a_recorded_step(recorded_by: Callable[[Any], None], tmp_path: Path) -> None:
    values = {"dropout": 0.1, "weight_decay": 0.1, "steps": 10, "epochs": 2, "schedule": "cosine"}
    recorded_by(tape)
    replayed = trained(get("nlp.gpt"), tmp_path / "tape", **values)
    recorded_by(refused)
    assert same(replayed, trained(get("nlp.gpt"), tmp_path / "eager", **values))


def test_a_function_is_recorded_once_and_replayed_from_then_on() -> None:
    calls: list[int] = []
    total = torch.zeros(())

    def add(x: Tensor) -> Tensor:
        calls.append(1)
        total.add_(x.sum())
        return total * 2

    said: list[str] = []
    recorded = Recorded(add, said.append, tape)
    for number in range(1, 9):
        assert recorded(torch.full((2,), 1.0)).item() == 4 * number
    assert len(calls) == WARM_UP + 1
    assert said == [f"graph      the step is one launch, recorded after {WARM_UP} steps"]


def test_a_batch_of_another_shape_runs_as_it_is() -> None:
    calls: list[int] = []

    def first(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.sum()

    recorded = Recorded(first, lambda text: None, tape)
    for _ in range(WARM_UP + 2):
        recorded(torch.ones(4))
    assert recorded(torch.ones(3)).item() == 3
    assert recorded(torch.ones(4)).item() == 4
    assert calls == [4] * (WARM_UP + 1) + [3]


@pytest.mark.parametrize(("lengths", "reason"), [((4, 3), "differ in shape"), ((4, 4), "recording failed")])
def test_what_cant_be_recorded_runs_on_and_says_why_once(lengths: tuple[int, ...], reason: str) -> None:
    said: list[str] = []
    recorded = Recorded(lambda x: x.sum(), said.append, refused)
    for number in range(10):
        length = lengths[number % 2]
        assert recorded(torch.ones(length)).item() == length
    (line,) = said
    assert reason in line
    assert "\n" not in line


def test_what_waits_for_the_device_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found(list[str]):
        def __enter__(self) -> list[str]:
            return self

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(step, "waits", lambda device: Found(["net.py:7"]))
    said: list[str] = []
    recorded = Recorded(lambda x: x.sum(), said.append, tape)
    for _ in range(5):
        recorded(torch.ones(2))
    assert said == ["graph      none: the step waits for the device (net.py:7)"]


def test_a_compiled_step_that_goes_wrong_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The compiler is replaced by one whose backward pass gives NaN, as one was seen to do in bf16."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * float("nan")

    eager = False

    def compile(self: nn.Module) -> None:
        def call(*args: Any) -> Any:
            output = self._call_impl(*args)
            return output if eager else Broken.apply(output)

        self._compiled_call_impl = call

    @contextmanager
    def stance(name: str) -> Iterator[None]:
        nonlocal eager
        assert name == "force_eager"
        eager = True
        yield
        eager = False

    monkeypatch.setattr(nn.Module, "compile", compile)
    monkeypatch.setattr(torch.compiler, "set_stance", stance)
    options = Options(tiny=True, out=str(tmp_path / "compiled"))
    compiled = final_weights(Path(execute(toy.example, options, {"compile": True, "dropout": 0.0})["run"]))
    assert "compile    taken back: its step moves the weights by nan" in capsys.readouterr().err
    assert same(compiled, trained(toy.example, tmp_path / "eager", dropout=0.0))
