"""Semantic segmentation on the device: a photo in, a label for each of its pixels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from edgetl_runtime.errors import BundleError, EngineError, ImageError, UsageError
from edgetl_runtime.interpolation import centres, labels_at
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.placing import Placed
from edgetl_runtime.predictor import Outputs, Predictor
from edgetl_runtime.preprocess import ColorOrder
from edgetl_runtime.sources import ImageSource
from edgetl_runtime.tasks import PredictOption
from edgetl_runtime.tasks.segmentations import UNSEEN, WITH_LOGITS, Segmentation

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Segmenter",
    "agreement",
    "check",
    "decision",
    "label_map",
    "options",
    "predictor",
]

LOGITS = "logits"
"""The output: (n, h, w, C) float32, a place for every label at every place of a map that covers the tensor."""
LABELS = "labels"
"""The output of a file that has the argmax inside: whole numbers (n, h, w), the label at every place."""
_WHOLE = ("uint8", "int32", "int64")
MOST_LABELS = 255

_SELF_TEST = "edgetl-run self-test BUNDLE"

_Image = TypeVar("_Image")


class Segmenter(Predictor[Segmentation]):
    """A segmentation variant, loaded. Made by `load`; a context manager; threads may share it."""

    def _check(self, manifest: Manifest) -> None:
        check(manifest)

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a path, though also an iterable
        self, image: ImageSource, *, smooth: bool = False, color: ColorOrder = "RGB"
    ) -> Segmentation: ...
    @overload
    def predict(
        self, image: Iterable[ImageSource], *, smooth: bool = False, color: ColorOrder = "RGB"
    ) -> list[Segmentation]: ...
    def predict(
        self, image: ImageSource | Iterable[ImageSource], *, smooth: bool = False, color: ColorOrder = "RGB"
    ) -> Segmentation | list[Segmentation]:
        """The label of every pixel of an image, or of each image of an iterable, one after the other.

        Args:
            image: As for `edgetl_runtime.Classifier.predict`.
            smooth: Logits are interpolated at the photo's own pixels. By default they are at the network's, and every
                pixel of the photo has the label of the nearest: faster, and as good where the photo is not much larger.
            color: Channel order of arrays ("BGR" for OpenCV frames).

        Returns:
            A mask of the size of the upright original photo, with what it was made of.

        Raises:
            ImageError: An image cannot be read.
            UsageError: It is none.
        """
        result: Segmentation | list[Segmentation] = self._predict(image, color=color, smooth=smooth)
        return result

    def predict_batch(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        smooth: bool = False,
        color: ColorOrder = "RGB",
    ) -> list[Segmentation]:
        """`predict` for many images at once: they are decoded on `workers` threads (default: one per core) and run in
        batches as large as the model takes. One image gives a list of one. Raises `ImageError` when one of them cannot
        be read."""
        return self._predict_batch(images, workers=workers, color=color, smooth=smooth)

    @overload
    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        smooth: bool = False,
        color: ColorOrder = "RGB",
        errors: Literal["raise"] = "raise",
        pairs: Literal[False] = False,
        latest: bool = False,
    ) -> Iterator[Segmentation]: ...
    @overload
    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        smooth: bool = False,
        color: ColorOrder = "RGB",
        errors: Literal["return"],
        pairs: Literal[False] = False,
        latest: bool = False,
    ) -> Iterator[Segmentation | ImageError]: ...
    @overload
    def stream(
        self,
        images: Iterable[_Image],
        *,
        workers: int | None = None,
        smooth: bool = False,
        color: ColorOrder = "RGB",
        errors: Literal["raise"] = "raise",
        pairs: Literal[True],
        latest: bool = False,
    ) -> Iterator[tuple[_Image, Segmentation]]: ...
    @overload
    def stream(
        self,
        images: Iterable[_Image],
        *,
        workers: int | None = None,
        smooth: bool = False,
        color: ColorOrder = "RGB",
        errors: Literal["return"],
        pairs: Literal[True],
        latest: bool = False,
    ) -> Iterator[tuple[_Image, Segmentation | ImageError]]: ...
    def stream(
        self,
        images: Any,
        *,
        workers: int | None = None,
        smooth: bool = False,
        color: ColorOrder = "RGB",
        errors: Literal["raise", "return"] = "raise",
        pairs: bool = False,
        latest: bool = False,
    ) -> Iterator[Any]:
        """`predict` for a stream, endless if need be: masks in the order of the images.

        All but `smooth` is as in `edgetl_runtime.Classifier.stream`.
        """
        return self._stream(
            images, workers=workers, color=color, errors=errors, pairs=pairs, latest=latest, smooth=smooth
        )

    def logits(self, tensor: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """What the model gives for one preprocessed image: (H, W, C) uint8 to (h, w, labels) float32, or to the labels
        (h, w) where the file gives these."""
        outputs = self._run_batch(tensor[np.newaxis], (self.manifest.output,))
        row: npt.NDArray[Any] = outputs[self.manifest.output.name][0]
        return row

    def interpret(self, values: npt.NDArray[Any], placed: Placed, *, smooth: bool = False) -> Segmentation:
        """The mask for what the model gave for a photo that lies at `placed` in the tensor.

        Args:
            values: Logits (h, w, labels), or labels (h, w).
            placed: As `edgetl_runtime.preprocess_placed` tells.
            smooth: As for `predict`.

        Raises:
            EngineError: The logits are not finite, or a label is none.
            UsageError: `smooth` was asked of labels.
        """
        labels = self.manifest.labels
        if values.ndim == 2:
            if smooth:
                raise UsageError("smooth says nothing of a file that gives labels", fix=WITH_LOGITS)
            if values.min(initial=0) < 0 or values.max(initial=0) >= len(labels):
                raise EngineError(f"variant {self.variant.id} gave labels that are none", fix=_SELF_TEST)
            return Segmentation(placed.mask(_whole(values), outside=UNSEEN), labels, None, placed)
        if not np.isfinite(values).all():
            raise EngineError(f"variant {self.variant.id} gave logits that are not finite", fix=_SELF_TEST)
        size = (placed.tensor[1], placed.tensor[0])
        mask = _smooth_mask(values, placed) if smooth else placed.mask(label_map(values, size), outside=UNSEEN)
        return Segmentation(mask, labels, np.array(values, np.float32), placed)

    def _decode(self, outputs: Outputs, placed: Placed, **options: Any) -> Segmentation:
        return self.interpret(outputs[self.manifest.output.name], placed, **options)


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


_yes_or_no.__name__ = "yes or no"  # as argparse calls it in its message

predictor = Segmenter
options = (
    PredictOption("smooth", _yes_or_no, "yes|no", "edges of masks at the photo's own pixels (default: no, faster)"),
)


def check(manifest: Manifest) -> None:
    """Whether a `Segmenter` can take `manifest`: its output is float32 logits (n, h, w, labels), or labels (n, h, w).

    Raises `BundleError` when it cannot.
    """
    output, n_labels = manifest.output, len(manifest.labels)
    if manifest.task != "segmentation":
        raise BundleError(
            f"{manifest.name!r} is for {manifest.task}; a Segmenter takes segmentation",
            fix="edgetl_runtime.load gives the predictor that it needs",
        )
    gives_logits = output.dtype == "float32" and len(output.shape) == 4 and output.shape[3] == n_labels
    if not gives_logits and not (output.dtype in _WHOLE and len(output.shape) == 3):
        raise BundleError(
            f"{manifest.name!r} gives {output.dtype} {list(output.shape)}; a Segmenter takes float32 logits "
            f"[n, h, w, {n_labels}], one for each label, or labels [n, h, w]",
            fix="export the bundle again",
        )
    if not 1 <= n_labels <= MOST_LABELS:
        raise BundleError(
            f"{manifest.name!r} has {n_labels} labels; a mask has room for 1 to {MOST_LABELS}",
            fix="export the bundle again, with fewer labels",
        )


def agreement(original: Outputs, outputs: Outputs, decoder: Mapping[str, Any] | None = None) -> npt.NDArray[np.float64]:
    """Of each image the share of pixels whose label is the same, (n,); one whose logits are not finite has none.

    Pixels are those of the network's input, whose [height, width] are in ``decoder["size"]``; without that they are
    those of the outputs.
    """
    name = LOGITS if LOGITS in original else LABELS
    size = (decoder or {}).get("size")
    shares = np.zeros(len(original[name]), np.float64)
    for index, (expected, given) in enumerate(zip(original[name], outputs[name], strict=True)):
        if np.isfinite(expected).all() and np.isfinite(given).all():
            height, width = expected.shape[:2] if size is None else size
            shares[index] = np.mean(label_map(expected, (height, width)) == label_map(given, (height, width)))
    return shares


def decision(outputs: Outputs, manifest: Manifest) -> str | None:
    """None: a label for each pixel takes more than a few words."""
    return None


def label_map(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The label of every pixel of `size` = (height, width), of outputs that cover the same area.

    Args:
        values: Finite logits (h, w, C) float32, which are interpolated bilinearly with half-pixel centres; or labels
            (h, w), of which the nearest counts.
        size: In pixels.
    """
    if values.ndim == 2:
        rows, columns = (np.arange(size[axis]) * values.shape[axis] // size[axis] for axis in (0, 1))
        found: npt.NDArray[np.uint8] = _whole(values).take(rows, axis=0).take(columns, axis=1)
        return found
    if values.shape[:2] == size:
        largest: npt.NDArray[np.uint8] = values.argmax(axis=2).astype(np.uint8)
        return largest
    return labels_at(values, centres(size[0], values.shape[0]), centres(size[1], values.shape[1]))


def _whole(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    small: npt.NDArray[np.uint8] = np.clip(labels, 0, UNSEEN).astype(np.uint8)
    return small


def _smooth_mask(logits: npt.NDArray[np.float32], placed: Placed) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: logits interpolated at the pixels of the photo, `UNSEEN` where it was cropped away."""
    rows, columns = placed.positions((logits.shape[0], logits.shape[1]))
    mask = labels_at(logits, rows, columns)
    for axis, (positions, length) in enumerate(((rows, logits.shape[0]), (columns, logits.shape[1]))):
        outside = (positions < -0.5) | (positions >= length - 0.5)
        if outside.any():
            mask[outside if axis == 0 else (slice(None), outside)] = UNSEEN
    return mask
