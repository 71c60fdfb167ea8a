"""An image: how a file becomes a tensor, for training, prediction and serving alike, and where a network looks."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from common.errors import UserError
from common.kinds.base import FILE, Explain, FileKind
from common.kinds.heat import Looker
from common.report.frames import png

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
MAX_SCANS = 64  # of a progressive JPEG; photos have about ten, and each takes a pass over all pixels for 100 bytes
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no EPS: reading it runs a program
_READABLE = "Readable are JPEG, PNG, BMP, WebP, GIF and TIFF files."
_ORIENTATION = 0x0112  # the EXIF tag
_STRIP = 2**20  # pixels that are scaled to 8 bits, or laid on white, at a time


@dataclass(frozen=True)
class Drawing:
    """What the images of a data set of drawings are like, so that a visitor's drawing can be made like them.

    Attributes:
        grid: their side in pixels.
        fill: share of it that the box around the ink takes, at most.
        widest: share of it to which the box is stretched across, where it is stretched to `fill` upwards (narrower
            shapes keep their proportions); 0 where every box keeps its proportions and its centre of mass is centred.
        ink: share of an image that ink covers.
    """

    grid: int
    fill: float
    widest: float = 0.0
    ink: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.grid <= 1024 and 0 < self.fill <= 1 and 0 <= self.widest <= 1 and 0 <= self.ink <= 1):
            raise ValueError(f"{self} is out of range")


@dataclass(frozen=True)
class ImageInput(FileKind):
    """What a model takes for an image, and how a file, bytes or an array become that; saved with a trained model.

    Args:
        size: side of the square in pixels, ≥ 1.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        mean: of each channel, of values in [0, 1].
        std: of each channel, of values in [0, 1], > 0.
        drawing: where the model learned from drawings, what they are like.

    Raises:
        ValueError: a field is out of range.
    """

    kind: ClassVar[str] = "image"
    suffixes: ClassVar[tuple[str, ...]] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
    media: ClassVar[tuple[str, ...]] = ("image/*", FILE)
    noun: ClassVar[str] = "an image"
    family: ClassVar[str] = "image/"
    bodies: ClassVar[tuple[str, ...]] = ("binary/octet-stream", "application/x-image")
    most_work: ClassVar[int] = MAX_PIXELS  # what is counted are pixels
    too_much: ClassVar[str] = f"The images have more than {MAX_PIXELS // 1_000_000} million pixels together, the limit."

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drawing: Drawing | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels not in (1, 3):
            raise ValueError(f"size must be at least 1 and channels 1 or 3, not {self.size} and {self.channels}")
        if len(self.mean) != self.channels or len(self.std) != self.channels or min(self.std) <= 0:
            raise ValueError(f"mean and std need {self.channels} values, std above 0: {self.mean}, {self.std}")

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """The image of a file or of its bytes as uint8 [channels, size, size]; the same bits for every caller.

        The first frame, turned upright (EXIF), alpha laid on white, 16 bits and [0, 1] floats scaled to 8 bits; then
        the shorter side is resized to `size` (bilinear, antialiased) and the centre cut out.

        Args:
            source: the file, or its bytes.
            name: what errors call it; the path by default.

        Raises:
            UserError: the file is missing, empty, damaged, no image, larger than MAX_PIXELS, or a JPEG of more than
                MAX_SCANS.
        """
        name = name or ("The image" if isinstance(source, bytes) else str(source))
        with _opened(source, name) as image:
            # A large JPEG is decoded at 1/2, 1/4 or 1/8, never below twice the size that is wanted.
            image.draft(None, (2 * self.size, 2 * self.size))
            image.load()
            return self._square(_upright(image))

    def work(self, raw: bytes) -> int:
        """How many pixels `decode` reads of an image file, by its header; 0 where that can't be read."""
        try:
            with _opened(raw, "") as image:
                image.draft(None, (2 * self.size, 2 * self.size))
                return image.width * image.height
        except UserError:  # decode says it
            return 0

    def sample(self) -> bytes:
        """A gray ramp as a PNG file."""
        return png(torch.linspace(0, 255, self.size).byte().expand(1, self.size, self.size))

    def documents(self) -> dict[str, dict[str, Any]]:
        picture = {"schema": {"type": "string", "format": "binary"}}
        return {"image/png": picture, "image/jpeg": picture, FILE: picture}

    def network_input(self, items: Sequence[Tensor]) -> Tensor:
        return self.normalize(torch.stack(list(items)))

    def explainer(self, predictor: Any) -> tuple[str, Explain] | None:
        """A heat map over the square that the model sees: the example's own, or of the predictor's network."""
        if predictor.model is None and predictor.explain is None:
            return None
        looker = Looker(predictor.model) if predictor.model is not None else None

        def explain(image: Tensor, target: int) -> dict[str, Any]:
            if predictor.explain:
                heat, method = predictor.explain(image, target), "the example's own"
            else:
                assert looker is not None
                heat, method = looker(self.network_input([image]), target)
            return {"method": method, "heat": [[round(v, 3) for v in row] for row in heat.tolist()]}

        return "heat", explain

    def page(self) -> dict[str, Any]:
        return {"drawing": asdict(self.drawing)} if self.drawing else {}

    def fit(self, image: Tensor) -> Tensor:
        """The same for an image decoded already: uint8 [1 | 2 | 3 | 4, H, W] to uint8 [channels, size, size].

        1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

        Raises:
            ValueError: another shape or dtype.
        """
        if image.dtype != torch.uint8 or image.ndim != 3 or not 1 <= image.shape[0] <= 4:
            raise ValueError(f"an image is uint8 [1..4, H, W], not {image.dtype} {list(image.shape)}")
        if image.shape == (self.channels, self.size, self.size):
            return image
        from PIL import Image

        pixels = image.permute(1, 2, 0).squeeze(2).contiguous().cpu().numpy()  # [H, W] or [H, W, C]
        return self._square(Image.fromarray(pixels))

    def normalize(self, batch: Tensor) -> Tensor:
        """(batch / 255 − mean) / std: uint8, or floats in [0, 255], [B, channels, H, W] to float32 [B, channels, H, W].

        Raises:
            ValueError: the batch has another number of channels.
        """
        if batch.shape[-3] != self.channels:
            raise ValueError(f"the batch has {batch.shape[-3]} channels, not {self.channels}")
        mean, scale = _constants(self.mean, self.std, batch.device)
        return torch.sub(batch, mean).mul_(scale)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"kind": self.kind, **{key: value for key, value in fields.items() if value is not None}}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ImageInput:
        """The reverse of `to_json`.

        Raises:
            UserError: a field is missing or out of range.
        """
        try:
            mean, std = (tuple(map(float, fields[key])) for key in ("mean", "std"))
            drawing = Drawing(**fields["drawing"]) if fields.get("drawing") else None
            return cls(int(fields["size"]), int(fields["channels"]), mean, std, drawing)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The image preprocessing {fields} is not valid: {error}.") from error

    def _square(self, image: Image) -> Tensor:
        from PIL.Image import Resampling

        image = _eight_bit(image, "L" if self.channels == 1 else "RGB")
        side = min(image.size)
        left, top = (
            (image.width - side) // 2,
            (image.height - side) // 2,
        )  # whole pixels: exact where nothing is resized
        box = (left, top, left + side, top + side)
        image = image.resize((self.size, self.size), Resampling.BILINEAR, box)
        planes = bytearray().join(plane.tobytes() for plane in image.split())
        return torch.frombuffer(planes, dtype=torch.uint8).view(self.channels, self.size, self.size)


