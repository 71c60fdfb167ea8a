"""Pictures as bytes."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from common.report import frames
from common.report import page as report


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_pixel(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    assert torch.equal(frames.read_png(frames.png(image)), image)
    assert torch.equal(frames.read_png(frames.png(image, quick=True)), image)


def test_a_grid_has_each_image_in_its_place() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 3)
    sheet = frames.grid(images, columns=3, gap=1)
    assert sheet.shape == (1, 5, 11)
    assert sheet[0, 0].tolist() == [0, 0, 0, 255, 1, 1, 1, 255, 2, 2, 2]
    assert sheet[0, 3].tolist() == [3, 3, 3, 255, 4, 4, 4, 255, 255, 255, 255]


def test_a_gif_has_each_frame_and_rests_on_the_last() -> None:
    shades = (0, 120, 250)
    content = frames.gif([torch.full((3, 4, 4), s, dtype=torch.uint8) for s in shades], fps=20, hold=0.5)
    with Image.open(io.BytesIO(content)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
        assert animation.info["loop"] == 0
        seen, pauses = [], []
        for number in range(3):
            animation.seek(number)
            seen.append(animation.convert("L").getpixel((0, 0)))
            pauses.append(animation.info["duration"])
    assert seen == pytest.approx(shades, abs=2)
    assert pauses == [50, 50, 500]


def test_sections_hold_the_picture_itself() -> None:
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    still = report.image("Title", picture, 'a "quoted" text', "note")
    assert 'src="data:image/png;base64,' in still.body
    assert 'alt="a &quot;quoted&quot; text"' in still.body
    moving = report.animation("Title", frames.gif([picture, picture]), "alt")
    assert 'src="data:image/gif;base64,' in moving.body
