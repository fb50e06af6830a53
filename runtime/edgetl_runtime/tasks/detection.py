"""Detection on the device: a photo in, boxes with labels and scores out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from edgetl_runtime.asked import is_count
from edgetl_runtime.errors import BundleError, EngineError, ImageError, UsageError, nearest
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.placing import Placed
from edgetl_runtime.predictor import Outputs, Predictor
from edgetl_runtime.preprocess import ColorOrder
from edgetl_runtime.sources import ImageSource, separate
from edgetl_runtime.tasks import PredictOption
from edgetl_runtime.tasks.anchors import anchor_hash, make_anchors
from edgetl_runtime.tasks.boxes import Found, candidates, decoded, overlaps, suppressed
from edgetl_runtime.tasks.detections import Detections
from edgetl_runtime.tasks.tiles import check_tile, found_in_tiles

if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    import numpy.typing as npt

    class _Options(TypedDict, total=False):
        score: float | None
        iou: float | None
        most: int | None
        classes: Sequence[str | int] | None
        color: ColorOrder


__all__ = [
    "Detector",
    "agreement",
    "anchors_of",
    "check",
    "decision",
    "objects_in_photo",
    "options",
    "predictor",
    "same_objects",
    "share_in_common",
]

BOXES, LOGITS = "boxes", "logits"
SAME_BOX = 0.9
"""Overlap from which two boxes are one decision."""
_SELF_TEST = "edgetl-run self-test BUNDLE"
_EXPORT = "export the bundle again"
_SCORES = "softmax"

_UNMOVED = Placed((1, 1), (1, 1), 0, 0, (1, 1))
"""A photo of one pixel: boxes stay shares of its sides."""

_Image = TypeVar("_Image")


class Detector(Predictor[Detections]):
    """A detection variant, loaded. Made by `load`; a context manager; threads may share it.

    Every method that predicts takes the same options. ``score``: the least score, 0..1; ``iou``: boxes of one label
    that overlap a better one by more than this share are left out; ``most``: at most so many boxes; each by default
    what the manifest says. ``classes``: labels that are wanted, by name, id or index; all by default. ``tile``: a large
    photo is cut into overlapping squares of so many pixels, and what is found in them is put together, for objects that
    are small in it; off by default. ``color``: the channel order of arrays, "BGR" for OpenCV frames.
    """

    def _check(self, manifest: Manifest) -> None:
        check(manifest)
        self._anchors = anchors_of(manifest.decoder or {})

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a path, though also an iterable
        self,
        image: ImageSource,
        *,
        tile: int | None = None,
        **options: Unpack[_Options],
    ) -> Detections: ...
    @overload
    def predict(
        self,
        image: Iterable[ImageSource],
        *,
        tile: int | None = None,
        **options: Unpack[_Options],
    ) -> list[Detections]: ...
    def predict(
        self,
        image: ImageSource | Iterable[ImageSource],
        *,
        score: float | None = None,
        iou: float | None = None,
        most: int | None = None,
        classes: Sequence[str | int] | None = None,
        tile: int | None = None,
        color: ColorOrder = "RGB",
    ) -> Any:
        """The objects in an image, or in each image of an iterable, one after the other.

        Args:
            image: A path, the bytes of a file, an open file, an upload, a PIL image, or a uint8 array (H, W, 3); an
                array (n, H, W, 3) is n of them.
            score: See the class, as for the others.
            iou: Most overlap.
            most: Most boxes.
            classes: Labels that are wanted.
            tile: Pixels of a square.
            color: Of arrays.

        Raises:
            ImageError: An image cannot be read.
            UsageError: An option makes no sense, or a label is not known.
        """
        asked = self._asked(score, iou, most, classes)
        if tile is None:
            return self._predict(image, color=color, **asked)
        check_tile(tile)
        images, one = separate(image)
        found = [self._in_tiles(item, tile, color, asked) for item in images]
        return found[0] if one else found

    def predict_batch(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        score: float | None = None,
        iou: float | None = None,
        most: int | None = None,
        classes: Sequence[str | int] | None = None,
        color: ColorOrder = "RGB",
    ) -> list[Detections]:
        """`predict` for many images at once: they are decoded on `workers` threads (default: one per core) and run in
        batches as large as the model takes. One image gives a list of one. Raises `ImageError` when one of them cannot
        be read."""
        asked = self._asked(score, iou, most, classes)
        return self._predict_batch(images, workers=workers, color=color, **asked)

    @overload
    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        errors: Literal["raise"] = "raise",
        pairs: Literal[False] = False,
        latest: bool = False,
        **options: Unpack[_Options],
    ) -> Iterator[Detections]: ...
    @overload
    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        errors: Literal["return"],
        pairs: Literal[False] = False,
        latest: bool = False,
        **options: Unpack[_Options],
    ) -> Iterator[Detections | ImageError]: ...
    @overload
    def stream(
        self,
        images: Iterable[_Image],
        *,
        workers: int | None = None,
        errors: Literal["raise"] = "raise",
        pairs: Literal[True],
        latest: bool = False,
        **options: Unpack[_Options],
    ) -> Iterator[tuple[_Image, Detections]]: ...
    @overload
    def stream(
        self,
        images: Iterable[_Image],
        *,
        workers: int | None = None,
        errors: Literal["return"],
        pairs: Literal[True],
        latest: bool = False,
        **options: Unpack[_Options],
    ) -> Iterator[tuple[_Image, Detections | ImageError]]: ...
    def stream(
        self,
        images: Any,
        *,
        workers: int | None = None,
        score: float | None = None,
        iou: float | None = None,
        most: int | None = None,
        classes: Sequence[str | int] | None = None,
        color: ColorOrder = "RGB",
        errors: Literal["raise", "return"] = "raise",
        pairs: bool = False,
        latest: bool = False,
    ) -> Iterator[Any]:
        """`predict` for a stream, endless if need be: results in the order of the images.

        `workers`, `errors`, `pairs` and `latest` are those of
        `edgetl_runtime.tasks.classification.Classifier.stream`.
        """
        asked = self._asked(score, iou, most, classes)
        return self._stream(images, workers=workers, color=color, errors=errors, pairs=pairs, latest=latest, **asked)

    def _in_tiles(self, image: ImageSource, tile: int, color: ColorOrder, asked: dict[str, Any]) -> Detections:
        def find(pixels: npt.NDArray[np.uint8]) -> Found:
            found: Detections = self._predict(pixels, color="RGB", **asked)  # the bands are in the model's order
            return Found(found.boxes, found.scores, found.labels)

        limits = {name: asked[name] for name in ("iou", "most")}
        channels = self.manifest.preprocess.channels
        found, size = found_in_tiles(find, image, tile, channels=channels, color=color, **limits)
        return self._result(found, size)

    def _decode(self, outputs: Outputs, placed: Placed, **options: Any) -> Detections:
        """The objects of one image, in pixels of the photo."""
        boxes, logits = outputs[BOXES], outputs[LOGITS]
        if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
            raise EngineError(f"variant {self.variant.id} gave outputs that are not finite", fix=_SELF_TEST)
        return self._result(
            objects_in_photo(outputs, placed, self.manifest.decoder or {}, self._anchors, **options), placed.photo
        )

    def _result(self, found: Found, size: tuple[int, int]) -> Detections:
        labels = [self.manifest.labels[label] for label in found.labels.tolist()]
        ids, names = tuple(label.id for label in labels), tuple(label.name for label in labels)
        return Detections(found.boxes, found.scores, found.labels, ids, names, size)

    def _asked(
        self, score: float | None, iou: float | None, most: int | None, classes: Sequence[str | int] | None
    ) -> dict[str, Any]:
        """What `_decode` is told. Raises `UsageError` for what makes no sense."""
        decoder = self.manifest.decoder or {}
        given = {"score": score, "iou": iou}
        shares = {name: decoder[name] if value is None else value for name, value in given.items()}
        for name, value in shares.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} must be from 0 to 1, not {value!r:.60}", fix=f"{name}={decoder[name]}")
        most = decoder["most"] if most is None else most
        if not is_count(most):
            raise UsageError(f"most must be a whole number of at least 1, not {most!r:.60}", fix="most=100")
        return {**shares, "most": most, "classes": None if classes is None else self._indices(classes)}

    def _indices(self, classes: Sequence[str | int]) -> list[int]:
        labels = self.manifest.labels
        by_name = {label.name: place for place, label in enumerate(labels)}
        by_name |= {label.id: place for place, label in enumerate(labels)}
        wanted = [classes] if isinstance(classes, (str, int)) else list(classes)
        indices = []
        for label in wanted:
            place = by_name.get(label) if isinstance(label, str) else label
            if place is None or isinstance(place, bool) or not 0 <= place < len(labels):
                raise UsageError(
                    f"{self.manifest.name!r} has no label {label!r:.60}", fix=nearest(str(label), self.labels)
                )
            indices.append(int(place))
        return indices


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


predictor = Detector
options = (
    PredictOption("score", float, "P", "detection: least score of a box (default: the bundle's)"),
    PredictOption("iou", float, "SHARE", "detection: most overlap of two boxes of one label (default: the bundle's)"),
    PredictOption("most", int, "N", "detection: at most so many boxes (default: the bundle's)"),
    PredictOption("classes", _names, "NAME,...", "detection: only these labels"),
    PredictOption("tile", int, "PIXELS", "detection: look at a large photo in squares of this size"),
)


def check(manifest: Manifest) -> None:
    """Whether a `Detector` can take `manifest`: boxes and logits for every anchor, and a decoder that describes these.

    Raises `BundleError` when it cannot.
    """
    if manifest.task != "detection":
        raise BundleError(
            f"{manifest.name!r} is for {manifest.task}; a Detector takes detection",
            fix="edgetl_runtime.load gives the predictor that it needs",
        )
    decoder = manifest.decoder
    if decoder is None:
        raise BundleError(f"{manifest.name!r} does not say how its boxes are decoded", fix=_EXPORT)
    try:
        anchors = anchors_of(decoder)
        shares = (float(decoder["score"]), float(decoder["iou"]), *map(float, decoder["variances"]))
        known = decoder["scores"] == _SCORES and is_count(decoder["most"]) and len(decoder["variances"]) == 4
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BundleError(f"the decoder of {manifest.name!r} is damaged: {error!r:.120}", fix=_EXPORT) from None
    if not known or not all(0.0 <= share <= 1.0 for share in shares):
        raise BundleError(f"the decoder of {manifest.name!r} is of another kind than this edgetl knows", fix=_EXPORT)
    if anchor_hash(anchors) != decoder["anchors"].get("sha256"):
        raise BundleError(f"the anchors of {manifest.name!r} are not those that it was trained with", fix=_EXPORT)
    shapes = {spec.name: spec.shape[1:] for spec in manifest.outputs}
    expected = {BOXES: (len(anchors), 4), LOGITS: (len(anchors), len(manifest.labels) + 1)}
    if shapes != expected or any(spec.dtype != "float32" for spec in manifest.outputs):
        raise BundleError(f"{manifest.name!r} gives {shapes}; its anchors and labels need {expected}", fix=_EXPORT)


def anchors_of(decoder: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """(A, 4) float32, as `make_anchors`. Raises `ValueError`, `KeyError` or `TypeError` for a damaged decoder."""
    anchors = decoder["anchors"]
    return make_anchors(anchors["grids"], anchors["shapes"], anchors.get("steps"))


def objects_in_photo(
    outputs: Outputs,
    placed: Placed,
    decoder: Mapping[str, Any],
    anchors: npt.NDArray[np.float32],
    *,
    score: float,
    iou: float,
    most: int,
    classes: Sequence[int] | None = None,
) -> Found:
    """The objects of one image, by its finite outputs, in pixels of the photo; what lies in a border is none."""
    places, labels, scores = candidates(outputs[LOGITS], score, classes)
    shares = decoded(outputs[BOXES][places], anchors[places], decoder["variances"])
    boxes = placed.to_photo(shares * np.array(placed.tensor * 2, np.float32))
    seen = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return suppressed(Found(boxes, scores, labels).at(seen), iou, most)


def agreement(original: Outputs, outputs: Outputs, decoder: Mapping[str, Any] | None = None) -> npt.NDArray[np.float64]:
    """Of each image the share of objects that both have, of those that either has, (n,); 1 where neither has any.

    Objects are those above the decoder's score; two are the same where the label is and the boxes overlap by 0.9.
    """
    if decoder is None:
        raise BundleError("the bundle does not say how its boxes are decoded", fix=_EXPORT)
    anchors = anchors_of(decoder)
    shares = []
    for row in range(len(original[BOXES])):
        mine, other = ({name: given[name][row] for name in (BOXES, LOGITS)} for given in (original, outputs))
        if all(np.isfinite(values).all() for values in other.values()):
            shares.append(share_in_common(*(_by_default(given, decoder, anchors) for given in (mine, other))))
        else:
            shares.append(0.0)
    return np.array(shares, np.float64)


def decision(outputs: Outputs, manifest: Manifest) -> str | None:
    """Many objects take more than a few words."""
    return None


def same_objects(first: Found, second: Found, least: float = SAME_BOX) -> list[tuple[int, int]]:
    """Pairs (place in `first`, place in `second`) of one label that overlap by `least`; no object is in two."""
    over = overlaps(first.boxes, second.boxes)
    over[first.labels[:, np.newaxis] != second.labels] = -1.0
    pairs = []
    for row in range(len(over)):
        column = int(over[row].argmax()) if over.shape[1] else -1
        if column >= 0 and over[row, column] >= least:
            pairs.append((row, column))
            over[:, column] = -1.0
    return pairs


def share_in_common(first: Found, second: Found) -> float:
    """The share of objects that both have, of those that either has; 1 where neither has any."""
    common = len(same_objects(first, second))
    either = len(first.scores) + len(second.scores) - common
    return common / either if either else 1.0


def _by_default(outputs: Outputs, decoder: Mapping[str, Any], anchors: npt.NDArray[np.float32]) -> Found:
    """The objects above the decoder's own thresholds, in an image that is as large as the tensor."""
    thresholds = {name: decoder[name] for name in ("score", "iou", "most")}
    return objects_in_photo(outputs, _UNMOVED, decoder, anchors, **thresholds)
