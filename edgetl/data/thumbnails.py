"""Thumbnails of images as data URIs, so that a report shows what it speaks of and still is one file."""

from __future__ import annotations

import base64
import io

from PIL import Image

from edgetl.data.dataset import Sample
from edgetl_runtime.errors import EdgetlError
from edgetl_runtime.preprocess import load_bands

__all__ = ["BUDGET", "Thumbnails"]

_SIDE = 96
"""Pixels of the longer side: twice the 48 CSS pixels that a phone shows, so that it is sharp there too."""

_QUALITY = 70
BUDGET = 512 * 1024


class Thumbnails:
    """Makes thumbnails until together they are as large as a report should carry.

    One object serves one report. ``budget`` is in bytes of data URIs; an image that is asked for again counts again,
    because the report holds its URI again. Of images of 2 ``channels`` the first is shown, of more than 3 the first
    three as red, green and blue.
    """

    def __init__(self, budget: int = BUDGET, *, channels: int = 3) -> None:
        self._left, self._channels = budget, channels
        self._made: dict[Sample, str | None] = {}

    def __call__(self, sample: Sample) -> str | None:
        """A JPEG data URI of the image, upright, at most 96 pixels wide and high.

        ``None`` when the budget is spent, or the image is no longer there to be read.
        """
        if sample not in self._made:
            self._made[sample] = _data_uri(sample, self._channels)
        uri = self._made[sample]
        if uri is None or len(uri) > self._left:
            return None
        self._left -= len(uri)
        return uri


def _data_uri(sample: Sample, channels: int) -> str | None:
    try:
        bands = load_bands(sample.source, channels)
    except EdgetlError:
        return None
    image = Image.merge("RGB", bands[:3]) if len(bands) > 2 else bands[0]
    scale = _SIDE / max(image.size)
    # Tiny images, such as digits of 8 pixels, grow to the same size, and their pixels stay visible.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    small = image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))), method)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
