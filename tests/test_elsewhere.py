"""Device mistakes show without a GPU: every example on a stand-in for one, and proof that the stand-in is strict."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common import artifact, example
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import Interrupted
from common.machine import device
from common.training.run import Run
from common.training.tracking import Window
from tests.elsewhere import Elsewhere, Generator, stand_in
from tests.helpers import only_run
from tests.test_golden import close, first_losses

THERE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that it finds no GPU
        yield


@pytest.fixture
def checkpoints_within_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints fall where the clock would put them: between two log lines."""
    monkeypatch.setattr(Run, "_due", lambda self: self.step % 10 == 5)


def short(declared: example.Example) -> dict[str, Any]:
    """The mock, shorter still: the stand-in is slow."""
    tiny = declared.config.tiny().resolve().to_dict()
    values: dict[str, Any] = {"precision": "fp32", "cuda_graph": False, "device": "cuda"}  # auto may prefer the CPU
    if tiny.get("epochs"):
        values["epochs"] = 2
    if tiny.get("steps"):
        values["steps"] = tiny["steps"] // 4
    return values


def run(declared: example.Example, out: Path, resume: str | None = None, **values: Any) -> Path:
    options = Options(tiny=True, quiet=True, out=str(out), resume=resume)
    return Path(execute(declared, options, short(declared) | values)["run"])


@pytest.mark.matrix
@pytest.mark.parametrize("name", example.names())
@pytest.mark.usefixtures("checkpoints_within_windows")
def test_an_example_trains_resumes_and_is_used_as_on_the_cpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = example.get(name)
    after_step = Run._after_step

    def stop(self: Run, last: bool) -> None:
        after_step(self, last)
        if self.step == 7:
            raise Interrupted(15)

    with stand_in():
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Run, "_after_step", stop)
            run(declared, tmp_path / "there")
        there = run(declared, tmp_path / "there", resume=str(only_run(tmp_path / "there", name)))
    here = run(declared, tmp_path / "here", device="cpu")
    # Operators meet other strides there, so that sums are rounded otherwise, and training makes rounding grow.
    assert close(first_losses(there)[0], first_losses(here)[0], 0.5), (first_losses(there), first_losses(here))
    # What was trained there is used here.
    saved = artifact.load(there)
    predictor = declared.load(saved)
    assert predictor.predict([predictor.input.decode(predictor.input.sample())])
    config = declared.config().with_values(saved.config)
    measured = declared.evaluate(saved, dataclasses.replace(config, device="cpu")).values
    assert measured == pytest.approx(saved.metrics, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["generative.gan", "rl.dqn"])
def test_what_needs_float64_is_computed_where_there_is_some(name: str, tmp_path: Path) -> None:
    """Apple's GPUs have none; generated pictures are judged in it, and priorities of a replay are summed."""
    values: dict[str, Any] = {"prioritized": True} if name == "rl.dqn" else {}
    with stand_in("mps"):
        run(example.get(name), tmp_path, device="mps", **values)


def there(*values: float) -> Tensor:
    return torch.tensor(values, device=THERE)


MISTAKES: dict[str, Callable[[], Any]] = {
    "numpy": lambda: there(1.0, 2.0).numpy(),
    "numpy by NumPy": lambda: np.asarray(there(1.0)),
    "a tensor made here": lambda: there(1.0, 2.0) + torch.tensor([1.0, 2.0]),
    "zeros made here": lambda: there(1.0, 2.0) * torch.zeros(2),
    "a number joined": lambda: torch.stack([there(1.0)[0], torch.tensor(1.0)]),
    "parts joined": lambda: torch.cat([there(1.0), torch.ones(1)]),
    "from NumPy": lambda: there(1.0, 2.0) @ torch.from_numpy(np.ones(2, np.float32)),
    "indices of there into what is here": lambda: torch.arange(3)[torch.tensor([0], device=THERE)],
    "a generator of here": lambda: torch.randn(3, generator=torch.Generator(), device=THERE),
    "a generator of here, in place": lambda: there(1.0, 2.0).normal_(generator=torch.Generator()),
    "a generator of there": lambda: torch.randn(3, generator=torch.Generator(device=THERE)),
    "weights left behind": lambda: nn.Linear(2, 1)(there(1.0, 2.0)[None]),
    "input left behind": lambda: nn.Linear(2, 1).to(THERE)(torch.ones(1, 2)),
    "labels left behind": lambda: nn.functional.cross_entropy(torch.ones(1, 2, device=THERE), torch.tensor([0])),
    "an embedding's numbers left behind": lambda: nn.Embedding(3, 2).to(THERE)(torch.tensor([1])),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught(name: str) -> None:
    with stand_in(), pytest.raises((RuntimeError, TypeError), match="device"):
        MISTAKES[name]()


def test_what_a_gpu_allows_goes() -> None:
    with stand_in():
        x = there(1.0, 2.0, 3.0)
        assert isinstance(x, Elsewhere)
        assert (x * torch.tensor(2.0)).tolist() == [2, 4, 6]
        assert x[torch.tensor([0, 2])].cpu().numpy().tolist() == [1, 3]
        assert torch.randn(2, generator=torch.Generator(device=THERE), device=THERE).device == THERE
        assert float(x.sum()) == 6
        x.copy_(torch.zeros(3))
        assert x.to("cpu").tolist() == [0, 0, 0]
        linear = nn.Linear(3, 1).to(THERE)
        linear(x[None]).sum().backward()
        assert isinstance(linear.weight.grad, Elsewhere)
    assert not isinstance(torch.Generator(), Generator)


def test_the_stand_in_for_an_apple_gpu_has_no_float64() -> None:
    with stand_in("mps"):
        assert torch.zeros(1, device="mps").device.type == "mps"
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(1, device="mps", dtype=torch.float64)


def test_a_window_that_was_fetched_in_the_middle_goes_on() -> None:
    with stand_in():
        window = Window()
        window.add({"loss": there(1.0)[0], "lr": 0.5})
        assert window.fetch() == {"loss": [1.0], "lr": [0.5]}
        window.add({"loss": there(2.0)[0], "lr": 0.25})
        assert window.fetch() == {"loss": [1.0, 2.0], "lr": [0.5, 0.25]}


def test_random_numbers_there_leave_the_global_state_as_it_was() -> None:
    with stand_in():
        before = torch.get_rng_state()
        with device.isolated_rng(3, THERE):
            torch.rand(2, device=THERE)
        assert torch.equal(torch.get_rng_state(), before)
