"""The task API for classification: a photo in, labels with probabilities out."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, TypeVar, overload

import numpy as np

from edgetl_runtime.asked import is_count
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.engines import engine_info
from edgetl_runtime.errors import BundleError, EngineError, ImageError, UsageError, nearest
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Manifest, TensorSpec, Variant
from edgetl_runtime.placement import Placement
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.preprocess import ColorOrder, file_content, preprocess
from edgetl_runtime.results import Prediction, Score
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.sources import ImageSource, separate

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from edgetl_runtime.choice import Choice
    from edgetl_runtime.lanes import Lanes

__all__ = ["Classifier", "Prediction", "Score", "load", "softmax"]

_SELF_TEST = "edgetl-run self-test BUNDLE"
_MOST_AT_ONCE = 32  # images in one run of a model that takes any number
_MOST_LABELS_SHOWN = 5

_Image = TypeVar("_Image")
_Held: TypeAlias = "tuple[ImageSource, ImageSource | ImageError]"
"""An image as it was given, and what a worker reads: the content of an open file, or why it could not be read."""
_Answer: TypeAlias = "tuple[ImageSource, Prediction | ImageError]"


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
        if len(manifest.labels) < 2:
            message = f"{manifest.name!r} gives a single logit: softmax makes 100 % of it, whatever is in the image"
            warnings.warn(message, stacklevel=3)
        self.manifest = manifest
        self.variant = variant
        self.session = session
        self.choice = choice
        self._threads = threads
        self._open_lane = open_lane
        self._lanes: dict[tuple[int, int], Lanes] = {}

    def __repr__(self) -> str:
        names = ", ".join(self.labels[:_MOST_LABELS_SHOWN]) + (", ..." if len(self.labels) > _MOST_LABELS_SHOWN else "")
        engine = f"{self.session.engine} {self.session.engine_version}" + (", closed" if self.session.closed else "")
        return f"<Classifier {self.manifest.name!r}: {self.variant.id} in {engine}; {len(self.labels)} labels: {names}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"a classifier cannot be pickled or copied: it has {self.session.engine} open",
            fix="load it in each process; a process that is forked may use its parent's",
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits: ``labels[score.index]`` is ``score.name``."""
        return tuple(label.name for label in self.manifest.labels)

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
        """The `top` labels of an image, or of each image of an iterable, one after the other.

        An image is a path, the bytes of a file (bytes, bytearray, memoryview), an open file, an upload or whatever else
        has ``read()`` or ``read_bytes()``, a PIL image, or a uint8 array (H, W, 3), (H, W, C) for a model of C
        channels; an array (n, H, W, C) is n of them. The same holds for the other methods. `top` None gives all labels.
        `color` is the channel order of arrays ("BGR" for OpenCV frames). Labels less probable than `threshold` (0..1)
        are left out. Raises `ImageError` when an image cannot be read, `UsageError` for what is none.
        """
        top = _check_asked(top, threshold)
        images, one = separate(image)
        tensors = (self._tensor(item, color=color) for item in images)
        found = [self.interpret(self.logits(tensor), top=top, threshold=threshold) for tensor in tensors]
        return found[0] if one else found

    def predict_batch(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None = None,
        top: int | None = 5,
        threshold: float = 0.0,
        color: ColorOrder = "RGB",
    ) -> list[Prediction]:
        """`predict` for many images at once: they are decoded on `workers` threads (default: one per core) and run in
        batches as large as the model takes. One image gives a list of one. Raises `ImageError` when one of them cannot
        be read."""
        top = _check_asked(top, threshold)
        from edgetl_runtime.streaming import map_ahead

        work = partial(self._held_tensor, color=color)
        ready = map_ahead(work, _held(separate(images)[0]), workers=_count_workers(workers))
        with closing(ready):
            rows = self._rows((future.result() for future in ready), self.manifest.output)
            return [self.interpret(row, top=top, threshold=threshold) for row in rows]

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
        its own (on the CPU; about as much memory again), which the classifier keeps for other streams. An image that
        cannot be read raises its `ImageError` in its place, or, with ``errors="return"``, is that error in its place,
        and the stream goes on. What the source of the images raises comes after the results of those before.

        With ``pairs=True`` each result is ``(image, prediction)``, the image as the source gave it. ``latest=True`` is
        for live sources: a thread of its own reads them, a free worker takes the newest image there is, and those that
        came before it are dropped; so are results that nobody took in time when there is a newer image.
        """
        top = _check_asked(top, threshold)
        if errors not in ("raise", "return"):
            raise UsageError(f"unknown errors {errors!r}", fix='errors="raise" or errors="return"')
        from edgetl_runtime.streaming import map_ahead, map_latest

        count = _count_workers(workers)
        lanes = self._side_by_side(count)
        work = partial(self._answer, lanes, color=color, top=top, threshold=threshold)
        ready = (map_latest if latest else map_ahead)(work, _held(separate(images)[0]), workers=count)
        return _in_order(ready, lanes, keep_errors=errors == "return", pairs=pairs)

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
        images, one = separate(image)
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

    def interpret(self, logits: npt.NDArray[np.float32], *, top: int | None = 5, threshold: float = 0.0) -> Prediction:
        """The `top` labels (None: all) for logits (classes,), of those as probable as `threshold`.

        Raises `EngineError` when the logits are not finite.
        """
        if not np.isfinite(logits).all():
            raise EngineError(f"variant {self.variant.id} gave logits that are not finite", fix=_SELF_TEST)
        top = _check_asked(top, threshold)
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

    def _held_tensor(self, held: _Held, *, color: ColorOrder) -> npt.NDArray[np.uint8]:
        if isinstance(held[1], ImageError):
            raise held[1]
        return self._tensor(held[1], color=color)

    def _answer(self, lanes: Lanes, held: _Held, *, color: ColorOrder, top: int, threshold: float) -> _Answer:
        """An image as it was given, with what it is or why it cannot be read."""
        try:
            tensor = self._held_tensor(held, color=color)
        except ImageError as error:
            return held[0], error
        result = lanes.run({self.manifest.input.name: tensor[np.newaxis]})
        row = self._checked(result, 1, self.manifest.output)[0]
        return held[0], self.interpret(row, top=top, threshold=threshold)

    def _side_by_side(self, count: int) -> Lanes:
        from edgetl_runtime.lanes import Lanes

        # A forked process takes none of its parent's: sessions that were just running there would never be free.
        key = os.getpid(), count
        if key not in self._lanes:
            self._lanes.setdefault(key, Lanes(self.session, self._threads, self._open_lane, count=count))
        return self._lanes[key]

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
        if not isinstance(layer, str) or layer not in features:
            raise UsageError(
                f"{self.manifest.name!r} has no feature {layer!r}", fix=nearest(str(layer), list(features))
            )
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
    ready: Generator[Future[_Answer], None, None], lanes: Lanes, *, keep_errors: bool, pairs: bool
) -> Iterator[Any]:
    with closing(ready):
        for future in ready:
            lanes.widen()  # here and not in a worker: warnings and errors are the caller's
            image, answer = future.result()
            if isinstance(answer, ImageError) and not keep_errors:
                raise answer
            yield (image, answer) if pairs else answer


def _held(images: Iterable[ImageSource]) -> Iterator[_Held]:
    """Images with what a worker reads of them. Open files are read here: whoever gives them closes them soon."""
    for image in images:
        content: ImageSource | ImageError = image
        if hasattr(image, "read"):
            try:
                content = file_content(image)
            except ImageError as error:
                content = error
        yield image, content


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


def _count_workers(workers: int | None) -> int:
    if workers is not None and not is_count(workers):
        raise UsageError(f"workers must be at least 1, not {workers!r}", fix="leave it out for one per core")
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
