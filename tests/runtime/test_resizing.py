"""A part of a resized image has the pixels that the whole one has there."""

from __future__ import annotations

import numpy as np
import PIL
import pytest
from PIL import Image

from edgetl_runtime import resizing
from edgetl_runtime.resizing import resize_part

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def differing(image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int], resample: int) -> int:
    """Values of `part` that are not those of the whole image, resized."""
    kind = Image.Resampling(resample)
    whole = np.asarray(image.resize(size, kind).crop(part))
    return int((np.asarray(resize_part(image, size, part, kind)) != whole).sum())


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of the images that Pillow was asked to resize."""
    found: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(self: Image.Image, *args: object, **named: object) -> Image.Image:
        found.append(self.size)
        return resize(self, *args, **named)  # type: ignore[arg-type] # handed through

    monkeypatch.setattr(Image.Image, "resize", noted)
    return found


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
def test_random_sizes_and_parts_have_the_same_pixels(resample: Image.Resampling) -> None:
    rng = np.random.default_rng(resample)
    split = 0
    for number in range(1200):
        width, height = (int(value) for value in rng.integers(1, 160, 2))
        new = (int(rng.integers(1, width + 9)), int(rng.integers(1, height + 9)))
        if number % 2:  # as for a photo: the shorter side to a size, the longer one truncated
            short = int(rng.integers(1, min(width, height) + 1))
            long = int(short * max(width, height) / min(width, height))
            new = (short, long) if width <= height else (long, short)
        left, top = int(rng.integers(new[0])), int(rng.integers(new[1]))
        part = (left, top, int(rng.integers(left, new[0])) + 1, int(rng.integers(top, new[1])) + 1)
        split += resizing._rows_first((width, height), new)
        assert not differing(noise(width, height, "RGB" if number % 3 else "L"), new, part, resample), (
            (width, height),
            new,
            part,
        )
    assert split > 300


@pytest.mark.parametrize("size", [(480, 360), (360, 480), (481, 321), (333, 500), (640, 480), (300, 300)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (183, 160)])
def test_photos_have_the_same_pixels(size: tuple[int, int], resize: int, crop: int) -> None:
    width, height = size
    long = int(resize * max(size) / min(size))
    new = (resize, long) if width <= height else (long, resize)
    left, top = round((new[0] - crop) / 2), round((new[1] - crop) / 2)
    assert resizing._rows_first(size, new)
    for resample in (BILINEAR, BICUBIC):
        assert not differing(noise(width, height), new, (left, top, left + crop, top + crop), resample)


def test_rows_and_columns_that_are_not_kept_are_left_out(resized: list[tuple[int, int]]) -> None:
    resize_part(noise(480, 360), (341, 256), (58, 16, 282, 240), BILINEAR)
    (width, height), (columns, rows) = resized
    assert (width, columns, rows) == (480, 224, 360)
    assert height < 325


def test_a_row_too_few_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = resizing._rows_needed

    def too_few(*sizes: int, **named: int) -> tuple[int, int]:
        first, last = needed(*sizes, **named)  # type: ignore[arg-type, misc] # handed through
        return first + 2, last - 2

    monkeypatch.setattr(resizing, "_rows_needed", too_few)
    assert differing(noise(480, 360), (341, 256), (58, 16, 282, 240), BICUBIC)


@pytest.mark.parametrize("version", ["13.1.0", "14.0.0", "unknown", ""])
def test_an_unknown_pillow_resizes_the_whole_image(
    version: str, resized: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL, "__version__", version)
    resizing._pillow_version.cache_clear()
    resize_part(noise(480, 360), (341, 256), (58, 16, 282, 240), BILINEAR)
    resizing._pillow_version.cache_clear()
    assert resized == [(480, 360)]


@pytest.mark.parametrize("version", ["10.4.0", "12.3.0.dev0", "13.0.1"])
def test_a_known_pillow_is_told_by_its_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL, "__version__", version)
    resizing._pillow_version.cache_clear()
    found = resizing._pillow_version()
    resizing._pillow_version.cache_clear()
    assert found <= (13, 0)
