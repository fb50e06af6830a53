"""Resizing as TensorFlow does it: nearest, and bilinear without antialias.

``tf_image_resize.npz`` has what `tf.image.resize` of TensorFlow 2.21 makes of the images of `image`, bilinear values
times 8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.preprocess import preprocess

GOLDEN = np.load(Path(__file__).with_name("tf_image_resize.npz"))


def image(height: int, width: int) -> npt.NDArray[np.uint8]:
    y, x, c = np.mgrid[:height, :width, :3]
    return np.asarray((y * 37 + x * 59 + c * 101 + (x * y) % 83 * 3) % 256, np.uint8)


@pytest.mark.parametrize("name", GOLDEN.files)
def test_pixels_are_those_of_tensorflow_within_a_level(name: str) -> None:
    method, *sides = name.split("_")
    height, width, rows, columns = map(int, sides)
    interpolation = {"bilinear": "bilinear_no_antialias", "nearest": "nearest"}[method]
    spec = Preprocess(0, (rows, columns), interpolation, mode="stretch")
    given = preprocess(image(height, width), spec).astype(np.float64)
    wanted = GOLDEN[name].astype(np.float64) / (8 if method == "bilinear" else 1)
    assert np.abs(given - wanted).max() <= (0.6 if method == "bilinear" else 0)


@pytest.mark.parametrize("interpolation", ["bilinear_no_antialias", "nearest"])
def test_a_letterbox_has_its_photo_in_the_middle_and_a_crop_its_centre(interpolation: str) -> None:
    photo = np.full((20, 40, 3), 200, np.uint8)
    boxed = preprocess(photo, Preprocess(0, (16, 16), interpolation, mode="letterbox"))
    assert (boxed[4:12] == 200).all()
    assert not boxed[:4].any()
    assert not boxed[12:].any()
    wide = np.arange(40, dtype=np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2)
    cropped = preprocess(wide, Preprocess(20, (20, 20), interpolation))
    assert np.array_equal(cropped, wide[:, 10:30])


def test_grey_images_and_more_channels_are_resized_alike() -> None:
    spec = Preprocess(0, (8, 8), "bilinear_no_antialias", mode="stretch")
    colour = preprocess(image(20, 20), spec)
    grey = preprocess(image(20, 20)[..., :1], Preprocess(0, (8, 8), "bilinear_no_antialias", 1, mode="stretch"))
    assert np.array_equal(grey[..., 0], colour[..., 0])
    four = np.concatenate((image(20, 20), image(20, 20)[..., :1]), 2)
    assert np.array_equal(
        preprocess(four, Preprocess(0, (8, 8), "bilinear_no_antialias", 4, mode="stretch"))[..., :3], colour
    )


def test_old_records_of_preprocessing_stay_as_they_are() -> None:
    assert Preprocess(256, (224, 224)).fields() == {
        "resize": 256,
        "crop": (224, 224),
        "interpolation": "bilinear",
        "channels": 3,
    }
    assert Preprocess(0, (8, 8), "nearest", mode="stretch").problem is None
