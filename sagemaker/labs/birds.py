"""Draws photos of birds: species that look alike, in any pose, light and focus, half behind leaves.

python sagemaker/labs/birds.py photos                              4 species, 160 photos each: photos/SPECIES/001.jpg
python sagemaker/labs/birds.py others --species 12 --photos 60     12 other species that don't exist
"""

from __future__ import annotations

import colorsys
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.command.exits import run
from common.errors import UserError
from common.training.folders import check_writable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Colour = tuple[int, int, int]
SIDE = 64  # pixels of a photo
_FINE = 2  # drawn so many times larger, so that edges are smooth
_WHITE, _BLACK, _GREY, _BROWN = (238, 234, 226), (34, 34, 40), (128, 132, 138), (116, 90, 66)
_ORANGE, _YELLOW, _OLIVE, _HORN, _STEEL = (210, 104, 44), (226, 196, 58), (142, 144, 70), (196, 160, 110), (84, 88, 98)


@dataclass(frozen=True)
class Species:
    """What a bird looks like.

    Attributes:
        back, breast, belly, wing, tail, cap, face, beak: their colours.
        bar: colour of the bar on the wing.
        beak_length, beak_depth, tail_length, plump: relative to the usual 1.
    """

    back: Colour
    breast: Colour
    belly: Colour
    wing: Colour
    bar: Colour
    tail: Colour
    cap: Colour
    face: Colour
    beak: Colour
    beak_length: float = 1.0
    beak_depth: float = 1.0
    tail_length: float = 1.0
    plump: float = 1.0


# Two pairs: within each the colours are nearly the same, and what differs is where they are, and the beak.
SPECIES = {
    "Goldfinch": Species(_YELLOW, _YELLOW, _WHITE, _BLACK, _WHITE, _BLACK, _BLACK, _YELLOW, _HORN, 0.9, 1.5, 0.9),
    "Redstart": Species(
        _GREY, _ORANGE, _ORANGE, _BROWN, _BROWN, _ORANGE, _GREY, _BLACK, _BLACK, 0.9, 0.7, 1.2, plump=0.92
    ),
    "Robin": Species(
        _BROWN, _ORANGE, _WHITE, _BROWN, _BROWN, _BROWN, _BROWN, _ORANGE, _BLACK, 0.8, 0.7, 0.95, plump=1.1
    ),
    "Siskin": Species(_OLIVE, _YELLOW, _WHITE, _BLACK, _YELLOW, _BLACK, _BLACK, _OLIVE, _STEEL, 0.8, 0.9, 0.8),
}


def invented(count: int, seed: int) -> dict[str, Species]:
    """Species that don't exist, from the same parts and colours: what a backbone can learn from beforehand."""
    import numpy as np

    rng = np.random.default_rng([seed, 1])
    palette = [_WHITE, _BLACK, _GREY, _BROWN, _ORANGE, _YELLOW, _OLIVE, _STEEL, (70, 110, 168), (160, 50, 46)]
    made = {}
    for number in range(1, count + 1):
        colours = [palette[i] for i in rng.integers(0, len(palette), 8)]
        shape = rng.uniform((0.6, 0.6, 0.7, 0.88), (1.8, 1.6, 1.4, 1.14)).tolist()
        made[f"Species_{number:02d}"] = Species(*colours, [_BLACK, _HORN, _ORANGE][rng.integers(3)], *shape)
    return made


def write(folder: Path, species: dict[str, Species], photos: int, seed: int) -> None:
    """Writes FOLDER/SPECIES/NNN.jpg; the same seed gives the same files.

    Args:
        photos: of each species.
    """
    import numpy as np

    for name, looks in species.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(photos):
            rng = np.random.default_rng([seed, 2, number, *name.encode()])
            quality = int(rng.integers(35, 90))
            photo(looks, rng).save(folder / name / f"{number + 1:03d}.jpg", quality=quality)


def photo(species: Species, rng: np.random.Generator) -> Image:
    """A photo of one bird: RGB, SIDE × SIDE."""
    from PIL import Image

    side = SIDE * _FINE
    scene = _background(rng, side)
    bird = _bird(species, rng, side)
    size = int(side * rng.uniform(0.75, 1.1))
    bird = bird.rotate(rng.normal(0, 18), Image.Resampling.BICUBIC).resize((size, size))
    if rng.random() < 0.5:
        bird = bird.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x, y = (int((side - size) / 2 + rng.normal(0, 0.06) * side) for _ in "xy")
    scene.paste(bird, (x, y), bird)
    _leaves(scene, rng, int(rng.integers(0, 5)))
    return _through_the_lens(scene, rng)


