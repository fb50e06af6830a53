"""The task API for classification: a photo in, labels with probabilities out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast, overload

import numpy as np
from PIL import Image

from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.engines import engine_info
from edgetl_runtime.errors import BundleError, EngineError, ImageError, UsageError, nearest
from edgetl_runtime.escaping import printable
from edgetl_runtime.frozen import dataclass
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Manifest, TensorSpec, Variant
from edgetl_runtime.placement import Placement
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.preprocess import ColorOrder, ImageSource, preprocess
from edgetl_runtime.session import Session, Tensors

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from edgetl_runtime.choice import Choice
    from edgetl_runtime.lanes import Lanes

__all__ = ["Classifier", "Prediction", "Score", "load", "softmax"]

_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
_SELF_TEST = "edgetl-run self-test BUNDLE"
_MOST_AT_ONCE = 32  # images in one run of a model that takes any number


@dataclass(frozen=True)
class Score:
    """A label and its probability (0..1); ``index`` is its place in the logits."""

    id: str
    name: str
    index: int
    probability: float

    def __str__(self) -> str:
        return f"{printable(self.name)} {self.probability:.1%}"


@dataclass(frozen=True)
class Prediction:
    """What one image is: ``top``, the most probable label, and ``scores``, the labels that were asked for, the best
    first. Below a threshold ``scores`` is empty, and the image is none of the labels as far as one can say."""

    top: Score
    scores: tuple[Score, ...]

    @property
    def accepted(self) -> bool:
        """Whether any label reached the threshold."""
        return bool(self.scores)

    def __str__(self) -> str:
        return ", ".join(str(score) for score in self.scores) or f"none of the labels (nearest: {self.top})"


class Classifier:
    """A classification variant, loaded. Made by `load`; a context manager; threads may share it.

    ``open_lane(threads)`` opens another session of the variant, for `stream`; `threads` is what `session` uses.
    """

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        session: Session,
        *,
        choice: Choice | None = None,
        threads: int = 1,
        open_lane: Callable[[int], Session] | None = None,
    ) -> None:
        if manifest.task != "classification":
            raise BundleError(
                f"{manifest.name!r} is for {manifest.task}; a Classifier takes classification",
                fix="pip install --upgrade edgetl",
            )
        spec, fed = manifest.input, (*manifest.preprocess.crop, manifest.preprocess.channels)
        if spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[1:] != fed:
            raise BundleError(
                f"{manifest.name!r} takes {spec.dtype} {list(spec.shape)}; a Classifier feeds uint8 images "
                f"[n, {', '.join(map(str, fed))}]",
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
        self.choice = choice
        self._threads = threads
        self._open_lane = open_lane
        self._lanes: dict[int, Lanes] = {}

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a path, though also an iterable
        self, image: ImageSource, *, top: int = 5, threshold: float = 0.0, color: ColorOrder = "RGB"
    ) -> Prediction: ...
    @overload
    def predict(
        self, image: Iterable[ImageSource], *, top: int = 5, threshold: float = 0.0, color: ColorOrder = "RGB"
    ) -> list[Prediction]: ...
    def predict(
        self,
        image: ImageSource | Iterable[ImageSource],
        *,
        top: int = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
    ) -> Prediction | list[Prediction]:
        """The `top` labels of an image, or of each image of an iterable, one after the other.

        An image is a path, the bytes of a file or what has ``read_bytes()``, a PIL image, or a uint8 array (H, W, 3),
        (H, W, C) for a model of C channels; an array (n, H, W, C) is n of them. `color` is the channel order of arrays
        ("BGR" for OpenCV frames). Labels less probable than `threshold` (0..1) are left out. Raises `ImageError` when
        an image cannot be read.
        """
        _check_asked(top, threshold)
        images, one = _separate(image)
        tensors = (self._tensor(item, color=color) for item in images)
        found = [self.interpret(self.logits(tensor), top=top, threshold=threshold) for tensor in tensors]
        return found[0] if one else found

    def predict_batch(
        self,
        images: Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
    ) -> list[Prediction]:
        """`predict` for many images at once: they are decoded on `workers` threads (default: one per core) and run in
        batches as large as the model takes. Raises `ImageError` when one of them cannot be read."""
        _check_asked(top, threshold)
        from edgetl_runtime.streaming import map_ahead

        ready = map_ahead(partial(self._tensor, color=color), images, workers=_count_workers(workers))
        with closing(ready):
            rows = self._rows((future.result() for future in ready), self.manifest.output)
            return [self.interpret(row, top=top, threshold=threshold) for row in rows]

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["raise"] = "raise",
    ) -> Iterator[Prediction]: ...
    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["return"],
    ) -> Iterator[Prediction | ImageError]: ...
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Prediction | ImageError]:
        """`predict` for a stream, endless if need be: predictions in the order of the images.

        Images are decoded, preprocessed and run on `workers` threads (default: one per core); at most twice as many as
        there are workers are held. When images come faster than one run after the other, each worker gets a session of
        its own (on the CPU; about as much memory again), which the classifier keeps for other streams. An image that
        cannot be read raises its `ImageError` in its place, or, with ``errors="return"``, is that error in its place,
        and the stream goes on.
        """
        _check_asked(top, threshold)
        if errors not in ("raise", "return"):
            raise UsageError(f"unknown errors {errors!r}", fix='errors="raise" or errors="return"')
        from edgetl_runtime.streaming import map_ahead

        count = _count_workers(workers)
        lanes = self._side_by_side(count)
        work = partial(self._answer, lanes, color=color, top=top, threshold=threshold)
        return _in_order(map_ahead(work, images, workers=count), lanes, keep_errors=errors == "return")

    def embed(
        self,
        image: ImageSource | Iterable[ImageSource],
        *,
        layer: str | None = None,
        normalize: Literal[False, "l2"] = False,
        color: ColorOrder = "RGB",
    ) -> npt.NDArray[np.float32]:
        """What the bundle gives besides logits: float32 (d,) of an image, (n, d) of an array or an iterable of n.

        `layer` is one of the manifest's ``features``, by default the first: ``pooled``, what the last linear layer is
        given, or an inner layer, whose maps are (h, w, d). With ``normalize="l2"`` vectors have length 1, so that
        their products are cosines. Images as for `predict`.
        Raises `BundleError` for a bundle without features, `UsageError` for a layer that it does not have,
        `ImageError` when an image cannot be read.
        """
        spec = self._feature(layer)
        if normalize not in (False, "l2"):
            raise UsageError(f"unknown normalize {normalize!r}", fix='normalize="l2", or False')
        images, one = _separate(image)
        rows = list(self._rows((self._tensor(item, color=color) for item in images), spec))
        values = np.stack(rows) if rows else np.zeros((0, *spec.shape[1:]), np.float32)
        if not np.isfinite(values).all():
            raise EngineError(f"variant {self.variant.id} gave {spec.name} that is not finite", fix=_SELF_TEST)
        if normalize:
            lengths = np.linalg.norm(values, axis=-1, keepdims=True)
            values /= np.maximum(lengths, np.finfo(np.float32).tiny)
        found: npt.NDArray[np.float32] = values[0] if one else values
        return found

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Raw tensors in and out, by name: preprocessing and softmax are the caller's. See `Session.run`."""
        return self.session.run(feeds)

    def logits(self, tensor: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the model gives for one preprocessed image: (H, W, C) uint8 to (classes,) float32."""
        row: npt.NDArray[np.float32] = self._run_batch(tensor[np.newaxis], self.manifest.output)[0]
        return row

    def placement(self) -> Placement:
        """Where each operator runs. Raises `EngineError` when the engine cannot tell."""
        return self.session.placement()

    def explain(self) -> None:
        """Print why this variant was taken, with the table of those it was chosen from."""
        print(self.choice or f"{self.variant.id}: it was named")

    def interpret(self, logits: npt.NDArray[np.float32], *, top: int = 5, threshold: float = 0.0) -> Prediction:
        """The `top` labels for logits (classes,), of those as probable as `threshold`.

        Raises `EngineError` when the logits are not finite.
        """
        if not np.isfinite(logits).all():
            raise EngineError(f"variant {self.variant.id} gave logits that are not finite", fix=_SELF_TEST)
        probabilities = softmax(logits)
        labels = self.manifest.labels
        scores = [Score(labels[i].id, labels[i].name, i, float(probabilities[i])) for i in _best(logits, top)]
        return Prediction(scores[0], tuple(score for score in scores if score.probability >= threshold))

    def close(self) -> None:
        """Let the engine go; closing twice is fine."""
        for lanes in self._lanes.values():
            lanes.close()
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tensor(self, image: ImageSource, *, color: ColorOrder) -> npt.NDArray[np.uint8]:
        return preprocess(image, self.manifest.preprocess, color=color)

    def _answer(self, lanes: Lanes, image: ImageSource, *, color: ColorOrder, top: int, threshold: float) -> Prediction:
        result = lanes.run({self.manifest.input.name: self._tensor(image, color=color)[np.newaxis]})
        return self.interpret(self._checked(result, 1, self.manifest.output)[0], top=top, threshold=threshold)

    def _side_by_side(self, count: int) -> Lanes:
        from edgetl_runtime.lanes import Lanes

        if count not in self._lanes:
            self._lanes.setdefault(count, Lanes(self.session, self._threads, self._open_lane, count=count))
        return self._lanes[count]

    def _feature(self, layer: str | None) -> TensorSpec:
        """What the manifest says of a feature, by default of the first."""
        features = {spec.name: spec for spec in self.manifest.features}
        if not features:
            raise BundleError(
                f"{self.manifest.name!r} gives logits and no features",
                fix="edgetl export CHECKPOINT --calibration DIR --features pooled --out BUNDLE",
            )
        if layer is None:
            return self.manifest.features[0]
        if layer not in features:
            raise UsageError(f"{self.manifest.name!r} has no feature {layer!r}", fix=nearest(layer, list(features)))
        return features[layer]

    def _rows(self, tensors: Iterable[npt.NDArray[np.uint8]], output: TensorSpec) -> Iterator[npt.NDArray[np.float32]]:
        """What `output` is for each tensor, without the batch; run in batches as large as the model takes."""
        fixed = self.manifest.input.shape[0]
        most = _MOST_AT_ONCE if fixed == -1 else fixed
        waiting = iter(tensors)
        while batch := list(islice(waiting, most)):
            stacked = np.stack(batch)
            if fixed > len(batch):
                # What is missing to a fixed batch is filled up, and its answers are dropped.
                stacked = np.concatenate([stacked, np.zeros((fixed - len(batch), *stacked.shape[1:]), np.uint8)])
            yield from self._run_batch(stacked, output)[: len(batch)]

    def _run_batch(self, images: npt.NDArray[np.uint8], output: TensorSpec) -> npt.NDArray[np.float32]:
        """(n, H, W, C) uint8 to what `output` is for them, float32 (n, ...)."""
        return self._checked(self.session.run({self.manifest.input.name: images}), len(images), output)

    def _checked(self, result: Tensors, n: int, output: TensorSpec) -> npt.NDArray[np.float32]:
        """What `output` is for `n` images; `EngineError` when its shape is not what the manifest says."""
        values: npt.NDArray[np.float32] = result[output.name]
        wanted = (n, *output.shape[1:])
        fits = values.ndim == len(wanted) and all(
            size in (-1, given) for size, given in zip(wanted, values.shape, strict=True)
        )
        if not fits:
            raise EngineError(
                f"variant {self.variant.id} gave {output.name} of {list(values.shape)}, not {list(wanted)}",
                fix="export the bundle again",
            )
        return values


def load(
    path: str | os.PathLike[str] | Bundle,
    *,
    variant: str | None = None,
    engine: str = "auto",
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    strict: bool = False,
    min_top1: float | None = None,
    max_drop: float | None = None,
    verify: bool = True,
) -> Classifier:
    """Load a classifier from a bundle folder, a zip of one, or one model file.

    Without `variant` the fastest one that an installed engine runs and that passed verification is taken, with a
    recorded top-1 of at least `min_top1` and at most `max_drop` below the original's: see `choose`, which tries them
    on the first start. `engine` limits that to one engine.

    `device` is "cpu", "gpu", "npu", "edgetpu", "auto", or an engine's own name for one (an ONNX Runtime provider like
    "xnnpack" or "tensorrt", the path of a LiteRT delegate, an OpenVINO device like "HETERO:GPU,CPU");
    `device_options` go to it. Operators that run elsewhere are a `FallbackWarning`, or with `strict` an error.

    `threads` limits the cores of one run; `verify` holds the files against their hashes.
    Raises `BundleError`, `MissingDependency` or `EngineError`.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    choice = None
    if variant is not None:
        chosen = _named(bundle.manifest, variant, engine)
    else:
        # Imported when it is needed, like other modules here: a device that names its variant starts without it.
        from edgetl_runtime.choice import Wish, choose

        wish = Wish(engine, device, dict(device_options or {}), threads, strict, min_top1, max_drop)
        choice = choose(bundle, wish)
        chosen = bundle.manifest.variant(choice.variant)

    def opened(threads: int | None) -> Session:
        return bundle.session(
            chosen.id, threads=threads, device=device, device_options=device_options, strict=strict, verify=verify
        )

    session = opened(threads)
    # An accelerator is one: it has nothing to share among sessions.
    open_lane = opened if session.device.lower() == "cpu" else None
    try:
        return Classifier(
            bundle.manifest, chosen, session, choice=choice, threads=threads or usable_cores(), open_lane=open_lane
        )
    except BundleError:
        session.close()
        raise


