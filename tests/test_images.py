"""Files to tensors: every mode a file can have, every way it can be broken."""

from __future__ import annotations

import io
import json
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.kinds import image as images
from common.kinds.image import ImageInput, check_header

RGB = ImageInput(4, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
GREY = ImageInput(4, 1, (0.5,), (0.25,))
COLOURS = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chw(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def test_rgb_pixels_of_the_right_size_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(file(Image.fromarray(COLOURS)))
    assert torch.equal(RGB.decode(path), chw(COLOURS))
    assert torch.equal(RGB.decode(path.read_bytes()), chw(COLOURS))


def test_colour_becomes_grey_by_luma_and_grey_becomes_three_equal_channels() -> None:
    luma = COLOURS.astype(float) @ [0.299, 0.587, 0.114]
    grey = GREY.decode(file(Image.fromarray(COLOURS)))
    assert (grey[0] - torch.from_numpy(luma)).abs().max() <= 0.51
    back = RGB.decode(file(Image.fromarray(grey[0].numpy())))
    assert torch.equal(back, grey.expand(3, 4, 4))


def test_one_bit_images_are_black_and_white() -> None:
    bits = COLOURS[:, :, 0] > 127
    assert torch.equal(GREY.decode(file(Image.fromarray(bits)))[0], torch.from_numpy(bits) * 255)


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_sixteen_bit_grey_is_scaled_not_clipped(dtype: str) -> None:
    values = np.array([[0, 256, 1000, 32768], [65535, 65407, 257, 128]] * 2, dtype=np.uint16)
    kind = "PNG" if dtype == ">u2" else "TIFF"
    expected = torch.tensor([[0, 1, 4, 128], [255, 255, 1, 0]] * 2, dtype=torch.uint8)
    assert torch.equal(GREY.decode(file(Image.fromarray(values), kind))[0], expected)
    assert torch.equal(RGB.decode(file(Image.fromarray(values), kind)), expected.expand(3, 4, 4))


def test_tiffs_of_32_bits_hold_16_bits_or_floats_in_0_to_1() -> None:
    whole = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.int32)
    floats = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    expected = torch.arange(0, 256, 17, dtype=torch.uint8).view(1, 4, 4)
    assert torch.equal(GREY.decode(file(Image.fromarray(whole), "TIFF")), expected)
    assert torch.equal(GREY.decode(file(Image.fromarray(floats), "TIFF")), expected)
    for bad in (whole * 2, -whole, floats * 300, floats * np.nan):
        with pytest.raises(UserError, match=r"scan\.tif .*grey values"):
            GREY.decode(file(Image.fromarray(bad), "TIFF"), "scan.tif")


@pytest.mark.parametrize(("mode", "channels"), [("I;16", 1), ("I;16", 3), ("RGBA", 3), ("LA", 1)])
def test_large_images_are_made_8_bit_in_strips(mode: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(dice.integers(0, 2**16, (50, 40), dtype=np.uint16))
    else:
        image = Image.fromarray(dice.integers(0, 256, (50, 40, len(mode)), dtype=np.uint8), mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    inputs = ImageInput(20, channels, (0.5,) * channels, (0.5,) * channels)
    whole = inputs.decode(file.getvalue())
    largest = 0
    for name in ("_scaled", "_on_white"):
        work = getattr(images, name)

        def spy(strip: Image.Image, work: Any = work) -> Image.Image:
            nonlocal largest
            largest = max(largest, strip.width * strip.height)
            return work(strip)

        monkeypatch.setattr(images, name, spy)
    monkeypatch.setattr(images, "_STRIP", 300)
    assert torch.equal(inputs.decode(file.getvalue()), whole)
    assert 0 < largest <= 300


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG", progressive=True)
    plain = file.getvalue()
    last = plain[plain.rindex(b"\xff\xda") : -2]  # some 100 bytes, for which every pixel is passed over again
    inputs = ImageInput(20, 1, (0.5,), (0.5,))
    assert inputs.decode(plain).shape == (1, 20, 20)
    with pytest.raises(UserError, match=r"^The image is a JPEG of more than 64 scans, the limit\."):
        inputs.decode(plain[:-2] + last * 100 + plain[-2:])


def test_alpha_is_laid_on_white() -> None:
    alpha = np.full((4, 4, 1), 255, dtype=np.uint8)
    alpha[0], alpha[1] = 0, 51  # clear, a fifth
    expected = COLOURS.copy()
    expected[0] = 255
    expected[1] = np.rint(COLOURS[1] * 0.2 + 255 * 0.8)
    rgba = RGB.decode(file(Image.fromarray(np.concatenate([COLOURS, alpha], 2))))
    assert (rgba.int() - chw(expected).int()).abs().max() <= 1
    la = GREY.decode(file(Image.fromarray(np.concatenate([COLOURS[:, :, :1], alpha], 2))))
    assert (la.int() - chw(expected).int()[:1]).abs().max() <= 1


def test_palettes_keep_their_colours_and_their_transparent_entry_is_white() -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1] * 8)
    for kind in ("PNG", "GIF"):
        plain = RGB.decode(file(image, kind))
        assert plain[:, 0, :2].T.tolist() == [[10, 20, 30], [200, 100, 50]]
        clear = RGB.decode(file(image, kind, transparency=1))
        assert clear[:, 0, :2].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk_jpegs_are_not_inverted() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    pixel = RGB.decode(file(red, "JPEG", quality=95))[:, 2, 2].tolist()
    assert np.allclose(pixel, [200, 30, 40], atol=6)


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = file(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert RGB.decode(data)[:, 1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("orientation", "turns", "mirrored"), [(3, 2, False), (6, 3, False), (8, 1, False), (2, 0, True)]
)
def test_photos_are_turned_upright_by_exif(orientation: int, turns: int, mirrored: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        upright = np.rot90(COLOURS, turns)
        upright = upright[:, ::-1] if mirrored else upright
        assert torch.equal(RGB.decode(file(Image.fromarray(COLOURS), kind, exif=exif)), chw(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_lose_the_picture() -> None:
    data = file(Image.new("RGB", (4, 4), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert RGB.decode(data).shape == (3, 4, 4)


def test_the_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    wide = Image.fromarray(np.random.default_rng(2).integers(0, 256, (8, 24, 3), dtype=np.uint8))
    expected = chw(np.asarray(wide.resize((12, 4), Image.Resampling.BILINEAR))[:, 4:8])
    assert torch.equal(RGB.decode(file(wide)), expected)
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    assert (RGB.decode(file(tall)).int() - expected.transpose(1, 2).int()).abs().max() <= 1
    fine = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # a checkerboard averages to grey
    assert (GREY.decode(file(Image.fromarray(fine))).int() - 127).abs().max() <= 2


def test_a_large_jpeg_read_at_a_fraction_looks_the_same() -> None:
    smooth = Image.fromarray(COLOURS).resize((600, 400), Image.Resampling.BICUBIC)
    small = ImageInput(28, 3, (0.5,) * 3, (0.25,) * 3)
    quick, whole = small.decode(file(smooth, "JPEG", quality=95)), small.decode(file(smooth))
    assert (quick.int() - whole.int()).abs().max() <= 6
    assert torch.equal(quick, small.decode(file(smooth, "JPEG", quality=95)))


def test_arrays_are_fitted_exactly_like_files() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    for channels in ([0], [0, 3], [0, 1, 2], [0, 1, 2, 3]):
        array = pixels[:, :, channels]
        data = file(Image.fromarray(array.squeeze()))
        for wanted in (RGB, GREY):
            assert torch.equal(wanted.fit(chw(array)), wanted.decode(data))
    with pytest.raises(ValueError, match="uint8"):
        RGB.fit(torch.rand(3, 4, 4))


def test_normalize_has_the_same_result_for_bytes_and_floats() -> None:
    image = ImageInput(4, 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    batch = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    mean, std = torch.tensor(image.mean).view(3, 1, 1), torch.tensor(image.std).view(3, 1, 1)
    result = image.normalize(batch)
    torch.testing.assert_close(result, (batch / 255 - mean) / std)
    assert torch.equal(result, image.normalize(batch.float()))
    last = image.normalize(batch.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="1 channels, not 3"):
        image.normalize(batch[:, :1])


def test_an_input_survives_json() -> None:
    image = ImageInput(32, 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert ImageInput.from_json(json.loads(json.dumps(image.to_json()))) == image
    for change in ({"size": 0}, {"channels": 2}, {"mean": [0.5]}, {"std": [0, 1, 1]}, {"std": None}, {"size": "big"}):
        with pytest.raises(UserError, match="not valid"):
            ImageInput.from_json({**image.to_json(), **change})
    with pytest.raises(UserError, match="not valid"):
        ImageInput.from_json({"size": 4})


def vast_png(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [30_000, 10_000])
def test_a_vast_image_is_refused_from_its_header(side: int, recwarn: pytest.WarningsRecorder) -> None:
    data = vast_png(side)
    images._pillow.cache_clear()  # pytest forgets its warning filters from test to test
    RGB.decode(file(Image.fromarray(COLOURS)))
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError, match=r"^vast\.png has more than 64 million pixels"):
        RGB.decode(data, "vast.png")
    assert time.perf_counter() - start < 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 20_000
    with pytest.raises(UserError, match="more than 64 million pixels"):
        check_header(data, "vast.png")
    assert not recwarn


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))
BAD = {
    "empty.jpg": (b"", r"empty\.jpg is empty"),
    "text.png": (b"this is not a picture, whatever its name says", r"text\.png is not an image"),
    "cut.jpg": (file(NOISE, "JPEG")[:-300], r"cut\.jpg is damaged"),
    "cut.png": (file(NOISE)[:-900], r"cut\.png is damaged"),
    "cut.webp": (file(NOISE, "WEBP")[:-300], r"cut\.webp is"),
    "cut.tif": (file(NOISE, "TIFF")[:-9000], r"cut\.tif is"),
    "head.gif": (b"GIF89a", r"head\.gif is"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_file_gives_a_line_with_its_name(name: str, tmp_path: Path) -> None:
    data, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    for source, given in ((path, ""), (data, name)):
        with pytest.raises(UserError, match=message) as caught:
            RGB.decode(source, given)
        assert "\n" not in caught.value.what
        assert caught.value.hint


def test_a_file_that_cannot_be_opened_gives_a_line_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png does not exist"):
        RGB.decode(tmp_path / "none.png")
    with pytest.raises(UserError, match="can't be read"):
        RGB.decode(tmp_path)


def test_programs_inside_images_are_never_run() -> None:
    with pytest.raises(UserError, match="not an image"):
        RGB.decode(file(Image.fromarray(COLOURS), "EPS"), "a.eps")
