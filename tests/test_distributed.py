"""N processes give the result of one, and only one of them writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from common.machine.distributed import SyncBatchNorm, synchronize_batch_norm
from tests.helpers import final_weights, mistake, only_run, ranks, result, same, torchrun, warm

ARGUMENTS = ["-m", "tests.toy", "--json", "--dropout", "0", "--epochs", "2"]


def test_n_processes_give_the_result_of_one(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, "--batch-size", "48"]  # batch norm, jitter and 120 test points over 3 processes
    one = result(warm(*arguments, "--out", tmp_path / "one"))
    many = result(ranks(3, *arguments, "--out", tmp_path / "many"))
    assert many["metrics"]["n"] == one["metrics"]["n"] == 120  # none counted twice
    assert many["metrics"]["accuracy"] == pytest.approx(one["metrics"]["accuracy"], abs=1e-9)
    left, right = final_weights(Path(one["run"])), final_weights(only_run(tmp_path / "many", "tests.toy"))
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=2e-4, atol=2e-5)
    first, second = ((Path(r["run"]) / "metrics.jsonl").read_text().splitlines() for r in (one, many))
    for a, b in zip(first, second, strict=True):  # the loss is the mean over all processes
        if "loss" in (expected := json.loads(a)):
            assert json.loads(b)["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_two_processes_resume_to_the_bit(tmp_path: Path) -> None:
    arguments = ["rl.dqn", "--tiny"]  # shared parts, such as the network, and each process's own, such as its memory
    whole = result(ranks(2, "-m", *arguments, "--json", "--out", tmp_path / "whole"))
    run = Path(whole["run"])
    weights = final_weights(run)
    # What a kill after the last checkpoint but one leaves behind, of every process.
    (run / "result.json").unlink()
    last = max((run / "checkpoints").glob("step-*.pt"), key=lambda p: int(p.stem.removeprefix("step-")))
    for file in (run / "checkpoints").rglob(last.name):
        file.unlink()
    again = ranks(2, "-m", *arguments, "--json", "--resume", run)
    assert result(again)["metrics"] == whole["metrics"]
    assert same(final_weights(run), weights)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    process = torchrun(2, "-m", "tests.toy", "--batch-size", "33", "--out", tmp_path)
    assert "error: --batch-size 33 cannot be shared equally among 2 processes." in process.stderr
    assert process.stderr.count("error: --batch-size") == 1
    assert process.returncode != 0


def test_more_processes_than_samples_are_refused(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / "photos" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(tmp_path / "photos" / str(number % 2) / f"{number}.png")
    process = ranks(7, "-m", "vision.train", "--data", f"folder:{tmp_path}/photos", "--out", tmp_path / "runs")
    assert mistake(process) == "error: 7 processes can't share 6 training samples.\nStart 6 or fewer."


def test_sync_batch_norm_keeps_names_and_evaluates_like_batch_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model(torch.randn(4, 3, 8, 8))
    model.eval()
    images = torch.randn(2, 3, 8, 8)
    expected, names = model(images), list(model.state_dict())
    synchronize_batch_norm(model)
    assert isinstance(model[1], SyncBatchNorm)
    assert list(model.state_dict()) == names
    assert torch.equal(model(images), expected)


AVERAGE = """
import torch
from PIL import Image
from torch import nn
from common.machine import distributed
distributed.start()
nets = nn.Linear(2, 2), nn.Linear(2, 1, bias=False)
for number, p in enumerate(p for net in nets for p in net.parameters()):
    p.grad = torch.full_like(p, 10.0 * number + distributed.rank())
nets[0].bias.grad = None
distributed.average_gradients(*nets)
values = [None if p.grad is None else p.grad.unique().tolist() for net in nets for p in net.parameters()]
assert values == [[0.5], None, [20.5]], values
distributed.stop()
"""


def test_gradients_of_several_networks_are_averaged(tmp_path: Path) -> None:
    script = tmp_path / "average.py"
    script.write_text(AVERAGE)
    process = ranks(2, str(script))
    assert process.returncode == 0, process.stderr