def _named(manifest: Manifest, variant_id: str, engine: str) -> Variant:
    """The variant of that name; the `EdgetlError` that says why when it cannot run here in `engine`."""
    variant = manifest.variant(variant_id)
    if engine != "auto" and engine_info(engine).name != variant.requires.engine:
        raise EngineError(
            f"variant {variant_id} runs in {variant.requires.engine}, not in {engine}", fix="leave the engine out"
        )
    found = obstacle(variant)
    if found is not None:
        raise found.error
    return variant


def _in_order(
    ready: Generator[Future[Prediction], None, None], lanes: Lanes, *, keep_errors: bool
) -> Iterator[Prediction | ImageError]:
    with closing(ready):
        for future in ready:
            lanes.widen()  # here and not in a worker: warnings and errors are the caller's
            error = future.exception()
            yield error if keep_errors and isinstance(error, ImageError) else future.result()


def _separate(image: ImageSource | Iterable[ImageSource]) -> tuple[Iterable[ImageSource], bool]:
    """The images, and whether it is one and not several. `UsageError` for what is neither."""
    one = isinstance(image, _ONE_IMAGE) and not (isinstance(image, np.ndarray) and image.ndim == 4)
    if one or hasattr(image, "read_bytes"):
        return [cast("ImageSource", image)], True
    if not isinstance(image, Iterable):
        raise UsageError(
            f"cannot read an image from {type(image).__name__}",
            fix="pass a path, bytes, a PIL image, a numpy array (H, W, 3) of uint8, or an iterable of them",
        )
    return cast("Iterable[ImageSource]", image), False


def _check_asked(top: int, threshold: float) -> None:
    if top < 1:
        raise UsageError(f"top must be at least 1, not {top}")
    if not 0.0 <= threshold <= 1.0:
        raise UsageError(f"a threshold is a probability, not {threshold}", fix="0 <= threshold <= 1")


def _count_workers(workers: int | None) -> int:
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}", fix="leave it out for one per core")
    return workers or usable_cores()


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
