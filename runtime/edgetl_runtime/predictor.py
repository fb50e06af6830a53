"""Photos in, results out: what the predictors of all tasks share - one image, batches, streams, features."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Self, TypeAlias, TypeVar

import numpy as np

from edgetl_runtime.asked import is_count
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.batches import filled, images_at_once, run_images
from edgetl_runtime.errors import BundleError, EngineError, ImageError, UsageError, nearest
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Manifest, TensorSpec, Variant
from edgetl_runtime.placement import Placement
from edgetl_runtime.placing import Placed
from edgetl_runtime.preprocess import ColorOrder, file_content, preprocess_placed
from edgetl_runtime.session import Session, Tensors
from edgetl_runtime.sources import ImageSource, separate

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy.typing as npt

    from edgetl_runtime.choice import Choice
    from edgetl_runtime.lanes import Lanes

__all__ = ["Outputs", "Predictor"]

_SELF_TEST = "edgetl-run self-test BUNDLE"
_MOST_LABELS_SHOWN = 5

Result_co = TypeVar("Result_co", covariant=True)
Outputs: TypeAlias = "Mapping[str, npt.NDArray[Any]]"
"""The outputs of one image by name, without the batch."""
_Held: TypeAlias = "tuple[ImageSource, ImageSource | ImageError]"
"""An image as it was given, and what a worker reads: the content of an open file, or why it could not be read."""
_Prepared: TypeAlias = "tuple[npt.NDArray[np.uint8], Placed]"
_Read: TypeAlias = "tuple[ImageSource, _Prepared | ImageError]"
_Answer: TypeAlias = "tuple[ImageSource, Any]"


class Predictor(Generic[Result_co]):
    """A variant, loaded. Made by `load`; a context manager; threads may share it.

    A task has a subclass with methods ``predict``, ``predict_batch`` and ``stream`` of its own, and `_decode`.
    ``open_lane(threads)`` opens another session of the variant, for streams; `threads` is what `session` uses.
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
        self._check(manifest)
        spec, fed = manifest.input, (*manifest.preprocess.crop, manifest.preprocess.channels)
        if spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[1:] != fed:
            raise BundleError(
                f"{manifest.name!r} takes {spec.dtype} {list(spec.shape)}; a {type(self).__name__} feeds uint8 images "
                f"[n, {', '.join(map(str, fed))}]",
                fix="export with the default input, or feed the session yourself",
            )
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
        kind = f"{type(self).__name__} {self.manifest.name!r}"
        return f"<{kind}: {self.variant.id} in {engine}; {len(self.labels)} labels: {names}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"a {type(self).__name__.lower()} cannot be pickled or copied: it has {self.session.engine} open",
            fix="load it in each process; a process that is forked may use its parent's",
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the manifest."""
        return tuple(label.name for label in self.manifest.labels)

    def _check(self, manifest: Manifest) -> None:
        """Raises `BundleError` for a manifest whose outputs this cannot decode."""

    def _decode(self, outputs: Outputs, placed: Placed, **options: Any) -> Result_co:
        """What the outputs of one image say; `placed` tells where the photo lies in the tensor."""
        raise NotImplementedError

    def _predict(self, image: ImageSource | Iterable[ImageSource], *, color: ColorOrder, **options: Any) -> Any:
        """The result of an image, or a list of those of each image of an iterable, one after the other.

        `options` are those of `_decode`. Raises `ImageError` when an image cannot be read, `UsageError` for what is
        none.
        """
        images, one = separate(image)
        # One by one: what is wrong with the second image is said after the first was run.
        results = [result for item in images for result in self._results([self._prepare(item, color=color)], **options)]
        return results[0] if one else results

    def _predict_batch(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        workers: int | None,
        color: ColorOrder,
        **options: Any,
    ) -> list[Result_co]:
        """`_predict` for many images at once: they are decoded on `workers` threads (None: one per core) and run in
        batches as large as the model takes. One image gives a list of one."""
        from edgetl_runtime.streaming import map_ahead

        work = partial(self._prepare_held, color=color)
        ready = map_ahead(work, _held(separate(images)[0]), workers=_count_workers(workers))
        with closing(ready):
            return list(self._results((future.result() for future in ready), **options))

    def _stream(
        self,
        images: Any,
        *,
        workers: int | None,
        color: ColorOrder,
        errors: Literal["raise", "return"],
        pairs: bool,
        latest: bool,
        **options: Any,
    ) -> Iterator[Any]:
        """`_predict` for a stream, endless if need be: see `edgetl_runtime.tasks.classification.Classifier.stream`."""
        if errors not in ("raise", "return"):
            raise UsageError(f"unknown errors {errors!r}", fix='errors="raise" or errors="return"')
        from edgetl_runtime.streaming import map_ahead, map_latest, map_together

        count, held = _count_workers(workers), _held(separate(images)[0])
        if self._streams_together and not latest:
            read, run = partial(self._read, color=color), partial(self._answers, options=options)
            together = map_together(read, run, held, workers=count, most=images_at_once(self.session))
            return _in_order(together, None, keep_errors=errors == "return", pairs=pairs)
        lanes = self._side_by_side(count)
        work = partial(self._answer, lanes, color=color, options=options)
        ready = (map_latest if latest else map_ahead)(work, held, workers=count)
        return _in_order(ready, lanes, keep_errors=errors == "return", pairs=pairs)

    def embed(
        self,
        image: ImageSource | Iterable[ImageSource],
        *,
        layer: str | None = None,
        normalize: Literal[False, "l2"] = False,
        color: ColorOrder = "RGB",
    ) -> npt.NDArray[np.float32]:
        """What the bundle gives besides its outputs: float32 (d,) of an image, (n, d) of an array or an iterable of n.

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
        prepared = (self._prepare(item, color=color) for item in images)
        rows = [outputs[spec.name] for outputs, _ in self._rows(prepared, (spec,))]
        values = np.stack(rows) if rows else np.zeros((0, *spec.shape[1:]), np.float32)
        if not np.isfinite(values).all():
            raise EngineError(f"variant {self.variant.id} gave {spec.name} that is not finite", fix=_SELF_TEST)
        if normalize:
            lengths = np.linalg.norm(values, axis=-1, keepdims=True)
            values /= np.maximum(lengths, np.finfo(np.float32).tiny)
        features: npt.NDArray[np.float32] = values[0] if one else values
        return features

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Raw tensors in and out, by name: preprocessing and decoding are the caller's. See `Session.run`."""
        return self.session.run(feeds)

    def placement(self) -> Placement:
        """Where each operator runs. Raises `EngineError` when the engine cannot tell."""
        return self.session.placement()

    def explain(self) -> None:
        """Print why this variant was taken, with the table of those it was chosen from."""
        print(self.choice or f"{self.variant.id}: it was named")

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

    def _prepare(self, image: ImageSource, *, color: ColorOrder) -> _Prepared:
        return preprocess_placed(image, self.manifest.preprocess, color=color)

    def _prepare_held(self, held: _Held, *, color: ColorOrder) -> _Prepared:
        if isinstance(held[1], ImageError):
            raise held[1]
        return self._prepare(held[1], color=color)

    def _answer(self, lanes: Lanes, held: _Held, *, color: ColorOrder, options: Mapping[str, Any]) -> _Answer:
        """An image as it was given, with what it is or why it cannot be read."""
        image, prepared = self._read(held, color=color)
        if isinstance(prepared, ImageError):
            return image, prepared
        tensor, placed = prepared
        batch = lanes.run({self.manifest.input.name: filled(self.session, tensor[np.newaxis])})
        result = {name: values[:1] for name, values in batch.items()}
        outputs = {spec.name: self._checked(result, 1, spec)[0] for spec in self.manifest.outputs}
        return image, self._decode(outputs, placed, **options)

    def _read(self, held: _Held, *, color: ColorOrder) -> _Read:
        """An image as it was given, with its tensor or why it cannot be read."""
        try:
            return held[0], self._prepare_held(held, color=color)
        except ImageError as error:
            return held[0], error

    def _answers(self, read: Sequence[_Read], *, options: Mapping[str, Any]) -> list[_Answer]:
        """`_answer` for images that were read, in one run."""
        results = self._results((part for _, part in read if not isinstance(part, ImageError)), **options)
        return [(image, part if isinstance(part, ImageError) else next(results)) for image, part in read]

    @property
    def _streams_together(self) -> bool:
        """Whether a stream's images are run several at once. Where a variant takes any number, a session for each core
        was as fast (0.93 to 1.04 of batch 1, batches 0.85 to 0.97: MobileNetV2, two busy cores) and answers sooner."""
        batch = self.session.inputs[0].shape[0]
        return batch > 1 or (batch == FREE and self._open_lane is None)

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
                f"{self.manifest.name!r} gives {self.manifest.output.name} and no features",
                fix="edgetl export CHECKPOINT --calibration DIR --features pooled --out BUNDLE",
            )
        if layer is None:
            return self.manifest.features[0]
        if not isinstance(layer, str) or layer not in features:
            raise UsageError(
                f"{self.manifest.name!r} has no feature {layer!r}", fix=nearest(str(layer), list(features))
            )
        return features[layer]

    def _results(self, prepared: Iterable[_Prepared], **options: Any) -> Iterator[Result_co]:
        """What each image is; run in batches as large as the model takes."""
        for outputs, placed in self._rows(prepared, self.manifest.outputs):
            yield self._decode(outputs, placed, **options)

    def _rows(self, prepared: Iterable[_Prepared], specs: Sequence[TensorSpec]) -> Iterator[tuple[Outputs, Placed]]:
        """What `specs` are for each image, and where it lies; run in batches as large as the model takes."""
        waiting, most = iter(prepared), images_at_once(self.session)
        while batch := list(islice(waiting, most)):
            stacked = batch[0][0][np.newaxis] if len(batch) == 1 else np.stack([tensor for tensor, _ in batch])
            outputs = self._run_batch(stacked, specs)
            for row, (_, placed) in enumerate(batch):
                yield {name: values[row] for name, values in outputs.items()}, placed

    def _run_batch(self, images: npt.NDArray[np.uint8], specs: Sequence[TensorSpec]) -> Tensors:
        """(n, H, W, C) uint8 to what `specs` are for them by name, (n, ...) each."""
        result = run_images(self.session, images)
        return {spec.name: self._checked(result, len(images), spec) for spec in specs}

    def _checked(self, result: Tensors, n: int, output: TensorSpec) -> npt.NDArray[Any]:
        """What `output` is for `n` images; `EngineError` when its shape is not what the manifest says."""
        values: npt.NDArray[Any] = result[output.name]
        expected = (n, *output.shape[1:])
        fits = values.ndim == len(expected) and all(
            size in (-1, actual) for size, actual in zip(expected, values.shape, strict=True)
        )
        if not fits:
            raise EngineError(
                f"variant {self.variant.id} gave {output.name} of {list(values.shape)}, not {list(expected)}",
                fix="export the bundle again",
            )
        return values


def _in_order(
    ready: Generator[Future[_Answer], None, None], lanes: Lanes | None, *, keep_errors: bool, pairs: bool
) -> Iterator[Any]:
    with closing(ready):
        for future in ready:
            if lanes is not None:
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


def _count_workers(workers: int | None) -> int:
    if workers is not None and not is_count(workers):
        raise UsageError(f"workers must be at least 1, not {workers!r}", fix="leave it out for one per core")
    return workers or usable_cores()
