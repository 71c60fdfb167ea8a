"""A server of one model for each kind of input, all of which answer at once: `python -m tests.toy_server --port P`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.kinds.answer import Predictor
from common.kinds.image import ImageInput
from common.kinds.labels import Labels
from common.kinds.observation import ObservationInput
from common.kinds.row import RowInput
from common.kinds.seed import SeedInput
from common.kinds.text import TextInput
from common.serve.models import ServedModel
from common.serve.server import start
from common.serve.settings import Address, Settings
from tests.page_helpers import toy

CLASSES = ("a", "b")
INPUTS = (
    ImageInput(28, 1, (0.5,), (0.5,)),
    TextInput(),
    RowInput(("width", "height")),
    SeedInput(3, ("cat", "dog")),
    ObservationInput((2, 2)),
)


def rows(items: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"class": "a", "probabilities": {"a": 0.75, "b": 0.25}} for _ in items]


def toys(
    decoders: ThreadPoolExecutor, predict: Callable[[Sequence[Any]], list[dict[str, Any]]] = rows
) -> dict[str, ServedModel]:
    """A model for each kind of input, under the name of its kind."""
    models = {}
    for kind in INPUTS:
        predictor = Predictor(kind, Labels(CLASSES), predict)
        models[kind.kind] = toy(kind.kind, predictor, CLASSES, decoders)
    return models


def load(runs: Sequence[str], decoders: ThreadPoolExecutor, **options: Any) -> dict[str, ServedModel]:
    return toys(decoders)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    sys.exit(start([], Settings(), Address(port=parser.parse_args().port), load))
