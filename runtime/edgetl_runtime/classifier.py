"""The task API for classification: a photo in, labels with probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.choice import choose_variant
from edgetl_runtime.errors import BundleError, EngineError, UsageError
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.preprocess import ColorOrder, ImageSource, preprocess
from edgetl_runtime.session import Session

__all__ = ["Classifier", "Prediction", "Score", "load", "softmax"]


@dataclass(frozen=True)
class Score:
    """A label and its probability (0..1); ``index`` is its place in the logits."""

    id: str
    name: str
    index: int
    probability: float

    def __str__(self) -> str:
        return f"{self.name} {self.probability:.1%}"


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of one image, the best first."""

    scores: tuple[Score, ...]

    @property
    def top(self) -> Score:
        """The most probable label."""
        return self.scores[0]

    def __str__(self) -> str:
        return ", ".join(str(score) for score in self.scores)


class Classifier:
    """A classification variant, loaded. Made by `load`; a context manager; threads may share it."""

    def __init__(self, manifest: Manifest, variant: Variant, session: Session) -> None:
        if manifest.task != "classification":
            raise BundleError(
                f"{manifest.name!r} is for {manifest.task}; a Classifier takes classification",
                fix="pip install --upgrade edgetl",
            )
        height, width = manifest.preprocess.crop
        spec = manifest.input
        if spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[1:] != (height, width, 3):
            raise BundleError(
                f"{manifest.name!r} takes {spec.dtype} {list(spec.shape)}; a Classifier feeds uint8 images "
                f"[n, {height}, {width}, 3]",
                fix="export with the default input, or feed the session yourself",
            )
        if manifest.output.dtype != "float32":
            raise BundleError(
                f"{manifest.name!r} gives {manifest.output.dtype}; a Classifier takes float32 logits",
                fix="export with the default output, or run the session yourself",
            )
        self.manifest = manifest
        self.variant = variant
        self.session = session

    @overload
    def predict(self, image: ImageSource, *, top: int = 5, color: ColorOrder = "RGB") -> Prediction: ...  # type: ignore[overload-overlap] # a str is a path, though also a sequence
    @overload
    def predict(self, image: Sequence[ImageSource], *, top: int = 5, color: ColorOrder = "RGB") -> list[Prediction]: ...
    def predict(
        self, image: ImageSource | Sequence[ImageSource], *, top: int = 5, color: ColorOrder = "RGB"
    ) -> Prediction | list[Prediction]:
        """The `top` labels of an image, or of each image in a list.

        An image is a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3); `color` is the channel order
        of arrays ("BGR" for OpenCV frames). Raises `ImageError` when an image cannot be read.
        """
        if top < 1:
            raise UsageError(f"top must be at least 1, not {top}")
        if isinstance(image, (list, tuple)):
            return [self.predict(item, top=top, color=color) for item in image]
        tensor = preprocess(image, self.manifest.preprocess, color=color)  # type: ignore[arg-type]
        return self.interpret(self.logits(tensor), top=top)

    def logits(self, tensor: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the model gives for one preprocessed image: (H, W, 3) uint8 to (classes,) float32."""
        result = self.session.run({self.manifest.input.name: tensor[np.newaxis]})
        logits: npt.NDArray[np.float32] = result[self.manifest.output.name]
        if logits.shape != (1, len(self.manifest.labels)):
            raise EngineError(
                f"variant {self.variant.id} gave {list(logits.shape)} for {len(self.manifest.labels)} labels",
                fix="export the bundle again",
            )
        row: npt.NDArray[np.float32] = logits[0]
        return row

    def interpret(self, logits: npt.NDArray[np.float32], *, top: int = 5) -> Prediction:
        """The `top` labels for logits (classes,). Raises `EngineError` when they are not finite."""
        if not np.isfinite(logits).all():
            raise EngineError(
                f"variant {self.variant.id} gave logits that are not finite", fix="edgetl-run self-test BUNDLE"
            )
        probabilities = softmax(logits)
        # Stable, so that equal logits come in the order of the labels: the same decision everywhere.
        best = np.argsort(-logits, kind="stable")[:top]
        labels = self.manifest.labels
        return Prediction(
            tuple(Score(labels[i].id, labels[i].name, int(i), float(probabilities[i])) for i in best.tolist())
        )

    def close(self) -> None:
        """Let the engine go; closing twice is fine."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: str | Path | Bundle,
    *,
    variant: str | None = None,
    engine: str = "auto",
    threads: int | None = None,
    verify: bool = True,
) -> Classifier:
    """Load a classifier from a bundle folder, a zip of one, or one model file.

    Without `variant` the best one that an installed engine runs and that passed verification is taken (see
    `choose_variant`). `threads` limits the cores of one run; `verify` holds the files against their hashes.
    Raises `BundleError`, `MissingDependency` or `EngineError`.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen = choose_variant(bundle, variant=variant, engine=engine)
    session = bundle.session(chosen.id, threads=threads, verify=verify)
    try:
        return Classifier(bundle.manifest, chosen, session)
    except BundleError:
        session.close()
        raise


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, in float64; the largest logit is taken off first, so nothing overflows."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
