"""Image to uint8 tensor: the one implementation, on the device, in training's evaluation, calibration and parity.

Against torchvision's presets on PIL images (``Resize(antialias) -> CenterCrop``) the result differs by 0 grey levels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgetl_runtime.errors import ImageError, UsageError
from edgetl_runtime.manifest import Preprocess

__all__ = ["ColorOrder", "ImageSource", "load_image", "preprocess", "resize_and_crop"]

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | npt.NDArray[np.uint8]"
ColorOrder: TypeAlias = Literal["RGB", "BGR"]

# Pillow's own limit for files, held again after resizing: a line of 1 x 10,000 pixels would take gigabytes.
_MAX_PIXELS = 2 * 89_478_485
_PILLOW_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,  # AVIF
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocess(source: ImageSource, spec: Preprocess, *, color: ColorOrder = "RGB") -> npt.NDArray[np.uint8]:
    """An image as the tensor that the model takes: (crop height, crop width, 3), uint8, RGB, 0..255.

    `color` is the channel order of a numpy array (OpenCV frames are "BGR"); other sources know their own.
    Raises `ImageError` when the image cannot be read.
    """
    return np.asarray(resize_and_crop(load_image(source, color=color), spec))


def load_image(source: ImageSource, *, color: ColorOrder = "RGB") -> Image.Image:
    """Decode to an upright RGB image (EXIF orientation applied).

    A numpy array is (H, W, 3), (H, W, 1) or (H, W), uint8. Raises `ImageError` when it cannot be read.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    if isinstance(source, Image.Image):
        with _readable("image object"):
            return _upright_rgb(source)
    if isinstance(source, bytes):
        with _readable(f"image of {len(source)} bytes"), Image.open(io.BytesIO(source)) as image:
            return _upright_rgb(image)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise ImageError(f"no image file at {path}", fix="check the path")
        with _readable(str(path)), Image.open(path) as image:
            return _upright_rgb(image)
    raise UsageError(
        f"cannot read an image from {type(source).__name__}",
        fix="pass a path, bytes, a PIL image or a numpy array (H, W, 3) of uint8",
    )


def resize_and_crop(image: Image.Image, spec: Preprocess) -> Image.Image:
    """Shorter side to ``spec.resize``, then the centre ``spec.crop``.

    Sizes and offsets are torchvision's: the longer side is truncated, the crop offset is rounded half to even.
    """
    if spec.interpolation not in _FILTERS:
        raise UsageError(f"unknown interpolation {spec.interpolation!r}", fix=f"one of: {', '.join(_FILTERS)}")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != spec.resize:
        new_long = int(spec.resize * long / short)
        if spec.resize * new_long > _MAX_PIXELS:
            raise ImageError(
                f"an image of {width}x{height} pixels is too long and thin: resized it has {spec.resize}x{new_long}",
                fix="crop it first",
            )
        size = (spec.resize, new_long) if width <= height else (new_long, spec.resize)
        image = image.resize(size, _FILTERS[spec.interpolation])
    width, height = image.size
    crop_height, crop_width = spec.crop
    if crop_height > height or crop_width > width:
        image = _pad_to(image, crop_height, crop_width)
        width, height = image.size
    top, left = round((height - crop_height) / 2.0), round((width - crop_width) / 2.0)
    return image.crop((left, top, left + crop_width, top + crop_height))


def _pad_to(image: Image.Image, height: int, width: int) -> Image.Image:
    """Black borders up to at least (height, width), as torchvision's center_crop adds them."""
    missing_width, missing_height = max(width - image.width, 0), max(height - image.height, 0)
    border = (
        missing_width // 2,
        missing_height // 2,
        (missing_width + 1) // 2,
        (missing_height + 1) // 2,
    )
    return ImageOps.expand(image, border, fill=0)


def _from_array(array: npt.NDArray[np.uint8], color: ColorOrder) -> Image.Image:
    if color not in ("RGB", "BGR"):
        raise UsageError(f"unknown colour order {color!r}", fix='color="RGB" or color="BGR"')
    if array.dtype != np.uint8:
        raise ImageError(
            f"an image array must be uint8, this one is {array.dtype}",
            fix="scale it to 0..255 and use .astype(numpy.uint8)",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"an image array must be (H, W, 3) or (H, W), this one is {array.shape}",
            fix="pass one image at a time, channels last",
        )
    if array.ndim == 3 and color == "BGR":
        array = array[:, :, ::-1]
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's convert clips 16-bit greys at 255, which leaves a white image; the high byte is what it takes of
        # 16-bit colours.
        upright = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint32)
        return Image.fromarray((upright >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range, convert them to 8 bits first")
    return ImageOps.exif_transpose(image).convert("RGB")


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Pillow's many ways to fail on a damaged file, as one error."""
    try:
        yield
    except _PILLOW_FAILURES as error:
        raise ImageError(f"cannot read {what}: {error}", fix="replace or remove the image") from error
