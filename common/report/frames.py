"""Pictures as bytes: PNG files, grids, animations, and images inside a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def png(image: Tensor, quick: bool = False) -> bytes:
    """An image uint8 [C, H, W] with 1, 3 or 4 channels as a PNG file.

    Args:
        quick: takes a fraction of the time, for a larger file.
    """
    buffer = io.BytesIO()
    _picture(image).save(buffer, "png", **({"compress_level": 1} if quick else {"optimize": True}))
    return buffer.getvalue()


def read_png(content: bytes) -> Tensor:
    """The reverse of `png`: uint8 [C, H, W]."""
    import numpy as np
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(content))))  # [H, W] or [H, W, C]
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Images uint8 [N, C, H, W] side by side, row by row, on white: uint8 [C, H', W']."""
    n, c, h, w = images.shape
    rows = math.ceil(n / columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images.cpu()):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def gif(frames: Sequence[Tensor], fps: float = 10, hold: float = 1.0) -> bytes:
    """Frames uint8 [C, H, W], of one size, as an animated GIF that repeats and rests on its last frame.

    Args:
        fps: frames per second.
        hold: seconds for which the last frame stays.
    """
    pictures = [_picture(frame) for frame in frames]
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * hold)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


def data_uri(image: Tensor, min_size: int = 96, max_size: int = 192) -> str:
    """An image uint8 [C, H, W] with 1, 3 or 4 channels as a data URI.

    Smaller than `min_size`, it is enlarged by a whole factor, nearest neighbour, as PNG; larger than `max_size`, it
    is reduced. Photographs (larger than `min_size` without alpha) become JPEG, a tenth of the bytes of PNG.
    """
    from PIL import Image

    c, h, w = image.shape
    picture = _picture(image)
    side = max(h, w)
    if side < min_size:
        factor = math.ceil(min_size / side)
        picture = picture.resize((w * factor, h * factor), Image.Resampling.NEAREST)
    elif side > max_size:
        picture.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
    kind = "png" if side <= min_size or c == 4 else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return embed(buffer.getvalue(), kind)


def embed(content: bytes, kind: str) -> str:
    """The bytes of a picture as a data URI; kind is "png", "gif" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _picture(image: Tensor) -> Image:
    from PIL import Image

    data = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()  # [H, W, C]
    return Image.fromarray(data[..., 0] if image.shape[0] == 1 else data)
