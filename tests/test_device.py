"""Where and how to compute: the device, the number format, and random states that can be put back."""

from __future__ import annotations

import random
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.config import Config
from common.errors import UserError
from common.files import write_json
from common.machine import device
from common.training.run import Run
from tests.helpers import same
from vision import models

CPU = torch.device("cpu")
CONVOLUTIONS = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
PHOTO = torch.zeros(1, 16, 28, 28)


def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_without_a_gpu_auto_is_the_cpu_and_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpus(monkeypatch)
    assert device.pick_device("auto") == (CPU, "no GPU was found")
    assert device.pick_device("cpu")[0] == CPU
    for request in ("cuda", "cuda:1", "mps"):
        with pytest.raises(UserError, match=f"--device {request.partition(':')[0]}: .*here") as error:
            device.pick_device(request)
        assert error.value.hint == "Use --device cpu, or --device auto."


def test_each_process_takes_its_own_gpu_and_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    assert [device.pick_device("auto", rank)[0].index for rank in range(3)] == [0, 1, 0]
    assert [device.pick_device("cuda", rank)[0].index for rank in range(3)] == [0, 1, 0]
    assert device.pick_device("cuda:1", 0)[0] == torch.device("cuda", 1)
    for request in ("cuda:2", "cuda:first", "cuda:-1"):
        with pytest.raises(UserError, match=f"--device {request}: there are 2 GPUs"):
            device.pick_device(request)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_dense_convolutions_take_bf16_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: has_bf16)
    plan = device.plan(CONVOLUTIONS, PHOTO, CPU)
    assert (plan.precision, plan.channels_last) == (expected, True)
    assert "bf16" in plan.why


@pytest.mark.parametrize(
    ("model", "sample", "why"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12544, 512)), PHOTO, "do not gain from bf16"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)), PHOTO[:, :1], "do not gain from bf16"),
        (nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3, groups=16)), PHOTO, "do not gain from bf16"),
        (nn.Conv2d(16, 4, 3), PHOTO, "too little work per image"),
    ],
    ids=["mlp", "few channels", "depthwise", "small"],
)
def test_what_gains_nothing_stays_in_fp32(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, sample: torch.Tensor, why: str
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: True)
    plan = device.plan(model, sample, CPU)
    assert plan.precision == "fp32"
    assert why in plan.why


def test_a_vision_transformer_stays_in_fp32_and_a_vgg_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: True)
    image = torch.zeros(1, 3, 32, 32)
    chosen = [
        device.plan(models.build(name, "small", classes=10, channels=3, image_size=32), image, CPU).precision
        for name in ("vit", "vgg")
    ]
    assert chosen == ["fp32", "bf16"]


def test_a_request_wins_over_the_rule_except_fp16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: True)
    assert device.plan(CONVOLUTIONS, PHOTO, CPU, "fp32").precision == "fp32"
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: False)
    plan = device.plan(CONVOLUTIONS, PHOTO, CPU, "bf16")
    assert plan.precision == "bf16"
    with plan.autocast(CPU):
        assert CONVOLUTIONS(PHOTO).dtype == torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        device.plan(CONVOLUTIONS, PHOTO, CPU, "fp16")


