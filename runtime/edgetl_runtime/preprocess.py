"""Image to uint8 tensor: the one implementation, on the device, in training's evaluation, calibration and parity.

Against torchvision's presets on PIL images (``Resize(antialias) -> CenterCrop``) the result differs by 0 grey levels.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgetl_runtime.errors import ImageError, UsageError
from edgetl_runtime.files import NOT_THERE, NotRegularError, open_regular, read_bounded
from edgetl_runtime.manifest import Preprocess
from edgetl_runtime.placing import MOST_PIXELS, Placed, place
from edgetl_runtime.reduced import View, least_side, reduce_jpeg, upright_view
from edgetl_runtime.resizing import resize_part
from edgetl_runtime.sources import HasBytes, HasRead, ImageSource, name_of, read_source

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "ColorOrder",
    "ImageSource",
    "file_content",
    "load_bands",
    "load_image",
    "preprocess",
    "preprocess_placed",
    "resize_and_crop",
    "stack_bands",
]


ColorOrder: TypeAlias = Literal["RGB", "BGR"]

_MAX_PIXELS = MOST_PIXELS
_PILLOW_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # AVIF
    SyntaxError,
    TypeError,
    ValueError,
    Warning,  # where warnings are errors
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of EXIF's Orientation, which Pillow also finds in XMP."""
_ORIENTATION_TAG = 0x0112
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_PROGRAMS = ("EPS", "WMF")
"""Formats that another program would have to draw."""
_MODES = {1: "L", 3: "RGB"}
"""What every image is converted to for a model of so many channels. For others an image must have their number."""
_MULTIBAND = {2: ("LA", "La"), 4: ("RGBA", "RGBX", "RGBa")}
_NPY = b"\x93NUMPY"
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_SAMPLED = ("nearest", "bilinear_no_antialias")
"""Ways that look at single pixels of the photo (`edgetl_runtime.sampling`)."""


def preprocess(source: ImageSource, spec: Preprocess, *, color: ColorOrder = "RGB") -> npt.NDArray[np.uint8]:
    """An image as the tensor that the model takes: (crop height, crop width, channels), uint8, 0..255.

    One channel is the luminance (ITU-R 601-2), three are RGB, any other number is the image's own. `color` is the
    channel order of a numpy array of colours (OpenCV frames are "BGR"); other sources know their own.
    Raises `ImageError` when the image cannot be read or has another number of channels.
    """
    return preprocess_placed(source, spec, color=color)[0]


def preprocess_placed(
    source: ImageSource, spec: Preprocess, *, color: ColorOrder = "RGB"
) -> tuple[npt.NDArray[np.uint8], Placed]:
    """What `preprocess` gives, and where the upright photo lies in it: what maps boxes and masks back to its pixels."""
    # Channels of an array are resized each by itself: they may change places at the end, where there are fewer pixels.
    swapped = spec.channels == 3 and isinstance(source, np.ndarray) and isinstance(color, str) and color == "BGR"
    bands, view = _decoded(source, spec.channels, "RGB" if swapped else color, least_side(spec))
    placed = place(bands[0].size if view is None else view.size, spec)
    small = [resize_and_crop(band, spec, view) for band in bands]
    if spec.channels != 3:
        return stack_bands(small), placed
    pixels = np.asarray(small[0])
    return np.ascontiguousarray(pixels[:, :, ::-1]) if swapped else pixels, placed


def load_image(source: ImageSource, *, color: ColorOrder = "RGB") -> Image.Image:
    """Decode to an upright RGB image (EXIF orientation applied).

    A numpy array is (H, W, 3), (H, W, 1) or (H, W), uint8. Raises `ImageError` when it cannot be read.
    """
    return load_bands(source, 3, color=color)[0]


def load_bands(source: ImageSource, channels: int, *, color: ColorOrder = "RGB") -> tuple[Image.Image, ...]:
    """Decode to upright images, each to be resized by itself, for a model of so many `channels`.

    One grey image (mode L) for 1 channel, one RGB image for 3. For any other number, so many grey images: the source
    is then a uint8 array (H, W, channels), a ``.npy`` file of one, or an image file with so many bands (RGBA for 4).
    Raises `ImageError` when it cannot be read or has another number of channels.
    """
    return _decoded(source, channels, color, None).bands


class _Decoded(NamedTuple):
    """Upright images, and where the whole photo lies in each when they are reduced."""

    bands: tuple[Image.Image, ...]
    view: View | None = None


