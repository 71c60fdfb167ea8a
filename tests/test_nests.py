"""Batches of any shape: cut, shared, trained on, predicted, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from common.command.arguments import Options
from common.command.execute import execute
from common.data.loaders import Loader
from common.errors import Interrupted
from common.machine import nests
from common.training.fit import predict_all
from common.training.run import Run
from common.training.tracking import read_history
from tests import words
from tests.helpers import final_weights, only_run, ranks, result, same


class Pair(NamedTuple):
    left: Tensor
    right: list[Tensor]


BATCH: dict[str, Any] = {
    "images": torch.arange(10).view(5, 2),
    "boxes": Pair(torch.arange(5), [torch.zeros(n, 4) for n in (0, 3, 1, 2, 5)]),
    "name": "of all",
}


def trained(out: Path, **values: Any) -> Path:
    return Path(execute(words.example, Options(quiet=True, out=str(out)), values)["run"])


def test_pieces_and_shares_are_cut_as_tensors_are_and_join_again() -> None:
    assert nests.size(BATCH) == 5
    for count in (1, 2, 3, 5, 9):
        cut = nests.pieces(BATCH, count)
        assert [len(piece["images"]) for piece in cut] == [len(part) for part in BATCH["images"].chunk(count)]
        assert [len(piece["boxes"].right) for piece in cut] == [len(piece["images"]) for piece in cut]
        assert same(nests.join(cut), BATCH)
        shares = [nests.share(BATCH, rank, count) for rank in range(count)]
        assert [len(s["images"]) for s in shares] == [len(part) for part in BATCH["images"].tensor_split(count)]
        assert isinstance(shares[0]["boxes"], Pair)
    order = torch.tensor([4, 0, 3, 1, 2])
    assert same(nests.take(nests.take(BATCH, order), order.argsort()), BATCH)


def test_a_batch_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="not str"):
        nests.size("text")


@pytest.mark.parametrize("accumulate", [2, 5])
def test_pieces_give_the_gradient_of_the_whole_batch_where_they_hold_different_numbers_of_letters(
    tmp_path: Path, accumulate: int
) -> None:
    whole = trained(tmp_path / "whole", adam=False)
    pieces = trained(tmp_path / "pieces", adam=False, accumulate=accumulate)
    for name, value in final_weights(whole).items():
        torch.testing.assert_close(final_weights(pieces)[name], value, rtol=1e-5, atol=1e-6)


def test_so_do_two_processes(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", adam=False)
    arguments = ("-m", "tests.words", "--no-adam", "--json", "--out", tmp_path / "two")
    two = result(ranks(2, *arguments))
    weights = final_weights(only_run(tmp_path / "two", "tests.words"))
    for name, value in final_weights(whole).items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
    histories = [read_history(run) for run in (whole, Path(two["run"]))]
    for left, right in zip(*histories, strict=True):  # losses and figures of validation alike
        del left["seconds"], right["seconds"]
        assert left == pytest.approx(right, rel=1e-4)


def test_it_learns_and_validates_every_few_steps_and_at_the_end(tmp_path: Path) -> None:
    run = trained(tmp_path)
    validated = [line["step"] for line in read_history(run) if "val_loss" in line]
    assert validated == [7, 14, 21, 28, 30]
    last = [line for line in read_history(run) if "val_accuracy" in line][-1]
    assert last["val_accuracy"] > 0.95


def test_nests_and_several_optimisers_resume_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", checkpoint_seconds=0.0)
    after_step = Run._after_step

    def stop(self: Run, last: bool) -> None:
        after_step(self, last)
        if self.step == 11:
            raise Interrupted(15)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Run, "_after_step", stop)
        trained(tmp_path / "halves", checkpoint_seconds=0.0)
    options = Options(quiet=True, out=str(tmp_path / "halves"), resume="latest")
    halves = Path(execute(words.example, options, {})["run"])
    assert same(final_weights(halves), final_weights(whole))


def test_outputs_that_are_nests_come_in_the_order_of_the_data() -> None:
    data = words.Words(3, 20)
    loader = Loader(data, 7, train=False, device=torch.device("cpu"), workers=0)

    class Sums(torch.nn.Module):
        def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"sums": [word.sum() for word in inputs["words"]]}

    outputs = predict_all(Sums(), loader)
    assert [int(value) for value in outputs["sums"]] == [int(word.sum()) for word in data.words]