def _background(rng: np.random.Generator, side: int) -> Image:
    """Sky, woods or earth with blurred clutter, and a branch."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    tones = [((150, 180, 205), (205, 215, 220)), ((70, 96, 58), (150, 164, 100)), ((120, 104, 82), (180, 166, 140))]
    top, bottom = (np.array(tone) for tone in tones[rng.integers(len(tones))])
    ramp = np.linspace(0, 1, side)[:, None, None]
    rows = top * (1 - ramp) + bottom * ramp  # [side, 1, 3]
    scene = Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype("uint8"))
    _leaves(scene, rng, int(rng.integers(4, 18)))
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))
    start, end = rng.uniform(0.6, 0.95, 2) * side
    width = int(rng.uniform(3, 9))
    ImageDraw.Draw(scene).line([(0, start), (side, end)], fill=_jitter((92, 74, 58), rng), width=width)
    return scene


def _leaves(scene: Image, rng: np.random.Generator, count: int) -> None:
    """Draws leaves, blossoms and twigs anywhere on the scene; some have the colour of a bird."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(scene)
    for _ in range(count):
        x, y = rng.uniform(0, scene.width, 2)
        colours = [(84, 116, 52), (128, 140, 66), (70, 84, 56), _BROWN, _ORANGE, _YELLOW, _BLACK, _WHITE]
        colour = _jitter(colours[rng.choice(8, p=[0.22, 0.2, 0.16, 0.14, 0.08, 0.08, 0.06, 0.06])], rng)
        if rng.random() < 0.25:
            angle, length = rng.uniform(0, 3.14), rng.uniform(0.1, 0.4) * scene.width
            ends = [(x, y), (x + length * math.cos(angle), y + length * math.sin(angle))]
            draw.line(ends, fill=colour, width=int(rng.integers(1, 4)))
        else:
            a, b = rng.uniform(0.02, 0.09, 2) * scene.width
            draw.ellipse([x - a, y - b, x + a, y + b], fill=colour)


def _bird(species: Species, rng: np.random.Generator, side: int) -> Image:
    """The bird alone, facing right, on nothing: RGBA, side × side. No two of a species are quite alike."""
    from PIL import Image, ImageDraw

    layer = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(layer)
    colour = {part: _jitter(getattr(species, part), rng) for part in _COLOURED}
    plump, beak, depth, tail = (
        getattr(species, part) * rng.normal(1, 0.07) for part in ("plump", "beak_length", "beak_depth", "tail_length")
    )

    def ellipse(x: float, y: float, a: float, b: float, fill: Colour) -> None:
        draw.ellipse([(x - a) * side, (y - b) * side, (x + a) * side, (y + b) * side], fill=fill)

    def polygon(fill: Colour, *points: tuple[float, float]) -> None:
        draw.polygon([(x * side, y * side) for x, y in points], fill=fill)

    tail_end = 0.28 - 0.17 * tail
    head = (0.68 + rng.normal(0, 0.012), 0.36 + rng.normal(0, 0.015))
    polygon(colour["tail"], (0.34, 0.5), (tail_end, 0.63), (tail_end + 0.02, 0.71), (0.38, 0.62))
    for x in (0.47, 0.54):
        draw.line([(x * side, 0.7 * side), ((x + 0.02) * side, 0.86 * side)], fill=colour["beak"], width=side // 60)
    ellipse(0.5, 0.54, 0.22, 0.17 * plump, colour["back"])
    ellipse(0.52, 0.62, 0.17, 0.10 * plump, colour["belly"])
    ellipse(0.605, 0.55, 0.10, 0.13 * plump, colour["breast"])
    x, y = head
    polygon(
        colour["beak"], (x + 0.09, y - 0.035 * depth), (x + 0.11 + 0.09 * beak, y + 0.02), (x + 0.09, y + 0.04 * depth)
    )
    ellipse(x, y, 0.115, 0.112, colour["back"])
    ellipse(x + 0.035, y + 0.03, 0.078, 0.076, colour["face"])
    draw.chord([(x - 0.1) * side, (y - 0.115) * side, (x + 0.115) * side, (y + 0.07) * side], 185, 355, colour["cap"])
    ellipse(x + 0.045, y - 0.002, 0.016, 0.016, (16, 16, 18))
    droop = rng.normal(0, 0.02)
    polygon(colour["wing"], (0.58, 0.47), (0.5, 0.43), (0.26, 0.57 + droop), (0.44, 0.63 + droop), (0.55, 0.58))
    polygon(colour["bar"], (0.51, 0.46), (0.48, 0.455), (0.425, 0.61 + droop), (0.455, 0.615 + droop))
    return layer


_COLOURED = ("back", "breast", "belly", "wing", "bar", "tail", "cap", "face", "beak")


def _through_the_lens(scene: Image, rng: np.random.Generator) -> Image:
    """Light, its colour, focus and noise; then as small as a photo is."""
    import numpy as np
    from PIL import Image, ImageFilter

    scene = scene.filter(ImageFilter.GaussianBlur(abs(rng.normal(0, 1.0)))).resize((SIDE, SIDE))
    pixels = np.asarray(scene, dtype=float)
    shade = np.linspace(*rng.uniform(0.8, 1.2, 2), SIDE)[None, :, None]
    cast = rng.normal(1, 0.04, 3)
    light, contrast = np.exp(rng.normal(0, 0.15)), rng.uniform(0.7, 1.1)
    pixels = ((pixels - 120) * contrast + 120) * light * shade * cast + rng.normal(0, rng.uniform(1, 9), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype("uint8"))


def _jitter(colour: Colour, rng: np.random.Generator) -> Colour:
    """Nearly the same colour: of another individual, in another season."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    hue += rng.normal(0, 0.02)
    saturation *= rng.uniform(0.6, 1.1)
    value *= rng.uniform(0.75, 1.15)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))
    return int(255 * red), int(255 * green), int(255 * blue)


def main(
    folder: Annotated[Path, typer.Argument(help="gets a folder for each species")],
    photos: Annotated[int, typer.Option(min=1, max=9999, help="of each species")] = 160,
    species: Annotated[int, typer.Option(min=0, max=99, help="so many invented ones; 0 for the four of the labs")] = 0,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
) -> None:
    """Draws photos of birds into FOLDER/SPECIES/NNN.jpg."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty.", "Give a new folder.")
    check_writable(folder)
    write(folder, invented(species, seed) if species else SPECIES, photos, seed)


if __name__ == "__main__":
    run(main, "python sagemaker/labs/birds.py")