def _decoded(source: ImageSource, channels: int, color: ColorOrder, side: int | None) -> _Decoded:
    """`load_bands`; JPEG files reduced, as long as their shorter side keeps `side` pixels."""
    _check_asked(color, channels)
    if isinstance(source, np.ndarray):
        return _Decoded(_from_array(source, color, channels))
    if isinstance(source, Image.Image):
        with _readable("image object"):
            bands = _upright_bands(source, channels, "image object", None).bands
            return _Decoded(tuple(band.copy() if band is source else band for band in bands))
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        return _from_bytes(content, f"image of {len(content)} bytes", color, channels, side)
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        with _image_file(path) as file:
            if path.lower().endswith(".npy"):
                return _Decoded(_from_npy(file, path, color, channels))
            # The file and not its path, which Pillow would open once more to map pixels that are not compressed.
            with _opened(file, path) as image:
                return _upright_bands(image, channels, path, side)
    return _from_bytes(_read(source), name_of(source), color, channels, side)


def file_content(source: ImageSource) -> bytes | Image.Image | npt.NDArray[np.uint8]:
    """The bytes of the image file that a source is, names or gives; pixels as they are. Raises `ImageError`."""
    if isinstance(source, (bytes, np.ndarray, Image.Image)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        with _image_file(os.fsdecode(source)) as file:
            return read_bounded(file)
    return _read(source)


def _read(source: HasBytes | HasRead) -> bytes:
    import zipfile  # not needed for paths and frames, so that they start without it

    with _readable(name_of(source)):
        try:
            return read_source(source)
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error


def _check_asked(color: object, channels: int) -> None:
    if not isinstance(color, str) or color not in ("RGB", "BGR"):
        raise UsageError(f"unknown colour order {color!r:.60}", fix='color="RGB" or color="BGR"')
    if channels < 1:
        raise UsageError(f"an image cannot have {channels} channels", fix="1 or more, as the model's")
    if color == "BGR" and channels not in _MODES:
        raise UsageError(
            f'color="BGR" says nothing of an image of {channels} channels', fix="leave it out, in the model's order"
        )


def stack_bands(bands: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
    """(H, W, channels) uint8 of what `load_bands` gave, each band resized and cropped to the same size."""
    if len(bands) > 1:
        return np.ascontiguousarray(np.dstack([np.asarray(band) for band in bands]))
    pixels = np.asarray(bands[0])
    return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]


def resize_and_crop(image: Image.Image, spec: Preprocess, view: View | None = None) -> Image.Image:
    """An upright image brought to ``spec.crop``, where `edgetl_runtime.placing.place` puts it; borders are black.

    With `view` the image is a reduced one of a photo, and sizes and places are those of the whole photo.
    """
    if spec.interpolation in _SAMPLED:
        from edgetl_runtime.sampling import sampled  # seldom needed

        return sampled(image, spec, view)
    if spec.interpolation not in _FILTERS:
        known = ", ".join((*_FILTERS, *_SAMPLED))
        raise UsageError(f"unknown interpolation {spec.interpolation!r}", fix=f"one of: {known}")
    whole = image.size if view is None else view.size
    placed = place(whole, spec)
    resample, (width, height) = _FILTERS[spec.interpolation], placed.resized
    part = (-placed.left, -placed.top, placed.tensor[0] - placed.left, placed.tensor[1] - placed.top)
    if min(part[:2]) >= 0 and part[2] <= width and part[3] <= height:
        if view is not None:
            return image.resize(placed.tensor, resample, _part_of(view, placed.resized, part))
        return image.crop(part) if placed.resized == whole else resize_part(image, placed.resized, part, resample)
    bordered = Image.new(image.mode, placed.tensor)
    box = None if view is None else view.box
    resized = image if placed.resized == whole else image.resize(placed.resized, resample, box)
    bordered.paste(resized, (placed.left, placed.top))
    return bordered


def _part_of(view: View, size: tuple[int, int], part: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Where `part` (left, top, right, bottom) of a photo resized to `size` lies in its reduced image."""
    left, top, right, bottom = view.box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    return left + part[0] * across, top + part[1] * down, left + part[2] * across, top + part[3] * down


def _from_bytes(content: bytes, what: str, color: ColorOrder, channels: int, side: int | None) -> _Decoded:
    if content.startswith(_NPY):
        return _Decoded(_from_npy(io.BytesIO(content), what, color, channels))
    with _readable(what), _opened(io.BytesIO(content), what) as image:
        return _upright_bands(image, channels, what, side)


def _opened(file: BinaryIO, what: str) -> Image.Image:
    """As Pillow opens it, with its plug-in for photos of phones where the file is one."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        from edgetl_runtime.heif import is_heif, register_heif  # seldom needed

        file.seek(0)
        if not is_heif(file.read(12)):
            raise
        register_heif(what)
        return Image.open(file)


def _from_npy(file: BinaryIO, what: str, color: ColorOrder, channels: int) -> tuple[Image.Image, ...]:
    from edgetl_runtime.npy import read_npy  # seldom needed

    return _from_array(read_npy(file, what, most_bytes=_MAX_PIXELS * max(3, channels)), color, channels, what)


def _from_array(
    array: npt.NDArray[np.uint8], color: ColorOrder, channels: int, what: str = "an image array"
) -> tuple[Image.Image, ...]:
    if array.dtype != np.uint8:
        raise ImageError(
            f"{what} must be uint8, this one is {array.dtype}",
            fix="scale it to 0..255 and use .astype(numpy.uint8)",
        )
    depth = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if array.size == 0 or depth not in ((1, 3) if channels in _MODES else (channels,)):
        wanted = "(H, W, 3) or (H, W)" if channels in _MODES else f"(H, W, {channels})"
        raise ImageError(
            f"{what} must be {wanted}, this one is {array.shape}",
            fix=_advice(array.shape, 3 if channels == 1 else channels),
        )
    if array.shape[0] * array.shape[1] > _MAX_PIXELS:
        raise ImageError(
            f"{what} of {array.shape[1]}x{array.shape[0]} pixels is too large", fix="make it smaller first"
        )
    if type(array) is not np.ndarray and np.ma.is_masked(array):
        raise ImageError(f"{what} has masked pixels", fix="give them a colour first: array.filled(0)")
    if channels not in _MODES:
        return tuple(Image.fromarray(np.ascontiguousarray(array[:, :, band])) for band in range(channels))
    if depth == 1:
        array = array.reshape(array.shape[:2])
    elif color == "BGR":
        array = array[:, :, ::-1]
    return (_converted(Image.fromarray(np.ascontiguousarray(array)), _MODES[channels]),)


def _advice(shape: tuple[int, ...], channels: int) -> str:
    """What to do about an array of that shape, for a model of so many channels (3 for those that take colours)."""
    if 0 in shape:
        return "it has no pixels: look where it comes from"
    if len(shape) == 4:
        return "pass one image at a time: array[0]"
    if len(shape) == 3 and shape[0] in (1, channels):
        return "channels come last: array.transpose(1, 2, 0)"
    if len(shape) == 3 and (channels, shape[2]) == (3, 4):
        return 'leave the fourth channel (transparency) out: array[:, :, :3], with color="BGR" if it is BGRA'
    if len(shape) == 3 and (channels, shape[2]) == (3, 2):
        return "leave the second channel (transparency) out: array[:, :, 0]"
    return f"(height, width, {channels}), channels last"


def _upright_bands(image: Image.Image, channels: int, what: str, side: int | None) -> _Decoded:
    kind, (width, height) = image.format, image.size
    if kind in _PROGRAMS:
        raise ValueError(f"{kind} files are drawings, not pixels")
    if width < 1 or height < 1:
        raise ValueError("it has no pixels")
    if width * height > _MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are too many")
    view = None if side is None else reduce_jpeg(image, side)
    image.load()  # in some formats what is known of an image stands behind its pixels
    method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    if view is not None:
        view = upright_view(view, method, image.size)
    if method is not None:
        # Not Pillow's exif_transpose, which also copies images that are upright, and writes all of EXIF again.
        image = image.transpose(method)
        for key in _ORIENTATION_KEYS:
            image.info.pop(key, None)
    if channels not in _MODES:
        if image.mode not in _MULTIBAND.get(channels, ()):
            bands = image.getbands()
            raise ImageError(
                f"{what} has {len(bands)} channel{'s' if len(bands) > 1 else ''} ({image.mode}), the model takes "
                f"{channels}",
                fix=f"give it {'an RGBA image or ' if channels == 4 else ''}a uint8 array (H, W, {channels}), also as "
                "a .npy file",
            )
        return _Decoded(image.split(), view)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        # Pillow's convert clips 16-bit greys at 255, which leaves a white image; the high byte is what it takes of
        # 16-bit colours.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range, convert them to 8 bits first")
    return _Decoded((_converted(image, _MODES[channels]),), view)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # to convert to the same mode is a copy


@contextmanager
def _image_file(path: str) -> Iterator[BinaryIO]:
    """An image file, open to be read. Raises `ImageError`."""
    with _readable(path):
        try:
            file = open_regular(path)
        except NotRegularError as error:
            raise ImageError(f"{path} is no image file, but a pipe or a device", fix="name a regular file") from error
        except (OSError, ValueError) as error:  # a NUL ends a name in the operating system
            if isinstance(error, OSError) and error.errno not in (*NOT_THERE, errno.EISDIR):
                raise
            if isinstance(error, OSError) and error.errno == errno.EISDIR:
                raise ImageError(f"{path} is a folder", fix=f"name the images in it: {path}/*.jpg") from error
            raise ImageError(f"no image file at {path}", fix="check the path") from error
        with file:
            yield file


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Pillow's many ways to fail on a damaged file, as one error."""
    try:
        yield
    except _PILLOW_FAILURES as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose text has the path again, or the address of an object
            reason = "cannot identify the format of the image"
        raise ImageError(f"cannot read {what}: {reason}", fix="replace or remove the image") from error
