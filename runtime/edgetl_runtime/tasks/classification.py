"""Classification on the device: a photo in, labels with probabilities out."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from edgetl_runtime.asked import is_count
from edgetl_runtime.comparison import same_label
from edgetl_runtime.errors import BundleError, EngineError, ImageError, UsageError
from edgetl_runtime.escaping import printable
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.placing import Placed
from edgetl_runtime.predictor import Outputs, Predictor
from edgetl_runtime.preprocess import ColorOrder
from edgetl_runtime.results import Result
from edgetl_runtime.sources import ImageSource
from edgetl_runtime.tasks import PredictOption

if TYPE_CHECKING:
    import numpy.typing as npt


__all__ = ["Classifier", "Prediction", "Score", "agreement", "check", "decision", "options", "predictor", "softmax"]

LOGITS = "logits"
"""The output that has a place for every label."""
_SELF_TEST = "edgetl-run self-test BUNDLE"

_Image = TypeVar("_Image")


@dataclass(frozen=True)
class Score(Result):
    """A label and its probability (0..1); ``index`` is its place in the logits."""

    id: str
    name: str
    index: int
    probability: float

    def __str__(self) -> str:
        return f"{printable(self.name)} {self.probability:.1%}"


@dataclass(frozen=True)
class Prediction(Result):
    """What one image is: ``top``, the most probable label, and ``scores``, the labels that were asked for, the best
    first. Below a threshold ``scores`` is empty, and the image is none of the labels as far as one can say."""

    top: Score
    scores: tuple[Score, ...]

    _also = ("accepted",)

    @property
    def accepted(self) -> bool:
        """Whether any label reached the threshold."""
        return bool(self.scores)

    def __str__(self) -> str:
        return ", ".join(str(score) for score in self.scores) or f"none of the labels (nearest: {self.top})"


class Classifier(Predictor[Prediction]):
    """A classification variant, loaded. Made by `load`; a context manager; threads may share it."""

    def _check(self, manifest: Manifest) -> None:
        check(manifest)
        if len(manifest.labels) < 2:
            message = f"{manifest.name!r} gives a single logit: softmax makes 100 % of it, whatever is in the image"
            warnings.warn(message, stacklevel=4)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits: ``labels[score.index]`` is ``score.name``."""
        return super().labels

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a path, though also an iterable
        self, image: ImageSource, *, top: int | None = 5, threshold: float = 0.0, color: ColorOrder = "RGB"
    ) -> Prediction: ...
    @overload
    def predict(
        self, image: Iterable[ImageSource], *, top: int | None = 5, threshold: float = 0.0, color: ColorOrder = "RGB"
    ) -> list[Prediction]: ...
    def predict(
        self,
        image: ImageSource | Iterable[ImageSource],
        *,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
    ) -> Prediction | list[Prediction]:
        """The labels of an image, or of each image of an iterable, one after the other.

        Args:
            image: A path, the bytes of a file (bytes, bytearray, memoryview), an open file, an upload or whatever else
                has ``read()`` or ``read_bytes()``, a PIL image, or a uint8 array (H, W, 3), (H, W, C) for a model of C
                channels; an array (n, H, W, C) is n of them. The same holds for the other methods.
            top: So many of the most probable labels; None gives all.
            threshold: Labels less probable (0..1) are left out.
            color: Channel order of arrays: "BGR" for OpenCV frames.

        Returns:
            A prediction, the most probable label first; a list of them for an iterable.

        Raises:
            ImageError: An image cannot be read.
            UsageError: It is none, or `top` or `threshold` makes no sense.
            EngineError: The model gave logits that are not finite.
        """
        top = _check_asked(top, threshold)
        result: Prediction | list[Prediction] = self._predict(image, color=color, top=top, threshold=threshold)
        return result

    def predict_batch(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
    ) -> list[Prediction]:
        """`predict` for many images at once, in batches as large as the model takes.

        Args:
            images: As in `predict`, and so are `top`, `threshold` and `color`.
            workers: Threads that decode them (default: one per core).

        Returns:
            A prediction for each; one image gives a list of one.

        Raises:
            ImageError: One of them cannot be read.
        """
        top = _check_asked(top, threshold)
        return self._predict_batch(images, workers=workers, color=color, top=top, threshold=threshold)

    @overload
    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["raise"] = "raise",
        pairs: Literal[False] = False,
        latest: bool = False,
    ) -> Iterator[Prediction]: ...
    @overload
    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["return"],
        pairs: Literal[False] = False,
        latest: bool = False,
    ) -> Iterator[Prediction | ImageError]: ...
    @overload
    def stream(
        self,
        images: Iterable[_Image],
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["raise"] = "raise",
        pairs: Literal[True],
        latest: bool = False,
    ) -> Iterator[tuple[_Image, Prediction]]: ...
    @overload
    def stream(
        self,
        images: Iterable[_Image],
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["return"],
        pairs: Literal[True],
        latest: bool = False,
    ) -> Iterator[tuple[_Image, Prediction | ImageError]]: ...
    def stream(
        self,
        images: Any,
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["raise", "return"] = "raise",
        pairs: bool = False,
        latest: bool = False,
    ) -> Iterator[Any]:
        """`predict` for a stream, endless if need be: predictions in the order of the images.

        Images are decoded, preprocessed and run on `workers` threads (default: one per core); at most twice as many as
        there are workers are held. When images come faster than one run after the other, each worker gets a session of
        its own (on the CPU; about as much memory again), which the classifier keeps for other streams. A variant that
        takes a fixed number of images is given all that were read, and twice as many more are held. An image that
        cannot be read raises its `ImageError` in its place, or, with ``errors="return"``, is that error in its place,
        and the stream goes on. What the source of the images raises comes after the results of those before.

        With ``pairs=True`` each result is ``(image, prediction)``, the image as the source gave it. ``latest=True`` is
        for live sources: a thread of its own reads them, a free worker takes the newest image there is, and those that
        came before it are dropped; so are results that nobody took in time when there is a newer image.
        """
        top = _check_asked(top, threshold)
        return self._stream(
            images,
            workers=workers,
            color=color,
            errors=errors,
            pairs=pairs,
            latest=latest,
            top=top,
            threshold=threshold,
        )

    def logits(self, tensor: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the model gives for one preprocessed image.

        Args:
            tensor: (H, W, C) uint8, as `edgetl_runtime.preprocess` makes it.

        Returns:
            (classes,) float32, before the softmax.
        """
        outputs = self._run_batch(tensor[np.newaxis], (self.manifest.output,))
        row: npt.NDArray[np.float32] = outputs[self.manifest.output.name][0]
        return row

    def _decode(self, outputs: Outputs, placed: Placed, **options: Any) -> Prediction:
        return self.interpret(outputs[self.manifest.output.name], **options)

    def interpret(self, logits: npt.NDArray[np.float32], *, top: int | None = 5, threshold: float = 0.0) -> Prediction:
        """The labels that logits stand for.

        Args:
            logits: (classes,) float32.
            top: So many of the most probable labels; None gives all.
            threshold: Labels less probable (0..1) are left out.

        Returns:
            The prediction.

        Raises:
            EngineError: The logits are not finite.
        """
        if not np.isfinite(logits).all():
            raise EngineError(f"variant {self.variant.id} gave logits that are not finite", fix=_SELF_TEST)
        top = _check_asked(top, threshold)
        probabilities = softmax(logits)
        labels = self.manifest.labels
        scores = [Score(labels[i].id, labels[i].name, i, float(probabilities[i])) for i in _best(logits, top)]
        return Prediction(scores[0], tuple(score for score in scores if score.probability >= threshold))


predictor = Classifier
options = (
    PredictOption("top", int, "K", "labels per image (default: 5)"),
    PredictOption("threshold", float, "P", "leave out labels less probable"),
)


def check(manifest: Manifest) -> None:
    """Whether a `Classifier` can take `manifest`: one output of float32 logits, a place for every label.

    Raises `BundleError` when it cannot.
    """
    if manifest.task != "classification":
        raise BundleError(
            f"{manifest.name!r} is for {manifest.task}; a Classifier takes classification",
            fix="edgetl_runtime.load gives the predictor that it needs",
        )
    if manifest.output.dtype != "float32":
        raise BundleError(
            f"{manifest.name!r} gives {manifest.output.dtype}; a Classifier takes float32 logits",
            fix="export with the default output, or run the session yourself",
        )


def agreement(original: Outputs, outputs: Outputs, decoder: Mapping[str, Any] | None = None) -> npt.NDArray[np.float64]:
    """Of each image 1 where the label is the same, else 0, (n,); one whose logits are not finite has none."""
    same = same_label(original[LOGITS], outputs[LOGITS])
    finite = np.isfinite(outputs[LOGITS]).reshape(len(same), -1).all(axis=1)
    return np.where(finite, same, 0.0)


def decision(outputs: Outputs, manifest: Manifest) -> str | None:
    """The name of the label; None for a map, which has one for every place."""
    logits = outputs[LOGITS]
    return manifest.labels[int(logits.argmax())].name if logits.ndim == 1 else None


def _check_asked(top: int | None, threshold: float) -> int:
    """How many labels are wanted at most. Raises `UsageError` for what is no number, or none that can be."""
    if top is None:
        top = sys.maxsize
    elif not is_count(top):
        raise UsageError(f"top must be a whole number of at least 1, not {top!r}", fix="top=5, or None for all labels")
    try:
        fits = 0.0 <= threshold <= 1.0
    except TypeError:
        fits = False
    if not fits:
        raise UsageError(f"a threshold is a probability, not {threshold!r}", fix="0 <= threshold <= 1")
    return top


def _best(logits: npt.NDArray[np.float32], top: int) -> list[int]:
    """Indices of the `top` largest logits, the largest first; equal ones in their order, so decisions are the same."""
    candidates = np.arange(len(logits))
    if top < len(logits):  # sorting a thousand takes longer than finding those that count
        candidates = np.flatnonzero(logits >= np.partition(logits, -top)[-top])
    found: list[int] = candidates[np.argsort(-logits[candidates], kind="stable")][:top].tolist()
    return found


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, in float64; the largest logit is taken off first, so nothing overflows."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
