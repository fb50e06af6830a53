"""What a segmenter says of a photo: the label of every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgetl_runtime.drawing import colour_of
from edgetl_runtime.errors import UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Label
from edgetl_runtime.placing import Placed
from edgetl_runtime.results import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from PIL import Image

__all__ = ["UNSEEN", "WITH_LOGITS", "Segmentation", "mask_colours"]

UNSEEN = 255
"""In a mask: a pixel without a label, because the network did not see it. In the truth: one that does not count."""
WITH_LOGITS = "a file that was exported without its argmax inside"
"""What has probabilities and smooth edges."""
_CLEAR = ("background", "_background_", "unlabeled", "unlabelled", "void")
"""Labels that an overlay leaves clear."""


@dataclass(frozen=True)
class Segmentation(Result):
    """The label of every pixel of a photo.

    ``mask`` is uint8 (H, W), of the size of the upright original photo: the index in ``labels``, or `UNSEEN` where the
    photo was cropped before the network saw it. ``logits`` (h, w, C) float32 are what the network gave, None for a file
    that gives labels, and ``placed`` says where the photo lies in them.
    """

    mask: npt.NDArray[np.uint8]
    labels: tuple[Label, ...]
    logits: npt.NDArray[np.float32] | None
    placed: Placed

    @property
    def shares(self) -> dict[str, float]:
        """By label id the share (0..1) of the pixels that have a label; they add up to 1."""
        counts = [int(np.count_nonzero(self.mask == index)) for index in range(len(self.labels))]
        seen = max(1, sum(counts))
        return {label.id: count / seen for label, count in zip(self.labels, counts, strict=True)}

    def probabilities(self, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Softmax of the logits, interpolated bilinearly at every pixel of the photo: (H, W, C) float32, 0..1.

        Args:
            rows: Those of the photo that are wanted: 12 million pixels of 21 labels take a gigabyte.

        Raises:
            UsageError: The file gives labels, no logits.
        """
        if self.logits is None:
            raise UsageError("the file gives labels and no logits to make probabilities of", fix=WITH_LOGITS)
        values = self.placed.values(self.logits, rows=rows)
        values -= values.max(axis=-1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=-1, keepdims=True)
        return values

    def overlay(self, *, opacity: float = 0.5) -> Image.Image:
        """The mask in colours, RGBA at the photo's size: clear where the label is a background or unknown.

        Args:
            opacity: Of the colours, 0 (clear) to 1. Raises `UsageError` for any other.
        """
        from PIL import Image

        if not 0.0 <= opacity <= 1.0:
            raise UsageError(f"an opacity is a number from 0 to 1, not {opacity!r}", fix="opacity=0.5")
        return Image.fromarray(mask_colours(self.labels, opacity)[self.mask])

    def drawn(self, photo: Image.Image) -> Image.Image:
        """`photo`, upright, with the `overlay` on it, RGB. Raises `UsageError` for one of another size."""
        if photo.size != self.mask.shape[::-1]:
            raise UsageError(
                f"the mask is of a photo of {self.mask.shape[1]}x{self.mask.shape[0]} pixels, not of "
                f"{photo.size[0]}x{photo.size[1]}",
                fix="give the photo that was predicted, upright: PIL.ImageOps.exif_transpose",
            )
        from PIL import Image

        return Image.alpha_composite(photo.convert("RGBA"), self.overlay()).convert("RGB")

    def fields(self) -> dict[str, Any]:
        """Labels, shares and the mask as they stand in JSON.

        ``mask`` is run-length encoded, row by row: ``numpy.repeat(values, counts).reshape(size)`` is the mask, where
        size is [height, width].
        """
        values, counts = _runs(self.mask)
        return {
            "labels": [{"id": label.id, "name": label.name} for label in self.labels],
            "shares": self.shares,
            "mask": {"size": list(self.mask.shape), "values": values, "counts": counts},
        }

    def __str__(self) -> str:
        parts = [
            f"{printable(label.name)} {share:.1%}"
            for label, share in zip(self.labels, self.shares.values(), strict=True)
            if share > 0.0
        ]
        return ", ".join(parts) or "no pixel was seen"

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"<Segmentation {width}x{height}: {self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segmentation):
            return NotImplemented
        return (
            (self.labels, self.placed) == (other.labels, other.placed)
            and np.array_equal(self.mask, other.mask)
            and (self.logits is None) == (other.logits is None)
            and (self.logits is None or np.array_equal(self.logits, other.logits))  # type: ignore[arg-type]
        )

    def __hash__(self) -> int:
        return hash((self.labels, self.placed, self.mask.tobytes()))


def mask_colours(labels: Sequence[Label], opacity: float) -> npt.NDArray[np.uint8]:
    """(256, 4) red, green, blue and alpha of every value of a mask: clear for a background and for what is no label."""
    colours = np.zeros((256, 4), np.uint8)
    for index, label in enumerate(labels):
        if label.name.casefold() not in _CLEAR:
            colours[index] = (*colour_of(index - 1), round(255 * opacity))
    return colours


def _runs(mask: npt.NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Values and lengths of the runs of equal pixels, row by row."""
    flat = mask.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1]))) if flat.size else np.zeros(0, np.intp)
    values: list[int] = flat[starts].tolist()
    counts: list[int] = np.diff(np.append(starts, flat.size)).tolist()
    return values, counts
