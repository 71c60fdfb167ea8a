"""Sounds in a report: players, with nothing outside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from torch import Tensor

from common.report import frames
from common.report.page import Section

_WIDE = "width: 100%; height: 6rem; object-fit: fill"
_GRID = "display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.25rem"


class Heard(NamedTuple):
    """A WAV file with a caption and a smaller line under it, and a picture of it, uint8 [1, H, W]."""

    content: bytes
    caption: str
    detail: str
    picture: Tensor


def sounds(title: str, heard: Sequence[Heard], note: str = "") -> Section:
    """A grid of players."""
    return Section(title, f'<div style="{_GRID}">{"".join(map(_player, heard))}</div>', note)


def _player(heard: Heard) -> str:
    about = escape(f"{heard.caption} {heard.detail}".strip())
    picture = frames.embed(frames.png(heard.picture), "png")
    sound = f"data:audio/wav;base64,{base64.b64encode(heard.content).decode()}"
    return (
        f'<figure style="margin: 0"><img src="{picture}" alt="Spectrogram: {about}" style="{_WIDE}">'
        f'<audio controls preload="none" src="{sound}" aria-label="{about}" style="width: 100%"></audio>'
        f"<figcaption>{escape(heard.caption)}<br><small>{escape(heard.detail)}</small></figcaption></figure>\n"
    )
