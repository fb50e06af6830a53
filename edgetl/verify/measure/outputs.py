"""The same images through the original model and every variant, in bounded memory: only the logits are kept, and those
of many images on disk; features are compared as they come."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Sample
from edgetl.verify.measure.original_outputs import FeatureModel
from edgetl.verify.measure.parity import FeatureSums
from edgetl.verify.report import FeatureParity
from edgetl_export.progress import Track
from edgetl_runtime.errors import CheckpointError, EdgetlError, EngineError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.preprocess import preprocess
from edgetl_runtime.session import Session

__all__ = ["Images", "Logits", "OriginalModel", "Outputs", "collect_outputs", "fingerprint_of"]

Images: TypeAlias = npt.NDArray[np.uint8]
Logits: TypeAlias = npt.NDArray[np.float32]
OriginalModel: TypeAlias = Callable[[Images], Logits] | FeatureModel
"""The original model: (batch, height, width, C) uint8 to (batch, classes) float32 logits."""

CHUNK = 64
"""Images held at a time."""

_MOST_IN_MEMORY = 2**25
"""Bytes of the logits of one model; more of them lie in a temporary file that is mapped into memory."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the models said, image by image in the order of the samples.

    ``reference`` is (n, classes) float32; ``variants`` the same by variant id, for those in ``errors`` missing.
    ``engines`` has name and version by variant id. ``first_image`` is (1, H, W, C) uint8, ``fingerprint`` a SHA-256
    over the tensors and labels of all images. ``features`` compares the features by variant id; of a reference that
    gives none there are none.
    """

    reference: Logits
    variants: dict[str, Logits]
    engines: dict[str, tuple[str, str]]
    errors: dict[str, EdgetlError]
    first_image: Images
    fingerprint: str
    features: dict[str, tuple[FeatureParity, ...]] = field(default_factory=dict)


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
    uses. Raises `CheckpointError` when the reference gives anything but finite logits for the manifest's labels.
    """
    errors: dict[str, EdgetlError] = {}
    shape = (len(samples), len(manifest.labels))
    expected, given = _room(shape), {name: _room(shape) for name in openers}
    features = _features(reference, manifest)
    sums = {name: tuple(FeatureSums(feature) for feature in features) for name in openers}
    done = 0
    digest, images = hashlib.sha256(), np.empty(0, np.uint8)
    first_image: Images | None = None
    # Sessions of few threads side by side use the cores better than one session at a time on all of them.
    with ExitStack() as stack, ThreadPoolExecutor(max(1, usable_cores() // threads)) as pool:
        sessions = _open_all(openers, stack, errors)
        for chunk in _chunks(track(samples, what="verify", total=len(samples))):
            images = _prepared(chunk, manifest, pool)
            first_image = images[:1] if first_image is None else first_image
            digest.update(_labelled(chunk, images))
            rows = slice(done, done + len(images))
            outputs = _asked(reference, images, manifest, features)
            expected[rows] = _checked(outputs[manifest.output.name], len(images), len(manifest.labels))
            running = [name for name in sessions if name not in errors]
            answers = pool.map(
                partial(_answer, images=images, manifest=manifest, expected=outputs),
                [sessions[name] for name in running],
                [sums[name] for name in running],
            )
            for name, answer in zip(running, answers, strict=True):
                if isinstance(answer, EdgetlError):
                    errors[name] = answer
                else:
                    given[name][rows] = answer
            done += len(images)
        engines = {name: (session.engine, session.engine_version) for name, session in sessions.items()}
    assert first_image is not None
    return Outputs(
        reference=expected,
        variants={name: logits for name, logits in given.items() if name not in errors},
        engines=engines,
        errors=errors,
        first_image=first_image,
        fingerprint=digest.hexdigest(),
        features={name: tuple(one.parity() for one in sums[name]) for name in given if name not in errors},
    )


def fingerprint_of(samples: Sequence[Sample], manifest: Manifest) -> str:
    """``Answers.fingerprint`` of `samples`, found without asking any model."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk in _chunks(samples):
            digest.update(_labelled(chunk, _prepared(chunk, manifest, pool)))
    return digest.hexdigest()


def _prepared(chunk: Sequence[Sample], manifest: Manifest, pool: ThreadPoolExecutor) -> Images:
    """(n, H, W, C): the tensors of `chunk`."""
    return np.stack(list(pool.map(lambda sample: preprocess(sample.source, manifest.preprocess), chunk)))


def _labelled(chunk: Sequence[Sample], images: Images) -> bytes:
    """What the fingerprint is over: the labels of `chunk` and its tensors."""
    return np.array([sample.label for sample in chunk], dtype="<i8").tobytes() + images.tobytes()


def _features(reference: OriginalModel, manifest: Manifest) -> list[str]:
    """The manifest's features that `reference` gives too."""
    known = reference.features if isinstance(reference, FeatureModel) else ()
    return [spec.name for spec in manifest.features if spec.name in known]


def _asked(
    reference: OriginalModel, images: Images, manifest: Manifest, features: Sequence[str]
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Logits and `features` of the original by name."""
    if features and isinstance(reference, FeatureModel):
        return reference.outputs(images)
    return {manifest.output.name: reference(images)}


def _room(shape: tuple[int, int]) -> Logits:
    """An array for logits: in memory, or in a file that has no name and goes with the array."""
    if 4 * shape[0] * shape[1] <= _MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


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


def _chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _answer(
    session: Session,
    sums: Sequence[FeatureSums],
    images: Images,
    manifest: Manifest,
    expected: Mapping[str, npt.NDArray[np.float32]],
) -> Logits | EdgetlError:
    """Logits of one session for all `images`, one image a run as on the device, or the error that stopped it.

    Features are added to `sums`, beside those that are `expected`.
    """
    rows = []
    wanted = (1, len(manifest.labels))
    for index in range(len(images)):
        try:
            outputs = session.run({manifest.input.name: images[index : index + 1]})
        except EdgetlError as error:
            return error
        row = outputs.get(manifest.output.name)
        if row is None or row.shape != wanted:
            found = f"outputs {', '.join(outputs)}" if row is None else f"{list(row.shape)}"
            return EngineError(f"expected {manifest.output.name!r} of shape {list(wanted)}, found {found}")
        rows.append(row.astype(np.float32, copy=False))
        for one in sums:
            original, values = expected[one.name][index : index + 1], outputs.get(one.name)
            if values is None or values.shape != original.shape:
                about = "nothing" if values is None else f"{list(values.shape)}"
                return EngineError(f"expected {one.name!r} of shape {list(original.shape)}, found {about}")
            one.add(original, values)
    return np.concatenate(rows)


def _checked(logits: Logits, images: int, classes: int) -> Logits:
    if logits.shape != (images, classes):
        raise CheckpointError(
            f"the reference gives logits of shape {list(logits.shape)}, the bundle's labels need {[images, classes]}",
            fix="pass the checkpoint that the bundle was exported from",
        )
    if not np.isfinite(logits).all():
        raise CheckpointError("the reference gives logits that are not finite", fix="train or download it again")
    return logits
