"""Weights in 8 and 4 bits: close to what they stand for, and a language model writes on with them."""

from __future__ import annotations

import copy
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common import artifact, example
from common.errors import UserError
from common.machine import packed
from common.serve.models import load_models
from tests.test_golden import FOLDER

# Share of the output's norm: half a step of 256 and of 16 over the range of normal weights.
CLOSE = {"int8": 0.01, "int4": 0.1}


def off(left: Tensor, right: Tensor) -> float:
    return float((left - right).detach().norm() / right.detach().norm())


@pytest.mark.parametrize("form", packed.FORMS)
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 48, True), (96, 32, False), (576, 192, True)])
def test_a_packed_layer_is_close_to_the_layer(form: str, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    small = copy.deepcopy(plain)
    packed.pack(small, form)
    x = torch.randn(2, 5, inputs)
    assert small(x).shape == plain(x).shape
    assert small(x).dtype == torch.float32
    assert 0 < off(small(x), plain(x)) < CLOSE[form]
    kept = small.state_dict()["0.packed"]
    assert kept.nbytes == inputs * outputs // (2 if form == "int4" else 1)


def test_rows_far_from_zero_keep_their_differences() -> None:
    """In 4 bits a zero for each group: without it, weights of 10 to 10.1 would all be one number."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 16, bias=False)
    nn.init.uniform_(layer.weight, 0.9, 1.0)
    plain = nn.Sequential(layer)
    small = copy.deepcopy(plain)
    packed.pack(small, "int4")
    x = torch.randn(8, 64)
    assert off(small(x), plain(x)) < 0.02


def test_what_a_kernel_can_not_take_gets_8_bits_or_stays() -> None:
    """Of 7 inputs the kernel would read on beyond the memory, which ends the process."""
    network = nn.Sequential(nn.Linear(64, 7), nn.Linear(7, 16), nn.Linear(16, 64), nn.Linear(64, 16))
    packed.pack(network, "int4")
    assert [getattr(layer, "bits", 32) for layer in network] == [8, 32, 32, 4]
    network(torch.randn(3, 64))


@pytest.mark.parametrize("form", packed.FORMS)
def test_a_language_model_keeps_what_it_knows(form: str) -> None:
    saved = artifact.load(FOLDER / "nlp.gpt")
    plain, small = (example.get("nlp.gpt").load(saved).model for _ in range(2))
    assert plain is not None
    assert small is not None
    packed.pack(small, form)
    assert not any(isinstance(part, nn.Linear) for part in small.modules())  # the head too
    tokens = torch.randint(1, 5, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, given = (model(tokens).log_softmax(2) for model in (plain, small))
    rise = float((expected.exp() * (expected - given)).sum(2).mean())  # nats per token, of what it expects itself
    assert 0 <= rise < {"int8": 0.001, "int4": 0.02}[form]


@pytest.mark.parametrize("form", packed.FORMS)
def test_it_is_served_and_talks_so(form: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with ThreadPoolExecutor(1) as decoders:
        (model,) = load_models([str(FOLDER / "nlp.gpt")], decoders, precision=form).values()
        try:
            assert model.describe()["precision"] == form
        finally:
            model.close()
    from common.chat import main

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\n")))
    assert main(str(FOLDER / "nlp.gpt"), max_tokens=5, precision=form) == 0
    assert capsys.readouterr().out.strip()


def test_a_model_without_such_layers_and_a_wrong_word_are_refused() -> None:
    with pytest.raises(UserError, match="no linear layers"):
        packed.pack(None, "int8")
    from common.chat import main

    with pytest.raises(UserError, match="--precision int7: no such number format"):
        main(str(FOLDER / "nlp.gpt"), precision="int7")
