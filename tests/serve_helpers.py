"""A model to serve that needs no training, and a server in a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import torch

from common.artifact import FORMAT
from common.kinds.answer import Answer
from common.kinds.image import ImageInput
from vision import models
from vision.train import TrainConfig


class Number(Answer):
    """A smallest kind of answer."""

    kind, key = "number", "y"


def address(server: subprocess.Popen[str]) -> str:
    """The URL that a server says on stderr once it answers."""
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        if line.startswith("serving at "):
            return line.split()[-1]
        said.append(line)
    raise AssertionError(f"the server ended: {''.join(said[-3:]).strip()}")


def write_artifact(folder: Path, model: str = "lenet", size: int = 28, channels: int = 1, classes: int = 10) -> Path:
    """The artifact of an image classifier with the weights that it starts from; returns the folder."""
    from safetensors.torch import save_file

    config = TrainConfig(data="folder:photos", model=model, size="tiny", image_size=size)
    torch.manual_seed(0)
    network = models.build(
        model, config.size, classes=classes, channels=channels, image_size=size, weights="none", freeze=False
    )
    inputs = ImageInput(size, channels, (0.5,) * channels, (0.25,) * channels)
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    description = {
        "format": FORMAT,
        "example": "vision.train",
        "config": config.to_dict(),
        "inputs": inputs.to_json(),
        "classes": [f"class {number}" for number in range(classes)],
        "metrics": {"accuracy": 0.1},
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder
