"""Results drawn into photos: boxes with captions, and masks as tints; Pillow only, and its own font."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

__all__ = ["check_drawings", "colour_of", "draw_boxes", "save_drawing"]

_COLOURS = (
    (230, 25, 75),
    (0, 130, 200),
    (245, 130, 48),
    (60, 180, 75),
    (145, 30, 180),
    (0, 170, 170),
    (240, 50, 230),
    (128, 128, 0),
    (170, 110, 40),
    (0, 0, 128),
)
"""Told apart beside each other, also by most who see few colours. The next ten labels have them dark, then pale."""
_WIDTH_SHARE, _TEXT_SHARE = 0.004, 0.026
"""Of the mean of the photo's sides."""
_LEAST_TEXT = 10


def colour_of(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a label, by its index; the same in every picture."""
    red, green, blue = _COLOURS[label % len(_COLOURS)]
    towards, share = ((0, 0.0), (0, 0.5), (255, 0.6))[label // len(_COLOURS) % 3]
    mixed = [round(level + share * (towards - level)) for level in (red, green, blue)]
    return mixed[0], mixed[1], mixed[2]


def draw_boxes(
    photo: Image.Image, boxes: npt.NDArray[np.float32], labels: Sequence[int], captions: Sequence[str]
) -> Image.Image:
    """A copy of `photo` with boxes (n, 4) - left, top, right, bottom in pixels - and a caption at each.

    The first box is drawn last, so that the best one lies on top.
    """
    from PIL import ImageDraw

    drawn = photo.convert("RGB")
    side = (drawn.width + drawn.height) / 2
    width, size = max(1, round(side * _WIDTH_SHARE)), max(_LEAST_TEXT, round(side * _TEXT_SHARE))
    pen, font = ImageDraw.Draw(drawn), _font(size)
    for box, label, caption in reversed(list(zip(np.asarray(boxes).tolist(), labels, captions, strict=True))):
        colour = colour_of(label)
        left, top, right, bottom = box
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
        if caption:
            x1, y1, x2, y2 = pen.textbbox((0, 0), caption, font=font)
            high, long = y2 - y1 + 2, x2 - x1 + 4
            x = min(max(0.0, left), max(0.0, drawn.width - long))
            y = top - high if top >= high else min(top, drawn.height - high)
            pen.rectangle((x, y, x + long, y + high), fill=colour)
            pen.text((x + 2 - x1, y + 1 - y1), caption, fill=(255, 255, 255), font=font)
    return drawn


def _font(size: int) -> Any:
    """Pillow's own font; of one size where Pillow is older than 10.1 or has no FreeType."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def check_drawings(destination: str, images: Sequence[str]) -> dict[str, str]:
    """Image -> the file that its drawing goes to: `destination`, or one in it where that is a folder.

    Raises `UsageError` for several images and one file, or two of one name; `OutputError` for what cannot be written.
    """
    from pathlib import Path

    from edgetl_runtime.errors import UsageError
    from edgetl_runtime.writing import check_writable

    images = list(dict.fromkeys(images))
    if not Path(destination).is_dir():
        if len(images) > 1:
            raise UsageError(
                f"--draw {destination} is one file for {len(images)} images", fix="name a folder that is there"
            )
        check_writable(destination, option="--draw")
        return dict.fromkeys(images, destination)
    files = {image: str(Path(destination, Path(image).stem + ".jpg")) for image in images}
    if len(set(files.values())) < len(files):
        raise UsageError("two of the images have the same name", fix="draw them one after the other")
    return files


def save_drawing(drawn: Image.Image, destination: str) -> None:
    """Write a drawing, in the format that the file's name ends with. Raises `OutputError`."""
    from edgetl_runtime.errors import OutputError

    try:
        drawn.save(destination, quality=92) if destination.lower().endswith((".jpg", ".jpeg")) else drawn.save(
            destination
        )
    except (OSError, ValueError) as error:  # ValueError: an ending that is no format
        raise OutputError(f"cannot write {destination}: {error}", fix="a name that ends with .jpg or .png") from error
