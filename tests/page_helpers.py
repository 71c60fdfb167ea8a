"""A browser for the page, and a hand that draws digits in it."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from common.artifact import FORMAT, Artifact
from common.config import Config
from common.kinds.answer import Predictor
from common.kinds.row import RowInput
from common.kinds.seed import SeedInput
from common.serve.models import ServedModel
from common.serve.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
# A sandbox needs rights that containers lack; and nothing here may reach for the network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Stroke = Sequence[tuple[float, float]]

# Each digit as a person draws it, in sides of the paper: (x, y) from the upper left corner.
DIGITS: dict[str, list[Stroke]] = {
    "0": [[(0.52, 0.2), (0.38, 0.27), (0.32, 0.5), (0.37, 0.72), (0.5, 0.8), (0.63, 0.72), (0.68, 0.5), (0.63, 0.28),
           (0.5, 0.2)]],
    "1": [[(0.4, 0.32), (0.52, 0.2), (0.52, 0.5), (0.51, 0.82)]],
    "2": [[(0.35, 0.32), (0.42, 0.22), (0.55, 0.2), (0.65, 0.3), (0.6, 0.45), (0.47, 0.62), (0.33, 0.79), (0.5, 0.79),
           (0.7, 0.79)]],
    "3": [[(0.33, 0.26), (0.45, 0.2), (0.6, 0.22), (0.66, 0.33), (0.6, 0.44), (0.47, 0.48), (0.62, 0.53), (0.68, 0.66),
           (0.6, 0.78), (0.45, 0.81), (0.32, 0.75)]],
    "4": [[(0.56, 0.2), (0.45, 0.38), (0.33, 0.58), (0.5, 0.58), (0.72, 0.57)],
          [(0.6, 0.4), (0.59, 0.6), (0.58, 0.82)]],
    "5": [[(0.66, 0.21), (0.5, 0.21), (0.37, 0.22), (0.36, 0.35), (0.35, 0.46), (0.48, 0.43), (0.62, 0.48),
           (0.67, 0.62), (0.6, 0.76), (0.47, 0.81), (0.33, 0.76)]],
    "6": [[(0.6, 0.2), (0.47, 0.3), (0.37, 0.5), (0.36, 0.68), (0.45, 0.8), (0.58, 0.79), (0.65, 0.68), (0.6, 0.56),
           (0.48, 0.54), (0.38, 0.62)]],
    "7": [[(0.32, 0.22), (0.5, 0.22), (0.69, 0.22), (0.6, 0.42), (0.52, 0.6), (0.46, 0.82)]],
    "8": [[(0.6, 0.28), (0.5, 0.2), (0.39, 0.27), (0.41, 0.4), (0.52, 0.49), (0.64, 0.6), (0.64, 0.74), (0.51, 0.82),
           (0.38, 0.74), (0.38, 0.61), (0.5, 0.49), (0.61, 0.39), (0.6, 0.28)]],
    "9": [[(0.63, 0.33), (0.55, 0.21), (0.42, 0.23), (0.36, 0.36), (0.43, 0.48), (0.56, 0.47), (0.64, 0.34),
           (0.63, 0.55), (0.57, 0.82)]],
}  # fmt: skip


def draw(page: Page, strokes: Sequence[Stroke], size: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> None:
    """Draws strokes with the mouse on the page's paper, scaled by `size` and centred `at`."""
    box = page.locator("canvas.paper").bounding_box()
    assert box is not None
    for stroke in strokes:
        points = [
            (
                box["x"] + box["width"] * (at[0] + size * (x - 0.5)),
                box["y"] + box["height"] * (at[1] + size * (y - 0.5)),
            )
            for x, y in stroke
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=3)
        page.mouse.up()


def toy(
    name: str, predictor: Predictor, classes: Sequence[str], decoders: ThreadPoolExecutor, **saved: Any
) -> ServedModel:
    """A model on the server that nobody trained; `saved` are fields of its artifact."""
    described: dict[str, Any] = {
        "folder": Path(),
        "example": "toy",
        "config": {},
        "inputs": predictor.input.to_json(),
        "metrics": {},
    }
    return ServedModel(name, Artifact(classes=list(classes), **{**described, **saved}), predictor, decoders)


def untrained(folder: Path, name: str, network: nn.Module, inputs: Any, config: Config, classes: Sequence[str]) -> Path:
    """The artifact of an example's network with the weights that it starts from; returns the folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    described = {
        "format": FORMAT,
        "example": name,
        "config": config.to_dict(),
        "inputs": inputs.to_json(),
        "classes": list(classes),
        "metrics": {},
    }
    (folder / "model.json").write_text(json.dumps(described))
    return folder


def generator(folder: Path, classes: Sequence[str] = ()) -> Path:
    """The artifact of a GAN that has learned nothing."""
    from generative.gan import __main__ as gan

    config = gan.GanConfig.tiny()
    network = gan.build_generator(config, len(classes), 1)
    return untrained(folder, "generative.gan", network, SeedInput(config.latent, tuple(classes)), config, classes)


def table(folder: Path) -> Path:
    """The artifact of a classifier of rows of two columns; the second class is likelier the larger they are."""
    from research.ladder import __main__ as ladder

    last = ladder.LogisticRegression(2)
    nn.init.ones_(last.linear.weight)
    network = nn.Sequential(ladder.Standardize(torch.zeros(2), torch.ones(2)), last)
    inputs = RowInput(("width", "height"), (1.5, 0.25))
    return untrained(folder, "research.ladder", network, inputs, ladder.LadderConfig(), ["a", "b"])


@contextmanager
def served(models: Mapping[str, ServedModel], settings: Settings | None = None) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    import uvicorn

    from common.serve import server as process
    from common.serve.app import create_app

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        settings = replace(settings or Settings(), hosts=process.own_names(listening))
        options = {**process.options(settings), "log_level": logging.ERROR}
        server = uvicorn.Server(uvicorn.Config(create_app(models, settings), **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
