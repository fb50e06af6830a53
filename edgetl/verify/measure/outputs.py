"""The same images through the original model and every variant, in bounded memory: outputs are compared and judged as
they come, and only what a metric keeps of them stays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.tasks import task_of
from edgetl.tasks.task import Metric
from edgetl.tasks.task import Outputs as Arrays
from edgetl.verify.measure.batches import BatchSums, size_of
from edgetl.verify.measure.cross_format import is_compared
from edgetl.verify.measure.original_outputs import FeatureModel
from edgetl.verify.measure.parity import FeatureSums, ParitySums
from edgetl.verify.report import CrossFormatParity, FeatureParity, Parity
from edgetl_export.progress import Track
from edgetl_runtime import tasks as device_tasks
from edgetl_runtime.batches import run_images
from edgetl_runtime.errors import CheckpointError, EdgetlError, EngineError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.session import Session, Tensors

__all__ = ["Images", "OriginalModel", "Outputs", "collect_outputs", "fingerprint_of"]

Images: TypeAlias = npt.NDArray[np.uint8]
OriginalModel: TypeAlias = Callable[[Images], npt.NDArray[np.float32]] | FeatureModel
"""The original model: (batch, height, width, C) uint8 to its output, (batch, ...) float32, or all of them by name."""

CHUNK = 64
"""Images held at a time, with the outputs of all models for them: fewer where those are large."""
_MOST_OF_A_CHUNK = 2**24  # bytes of outputs of one model


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the models said to the samples, as far as it is kept.

    ``original`` and ``variants`` (by variant id, those in ``errors`` missing) are the full metrics of the task;
    ``parity`` compares each variant with the original, ``cross_format`` every two variants that were written from the
    same integers. ``engines`` has name and version by variant id. ``first_image`` is (1, H, W, C) uint8,
    ``fingerprint`` a SHA-256 over the tensors and labels of all images. ``features`` compares the features by variant
    id; of an original that gives none there are none. ``batches`` compares images alone and together, of variants that
    take several at once.
    """

    original: Metric
    variants: dict[str, Metric]
    parity: dict[str, Parity]
    engines: dict[str, tuple[str, str]]
    errors: dict[str, EdgetlError]
    first_image: Images
    fingerprint: str
    features: dict[str, tuple[FeatureParity, ...]] = field(default_factory=dict)
    cross_format: tuple[CrossFormatParity, ...] = ()
    batches: dict[str, BatchSums] = field(default_factory=dict)