def check_header(source: Path | bytes, name: str = "") -> None:
    """Read only the header of an image file, some 0.1 ms.

    Raises:
        UserError: the file is missing, empty, no image, or larger than MAX_PIXELS.
    """
    with _opened(source, name or str(source)):
        pass


def upright(source: Path | bytes, mode: str, at_least: int, name: str = "") -> tuple[Image, tuple[int, int]]:
    """An image of any size as Pillow has it, turned upright, alpha on white, in 8 bits; and its width and height.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 of that, never below twice the side that is wanted.

    Args:
        mode: "L" or "RGB".
        at_least: that side, in pixels.

    Raises:
        UserError: as of `ImageInput.decode`.
    """
    with _opened(source, name or ("The image" if isinstance(source, bytes) else str(source))) as image:
        size = image.size[::-1] if _orientation(image) >= 5 else image.size  # from 5 on it lies on its side
        image.draft(None, (2 * at_least, 2 * at_least))
        image.load()
        return _eight_bit(_upright(image), mode), size


def size_of(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Width and height of an image file as it is shown, upright; only its header is read.

    Raises:
        UserError: as of `check_header`.
    """
    with _opened(source, name or str(source)) as image:
        return image.size[::-1] if _orientation(image) >= 5 else image.size


@functools.cache
def _pillow() -> Any:
    from PIL import Image

    # Pillow warns of images between 89 and 179 megapixels, which our own limit refuses, and of damaged metadata.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    return Image


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image]:
    """The opened image, its pixels not yet read; every failure inside the block is a UserError about this file."""
    pillow = _pillow()
    try:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise UserError(f"{name} is empty (0 bytes).", "Copy or download it again, or remove it.")
        with pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise pillow.DecompressionBombError
            if image.info.get("progression") and _scans(source) > MAX_SCANS:
                raise UserError(f"{name} is a JPEG of more than {MAX_SCANS} scans, the limit.", "Save it again.")
            yield image
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{name} does not exist.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{name} can't be read: {error.strerror}.") from error
    except pillow.DecompressionBombError as error:
        what = f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels, the limit."
        raise UserError(what, "Make it smaller first.") from error
    except pillow.UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image.", _READABLE) from error
    except Exception as error:  # a decoder raises nearly anything on a damaged file
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        what = f"{name} is damaged: {reason[0].rstrip('.')}."
        raise UserError(what, "Copy or download it again, or remove it.") from error


def _scans(source: Path | bytes) -> int:
    return (source if isinstance(source, bytes) else source.read_bytes()).count(b"\xff\xda")


def _orientation(image: Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is no reason to refuse good pixels
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _upright(image: Image) -> Image:
    from PIL.Image import Transpose

    orientation = _orientation(image)
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _eight_bit(image: Image, mode: str) -> Image:
    """Any mode to "L" or "RGB", alpha laid on white.

    What needs more than a conversion is done in strips: whole, it would take up to eight times the image's memory.
    """
    from PIL import Image as pillow  # noqa: N813

    grey = _is_deep(image)
    if not grey and not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    flat = pillow.new(mode, image.size)
    height = max(1, _STRIP // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        flat.paste((_scaled(strip) if grey else _on_white(strip)).convert(mode), (0, top))
    return flat


def _is_deep(image: Image) -> bool:
    """Whether it is grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _on_white(image: Image) -> Image:
    from PIL import Image as pillow  # noqa: N813

    return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _scaled(image: Image) -> Image:
    """Grey of 16 bits (also when held in 32), or floats in [0, 1], to 8 bits; Pillow itself would clip at 255."""
    import numpy as np
    from PIL import Image as pillow  # noqa: N813

    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= top):  # also false for NaN
        raise ValueError(f"its grey values are not in 0 to {top:g}")
    return pillow.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


@functools.lru_cache(maxsize=32)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept, because copying them to a GPU for each batch would wait for it; made outside inference mode, because
    # tensors made inside may not be used in training.
    with torch.inference_mode(False):
        shape = (-1, 1, 1)
        middle = torch.tensor(mean, device=device).mul_(255).view(shape)
        return middle, torch.tensor(std, device=device).mul_(255).reciprocal_().view(shape)
