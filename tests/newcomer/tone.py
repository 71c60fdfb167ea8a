"""How much of a message is dashes, and a sound as low as that: a kind of answer of its own."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.kinds.answer import Answer, Row
from common.metrics import Metrics
from common.report.page import Section

RATE = 8000


@dataclass(frozen=True)
class Tone(Answer):
    """The share of dashes, and a beep whose pitch falls with it, in JSON as base64."""

    kind: ClassVar[str] = "tone"
    key: ClassVar[str] = "dashes"
    in_files: ClassVar[bool] = True

    def rows(self, outputs: Tensor) -> list[Row]:
        return [{"dashes": round(x, 4), "wav": base64.b64encode(beep(x)).decode()} for x in outputs.tolist()]

    def files(self, row: Row) -> dict[str, tuple[str, bytes]]:
        return {"wav": (".wav", base64.b64decode(row["wav"]))} if "wav" in row else {}

    def measure(self, outputs: Tensor, targets: Tensor) -> Metrics:
        return Metrics("mse", {"mse": float((outputs - targets).square().mean()), "n": float(len(targets))})

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"val_loss": self.measure(outputs, targets).values["mse"]}

    def sections(self, metrics: Metrics) -> list[Section]:
        return [Section("Beeps", f"<p>They are off by {metrics.values['mse']:.4f}.</p>")]


def beep(share: float) -> bytes:
    """A WAV file of a tenth of a second, at 600 Hz without a dash."""
    pitch = 600 - 300 * min(max(share, 0.0), 1.0)
    sound = (20_000 * torch.sin(2 * torch.pi * pitch * torch.arange(RATE // 10) / RATE)).to(torch.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes(sound.numpy().tobytes())
    return file.getvalue()