def collect_outputs(
    openers: Mapping[str, Callable[[], Session]],
    reference: OriginalModel,
    samples: Sequence[Sample],
    manifest: Manifest,
    *,
    threads: int,
    track: Track,
) -> Outputs:
    """Stream `samples`, at least one, through `reference` and through the session that each opener loads.

    A variant that cannot be loaded or run is left out from there on and its error kept. `threads` is what a session
    uses. Raises `CheckpointError` when the reference gives anything but finite outputs of the manifest's shapes.
    """
    errors: dict[str, EdgetlError] = {}
    task, n = task_of(manifest.task), len(samples)
    alike = partial(device_tasks.task_of(manifest.task).agreement, decoder=manifest.decoder)
    names, features = [spec.name for spec in manifest.outputs], _features(reference, manifest)
    original = task.metric(manifest, n)
    metrics = {name: task.metric(manifest, n) for name in openers}
    sums = {name: ParitySums(names, alike) for name in openers}
    feature_sums = {name: tuple(FeatureSums(feature) for feature in features) for name in openers}
    pairs = {pair: ParitySums(names, alike) for pair in combinations(filter(is_compared, openers), 2)}
    digest, first_image = hashlib.sha256(), None
    # Sessions of few threads side by side use the cores better than one session at a time on all of them.
    with ExitStack() as stack, ThreadPoolExecutor(max(1, usable_cores() // threads)) as pool:
        sessions = _open_all(openers, stack, errors)
        batches = {name: BatchSums(size_of(session), names, alike) for name, session in sessions.items()}
        for chunk in _chunks(track(samples, what="verify", total=n), _chunk_size(manifest)):
            images = _prepared(chunk, manifest, pool)
            first_image = images[:1] if first_image is None else first_image
            digest.update(_labelled(chunk, images))
            expected = _checked(_asked(reference, images, manifest, features), len(images), manifest)
            original.update(chunk, expected)
            running = [name for name in sessions if name not in errors]
            answers = pool.map(
                partial(_answer, images=images, manifest=manifest, expected=expected),
                [sessions[name] for name in running],
                [feature_sums[name] for name in running],
                [batches[name] for name in running],
            )
            given: dict[str, Arrays] = {}
            for name, answer in zip(running, answers, strict=True):
                if isinstance(answer, EdgetlError):
                    errors[name] = answer
                    continue
                given[name] = answer
                sums[name].add(expected, answer)
                metrics[name].update(chunk, answer)
            for (one, other), between in pairs.items():
                if one in given and other in given:
                    between.add(given[one], given[other])
        engines = {name: (session.engine, session.engine_version) for name, session in sessions.items()}
    assert first_image is not None
    sound = [name for name in openers if name not in errors]
    of_labels = task.agreement == "top1_agreement"
    return Outputs(
        original=original,
        variants={name: metrics[name] for name in sound},
        parity={name: sums[name].parity(of_labels=of_labels) for name in sound},
        engines=engines,
        errors=errors,
        first_image=first_image,
        fingerprint=digest.hexdigest(),
        features={name: tuple(one.parity() for one in feature_sums[name]) for name in sound},
        cross_format=tuple(
            CrossFormatParity(pair, between.parity(of_labels=of_labels))
            for pair, between in pairs.items()
            if set(pair) <= set(sound)
        ),
        batches={name: one for name, one in batches.items() if one.size > 1 and name in sound},
    )


def fingerprint_of(samples: Sequence[Sample], manifest: Manifest) -> str:
    """``Answers.fingerprint`` of `samples`, found without asking any model."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk in _chunks(samples, _chunk_size(manifest)):
            digest.update(_labelled(chunk, _prepared(chunk, manifest, pool)))
    return digest.hexdigest()


def _prepared(chunk: Sequence[Sample], manifest: Manifest, pool: ThreadPoolExecutor) -> Images:
    """(n, H, W, C): the tensors of `chunk`."""
    return np.stack(list(pool.map(lambda sample: preprocess(sample.source, manifest.preprocess), chunk)))


def _labelled(chunk: Sequence[Sample], images: Images) -> bytes:
    """What the fingerprint is over: the labels of `chunk`, its tensors, and the targets that are no labels."""
    labels = np.array([sample.label for sample in chunk], dtype="<i8").tobytes()
    targets = b"".join(np.ascontiguousarray(sample.target).tobytes() for sample in chunk if sample.target is not None)
    return labels + images.tobytes() + targets


def _chunk_size(manifest: Manifest) -> int:
    """Images at a time, so that the outputs of a model for them stay small."""
    specs = manifest.all_outputs
    size = sum(math.prod(map(abs, spec.shape[1:])) * np.dtype(spec.dtype).itemsize for spec in specs)
    return max(1, min(CHUNK, _MOST_OF_A_CHUNK // max(1, size)))


def _features(reference: OriginalModel, manifest: Manifest) -> list[str]:
    """The manifest's features that `reference` gives too."""
    known = reference.features if isinstance(reference, FeatureModel) else ()
    return [spec.name for spec in manifest.features if spec.name in known]


def _asked(
    reference: OriginalModel, images: Images, manifest: Manifest, features: Sequence[str]
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Outputs and `features` of the original by name."""
    if (features or len(manifest.outputs) > 1) and isinstance(reference, FeatureModel):
        return reference.outputs(images)
    return {manifest.output.name: reference(images)}


def _open_all(
    openers: Mapping[str, Callable[[], Session]], stack: ExitStack, errors: dict[str, EdgetlError]
) -> dict[str, Session]:
    sessions: dict[str, Session] = {}
    for name, opener in openers.items():
        try:
            sessions[name] = stack.enter_context(opener())
        except EdgetlError as error:
            errors[name] = error
    return sessions


def _chunks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _answer(
    session: Session,
    sums: Sequence[FeatureSums],
    batches: BatchSums,
    images: Images,
    manifest: Manifest,
    expected: Mapping[str, npt.NDArray[np.float32]],
) -> Arrays | EdgetlError:
    """Outputs of one session for all `images`, one image a run as on the device, or the error that stopped it.

    Features are added to `sums`, beside those that are `expected`. Where it takes several images in one run they are
    run together too, and both are added to `batches`.
    """
    size, parts = batches.size, []
    try:
        for start in range(0, len(images), size):
            places = range(start, min(start + size, len(images)))
            alone = [_of_one(session, images, place, manifest, sums, expected) for place in places]
            parts.append({name: np.concatenate([one[name] for one in alone]) for name in alone[0]})
            if size > 1:
                batches.add(parts[-1], run_images(session, images[start : start + size]))
    except EdgetlError as error:
        return error
    return {
        spec.name: np.concatenate([part[spec.name] for part in parts]).astype(np.float32, copy=False)
        for spec in manifest.outputs
    }


def _of_one(
    session: Session,
    images: Images,
    place: int,
    manifest: Manifest,
    sums: Sequence[FeatureSums],
    expected: Mapping[str, npt.NDArray[np.float32]],
) -> Tensors:
    """What a session gives for one of `images`; `EngineError` when that is not what the manifest says."""
    outputs = run_images(session, images[place : place + 1])
    for name in (spec.name for spec in manifest.outputs):
        row, wanted = outputs.get(name), (1, *expected[name].shape[1:])
        if row is None or row.shape != wanted:
            found = f"outputs {', '.join(outputs)}" if row is None else f"{list(row.shape)}"
            raise EngineError(f"expected {name!r} of shape {list(wanted)}, found {found}")
    for one in sums:
        original, values = expected[one.name][place : place + 1], outputs.get(one.name)
        if values is None or values.shape != original.shape:
            about = "nothing" if values is None else f"{list(values.shape)}"
            raise EngineError(f"expected {one.name!r} of shape {list(original.shape)}, found {about}")
        one.add(original, values)
    return outputs


def _checked(
    outputs: Mapping[str, npt.NDArray[np.float32]], images: int, manifest: Manifest
) -> Mapping[str, npt.NDArray[np.float32]]:
    for spec in manifest.outputs:
        values, wanted = outputs.get(spec.name), (images, *spec.shape[1:])
        if values is None or not _fits(values.shape, wanted):
            found = "nothing" if values is None else f"shape {list(values.shape)}"
            raise CheckpointError(
                f"the reference gives {spec.name} of {found}, the bundle's labels need {list(wanted)}",
                fix="pass the checkpoint that the bundle was exported from",
            )
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"the reference gives {spec.name} that are not finite", fix="train or download it again"
            )
    return outputs


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(size in (-1, given) for size, given in zip(wanted, shape, strict=True))
