"""A photo of any size, fitted whole into what a network takes, so that answers can be in the photo's own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from common.kinds.image import ImageInput, upright
from common.report.frames import png

if TYPE_CHECKING:
    from PIL.Image import Image


class Fitted(NamedTuple):
    """A photo in the upper left corner of a canvas.

    Args:
        image: uint8 [channels, H, W].
        size: width and height of the photo as it came, int64 [2].
    """

    image: Tensor
    size: Tensor


@dataclass(frozen=True)
class Photo(ImageInput):
    """Like an image, but nothing is cut away: the photo is scaled until it fits, and the rest is the mean colour.

    Args:
        size: the longer side of the canvas in pixels.
        height, width: of the canvas.
    """

    kind: ClassVar[str] = "image"  # the page asks for one in the same way

    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.height < 1 or self.width < 1 or max(self.height, self.width) != self.size:
            raise ValueError(f"height and width must be at least 1 and up to {self.size}: {self.height}, {self.width}")

    def decode(self, source: Path | bytes, name: str = "") -> Fitted:  # type: ignore[override]
        """The photo of a file or of its bytes, turned upright; errors are those of `ImageInput.decode`."""
        image, (width, height) = upright(source, self._mode, self.size, name)
        return Fitted(self._on_canvas(image, width, height), torch.tensor([width, height]))

    def fit(self, image: Tensor) -> Fitted:  # type: ignore[override]
        """The same for a photo decoded already, uint8 [channels, H, W]."""
        from PIL import Image as pillow  # noqa: N813

        height, width = image.shape[-2:]
        pixels = image.numpy().transpose(1, 2, 0)
        photo = pillow.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels)
        return Fitted(self._on_canvas(photo, width, height), torch.tensor([width, height]))

    def sample(self) -> bytes:
        """A bright square on grey as a PNG file."""
        picture = torch.full((1, self.height, self.width), 90, dtype=torch.uint8)
        third, middle = min(self.height, self.width) // 3, (self.height // 2, self.width // 2)
        picture[:, middle[0] - third // 2 :, middle[1] - third // 2 :][:, :third, :third] = 230
        return png(picture)

    def scales(self, sizes: Tensor) -> Tensor:
        """By what a photo's pixels, across and down, were multiplied: float32 [..., 2] for sizes [..., 2]."""
        room = sizes.new_tensor([self.width, self.height])
        factor = (room / sizes).amin(-1, keepdim=True)
        return (sizes * factor).round().clamp(min=1) / sizes

    def to_photo(self, boxes: Tensor, sizes: Tensor) -> Tensor:
        """Boxes on the canvas [B, D, 4] in pixels of their photos, cut at the edges; the reverse of the fitting.

        Args:
            boxes: left, top, right and bottom.
            sizes: width and height of each photo, [B, 2].
        """
        corners = boxes.unflatten(-1, (2, 2)) / self.scales(sizes)[:, None, None]  # [B, D, 2, 2]
        return torch.minimum(corners.clamp(min=0), sizes[:, None, None]).flatten(-2)

    def network_input(self, items: Sequence[Fitted]) -> Tensor:  # type: ignore[override]
        return self.normalize(torch.stack([item.image for item in items]))

    def explainer(self, predictor: Any) -> None:
        """None: what is found says where it is."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Photo:
        """The reverse of `to_json`; UserError where a field is missing or out of range."""
        try:
            mean, std = (tuple(map(float, fields[key])) for key in ("mean", "std"))
            size, channels, height, width = (int(fields[key]) for key in ("size", "channels", "height", "width"))
            return cls(size, channels, mean, std, None, height, width)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The image preprocessing {fields} is not valid: {error}.") from error

    @property
    def _mode(self) -> str:
        return "L" if self.channels == 1 else "RGB"

    def _on_canvas(self, image: Image, width: int, height: int) -> Tensor:
        from PIL import Image as pillow  # noqa: N813

        across, down = self.scales(torch.tensor([width, height])).tolist()
        size = (max(1, round(across * width)), max(1, round(down * height)))
        colour = tuple(round(255 * value) for value in self.mean)
        canvas = pillow.new(self._mode, (self.width, self.height), colour if self.channels == 3 else colour[0])
        canvas.paste(image if image.size == size else image.resize(size, pillow.Resampling.BILINEAR))
        planes = bytearray().join(plane.tobytes() for plane in canvas.split())
        return torch.frombuffer(planes, dtype=torch.uint8).view(self.channels, self.height, self.width)
