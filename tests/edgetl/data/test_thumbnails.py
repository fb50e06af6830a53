from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.data.dataset import Sample
from edgetl.data.thumbnails import Thumbnails


def decoded(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((640, 480), (96, 72)), ((480, 640), (72, 96)), ((8, 8), (96, 96)), ((1000, 1), (96, 1)), ((96, 96), (96, 96))],
)
def test_the_longer_side_is_96_pixels(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    assert decoded(Thumbnails()(Sample(pixels, 0, "a"))).size == wanted


def test_a_photo_that_lies_on_its_side_is_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise to show it
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    small = decoded(Thumbnails()(Sample(tmp_path / "a.jpg", 0, "a")))
    assert small.size == (48, 96)
    top, bottom = small.getpixel((24, 10)), small.getpixel((24, 85))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > 60 > top[2]
    assert bottom[2] > 200 > 60 > bottom[0]


def test_together_they_stay_below_the_budget() -> None:
    samples = [Sample(np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8), 0, str(i)) for i in range(9)]
    thumbnails = Thumbnails(budget=30_000)
    made = [thumbnails(sample) for sample in samples]
    sizes = [len(uri) for uri in made if uri is not None]
    assert 2 <= len(sizes) < 9
    assert sum(sizes) <= 30_000
    one = Thumbnails(budget=2 * len(made[0] or "") + 10)
    assert [one(samples[0]) is not None for _ in range(4)] == [True, True, False, False], "every URI counts"


def test_an_image_that_is_gone_has_none(tmp_path: Path) -> None:
    assert Thumbnails()(Sample(tmp_path / "gone.jpg", 0, "gone")) is None


def test_the_image_of_the_caller_stays_as_it_is() -> None:
    image = Image.new("RGB", (300, 200))
    assert decoded(Thumbnails()(Sample(image, 0, "a"))).size == (96, 64)
    assert image.size == (300, 200)