def test_planning_changes_neither_the_model_nor_the_random_state() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Dropout()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    device.plan(model, PHOTO + 1, CPU)
    assert same(dict(model.state_dict()), before)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def draw() -> list[float]:
    """Some values of every generator; `gauss` keeps its second value, so that an odd count leaves one behind."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.normal()),
        float(np.random.rand()),
        *torch.randn(3).tolist(),
        torch.rand(()).item(),
    ]


def test_random_states_return_whole(tmp_path: Path) -> None:
    device.seed_everything(3)
    draw()
    file = tmp_path / "state.pt"
    torch.save(device.rng_state(CPU), file)
    expected = [draw(), draw()]
    device.seed_everything(4)
    draw()
    device.set_rng_state(torch.load(file, weights_only=True), CPU)  # as a checkpoint is read
    assert [draw(), draw()] == expected


def test_a_seed_repeats_everything_and_another_does_not() -> None:
    drawn = []
    for seed in (1, 1, 2):
        device.seed_everything(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


def test_isolated_rng_repeats_itself_and_leaves_the_global_state() -> None:
    state = torch.get_rng_state()
    inside = []
    for seed in (5, 5, 6):
        with device.isolated_rng(seed, CPU):
            inside.append(torch.randn(4))
    assert torch.equal(inside[0], inside[1])
    assert not torch.equal(inside[0], inside[2])
    with pytest.raises(KeyError), device.isolated_rng(7, CPU):
        torch.randn(4)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_seeds_are_spread_and_depend_on_every_part_and_their_order() -> None:
    seeds = [device.mix_seed(seed, epoch) for seed in range(50) for epoch in range(50)]
    assert len(set(seeds)) == 2500
    assert device.mix_seed(1, 23) != device.mix_seed(12, 3)
    assert device.mix_seed(0, "rank", 1) != device.mix_seed(0, "shuffle", 1)
    assert device.mix_seed(0, 1) == device.mix_seed(0, 1)
    ones = sum(bin(seed).count("1") for seed in seeds) / (32 * len(seeds))
    assert 0.48 < ones < 0.52
    assert 0 <= min(seeds) < 2**27
    assert 2**32 - 2**27 < max(seeds) < 2**32


# --- auto, and what is trained from the CPU ----------------------------------------------------------------


def agent(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise((4, *widths, 2))))


PONG = nn.Sequential(
    nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1), nn.Flatten(), nn.Linear(3136, 512)
)


def test_a_small_network_fed_from_the_cpu_belongs_there_and_convolutions_do_not() -> None:
    why = device.why_cpu(agent(128, 128), torch.zeros(1, 4), 128)
    assert why.startswith("a network of 17,410 weights fed from the CPU: launching its kernels on the GPU takes longer")
    assert not device.why_cpu(PONG, torch.zeros(1, 4, 84, 84), 32)
    assert not device.why_cpu(agent(512, 512), torch.zeros(1, 4), 128)


def run_of(folder: Path, asked: str, *, resume: bool = False) -> Run:
    return Run(folder, "test", Config(device=asked), resume=resume)


def test_auto_leaves_the_gpu_to_networks_that_gain_by_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_gpus(monkeypatch)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    sample = torch.zeros(1, 4)

    run = run_of(tmp_path / "new", "auto")
    run.prefer_cpu(agent(128, 128), sample, 128)
    run.place(agent(128, 128), sample)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("device")]
    assert run.device == CPU
    assert len(said) == 1
    assert "threads (a network of 17,410 weights fed from the CPU" in said[0]

    for asked, network, shape in (("cuda", agent(128, 128), sample), ("auto", PONG, torch.zeros(1, 4, 84, 84))):
        run = run_of(tmp_path / "new", asked)
        run.prefer_cpu(network, shape, 32)
        assert run.device == torch.device("cuda", 0)


def test_a_resumed_run_stays_on_the_kind_of_device_it_began_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    begun = {}
    for saved in ("cpu", "cuda:1"):
        folder = tmp_path / saved
        folder.mkdir()
        write_json(folder / "config.json", {"device": saved})
        begun[saved] = folder
    two_gpus(monkeypatch)
    for saved, kind in (("cpu", "cpu"), ("cuda:1", "cuda")):
        run = run_of(begun[saved], "auto", resume=True)
        run.prefer_cpu(agent(128, 128), torch.zeros(1, 4), 128)
        assert (run.device.type, run.device_why) == (kind, "as this run began")
    assert run_of(begun["cpu"], "cuda", resume=True).device.type == "cuda"
    without_gpus(monkeypatch)
    assert run_of(begun["cuda:1"], "auto", resume=True).device == CPU


# --- operators without a fixed order -----------------------------------------------------------------------

WARNING = "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set 'torch....'"
ATTENTION = "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly enable determinism"


def test_operators_without_a_fixed_order_are_noted_in_every_run_and_other_warnings_shown(
    recwarn: pytest.WarningsRecorder,
) -> None:
    for _ in range(2):
        noted: list[str] = []
        with device.nondeterminism(noted.append):
            for text in (WARNING, ATTENTION, "something else"):
                warnings.warn(text, UserWarning, stacklevel=1)
        assert noted == ["adaptive_avg_pool2d_backward_cuda", "Memory Efficient attention"]
    assert {str(w.message) for w in recwarn} == {"something else"}


def test_what_pytorch_itself_warns_of_is_noted() -> None:
    device.seed_everything(0)
    values, places = torch.nn.functional.max_pool2d(torch.randn(1, 1, 4, 4), 2, return_indices=True)
    noted: list[str] = []
    with device.nondeterminism(noted.append):
        for _ in range(3):
            torch.nn.functional.max_unpool2d(values, places, [2, 2])
    assert set(noted) == {"max_unpooling2d_forward_out"}  # has no deterministic kernel on any device
