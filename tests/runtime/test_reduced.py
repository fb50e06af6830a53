"""``decode = "scaled"``: large JPEG files at a fraction of their size, in the same place; all else as ever."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime import ImageError, Preprocess, preprocess
from edgetl_runtime.preprocess import load_image
from edgetl_runtime.reduced import reduce_jpeg

EXACT = Preprocess(resize=36, crop=(32, 32))
SCALED = replace(EXACT, decode="scaled")
SIZES = [(640, 480), (480, 640), (1001, 601), (601, 1003), (577, 577), (583, 2001), (1153, 1159)]
MODES = {"RGB": {}, "L": {}, "CMYK": {}, "progressive": {"progressive": True}, "no subsampling": {"subsampling": 0}}


def scene(size: tuple[int, int]) -> Image.Image:
    """Smooth shades, and a bright square off the centre: it tells where everything is."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([200 * x, 200 * y, 100 + 80 * np.sin(7 * x + 5 * y)], axis=2)
    pixels[(abs(x - 0.4) < 0.1) & (abs(y - 0.6) < 0.07)] = 250
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(content, "JPEG", quality=95, exif=exif, **options)
    return content.getvalue()


def differences(content: bytes, exact: Preprocess = EXACT) -> npt.NDArray[np.int64]:
    other = preprocess(content, replace(exact, decode="scaled"))
    assert other.dtype == np.uint8
    assert other.shape == (*exact.crop, exact.channels)
    return np.abs(other.astype(int) - preprocess(content, exact))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", SIZES)
def test_a_reduced_photo_lies_where_the_whole_one_does(size: tuple[int, int], orientation: int) -> None:
    """Where the last pixels count as whole ones it is 27 to 123 levels at the sides of the square."""
    found = differences(jpeg(scene(size), orientation))
    assert 0 < found.max() <= 12
    assert found.mean() < 0.5


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_jpeg(kind: str, channels: int) -> None:
    mode = kind if kind in ("L", "CMYK") else "RGB"
    found = differences(jpeg(scene((1001, 601)).convert(mode), **MODES[kind]), replace(EXACT, channels=channels))
    assert 0 < found.max() <= 12


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [(32, 32), (36, 60), (20, 36), (48, 48), (36, 90)])
def test_every_crop_also_one_that_is_larger_than_the_image(crop: tuple[int, int], interpolation: str) -> None:
    found = differences(jpeg(scene((1003, 601))), Preprocess(36, crop, interpolation))
    assert 0 < found.max() <= 12


@pytest.mark.parametrize(
    ("side", "expected"),
    [(143, 143), (144, 72), (287, 144), (288, 72), (575, 144), (576, 72), (1151, 144), (1152, 144), (3000, 375)],
)
def test_no_more_is_left_out_than_resizing_can_spare(side: int, expected: int) -> None:
    """Half, a quarter or an eighth, while twice the 36 pixels of resizing are left."""
    with Image.open(io.BytesIO(jpeg(scene((side, side + 40))))) as image:
        view = reduce_jpeg(image, 2 * SCALED.resize)
        assert image.width == expected
        assert (view is None) == (side == expected)


@pytest.mark.parametrize("size", [(143, 200), (60, 143), (36, 36), (20, 900), (140, 140)])
def test_small_jpegs_are_decoded_as_ever(size: tuple[int, int]) -> None:
    assert differences(jpeg(scene(size))).max() == 0


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_are_decoded_as_ever(kind: str) -> None:
    content = io.BytesIO()
    scene((640, 480)).save(content, kind)
    assert differences(content.getvalue()).max() == 0


def test_arrays_and_pil_images_are_taken_as_they_are() -> None:
    image = Image.open(io.BytesIO(jpeg(scene((640, 480)))))
    np.testing.assert_array_equal(preprocess(image, SCALED), preprocess(image, EXACT))
    assert image.size == (640, 480)
    array = np.asarray(image)
    for color in ("RGB", "BGR"):
        np.testing.assert_array_equal(preprocess(array, SCALED, color=color), preprocess(array, EXACT, color=color))


def test_a_path_bytes_and_an_open_file_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(scene((1001, 601)), 6))
    expected = preprocess(path, SCALED)
    assert (expected != preprocess(path, EXACT)).any()
    for source in (str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(preprocess(source, SCALED), expected)
    assert load_image(path).size == (601, 1001)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_a_cut_file_is_refused_all_the_same(share: float) -> None:
    content = jpeg(scene((1001, 601)))
    for spec in (EXACT, SCALED):
        with pytest.raises(ImageError):
            preprocess(content[: int(share * len(content))], spec)


def test_files_of_exact_are_what_they_were_and_scaled_is_told() -> None:
    assert EXACT.fields() == {"resize": 36, "crop": (32, 32), "interpolation": "bilinear", "channels": 3}
    assert SCALED.fields() == {**EXACT.fields(), "decode": "scaled"}
    assert "decode 'half'" in str(replace(EXACT, decode="half").problem)
