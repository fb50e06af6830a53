"""The original's answers kept in the bundle, so that it can be held against them where there is no torch.

::

    reference/logits.npz     outputs by name (n, ...) float32, as logits (n, classes), images (n, 32) uint8,
                             labels (n,) int64, features by name
    reference/logits.json    schema, n, the SHA-256 of logits.npz, label ids, checkpoint_sha256

An image is known by the SHA-256 of its tensor: of the pixels as preprocessing left them, whatever the file is called.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgetl.data.content import content_of
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import BundleError, DataError, OutputError
from edgetl_runtime.files import LARGEST_FILE
from edgetl_runtime.manifest import LARGEST_MANIFEST, Manifest
from edgetl_runtime.npy import npz_sizes, read_npz
from edgetl_runtime.writing import write_file

__all__ = ["KEPT_FILES", "FeatureModel", "KeptOutputs", "RecordingOriginal", "check_keeps_more", "read_kept_outputs"]

_Images: TypeAlias = npt.NDArray[np.uint8]

_SCHEMA = 1
_LOGITS, _INDEX = "reference/logits.npz", "reference/logits.json"
KEPT_FILES = (_LOGITS, _INDEX)
"""Paths inside a bundle."""
_MOST_IMAGES = 10_000_000
_DIGEST = 32
"""Bytes of a SHA-256."""
_INFLATES, _LARGE_INFLATED = 64, 2**26
"""Answers are numbers that hardly deflate: what grows more than so many times, and beyond so many bytes, is a bomb."""
_AGAIN = "keep the answers again, where torch is: edgetl verify BUNDLE --data DIR --keep-reference"


@runtime_checkable
class FeatureModel(Protocol):
    """A `OriginalModel` that gives several outputs, or features."""

    def __call__(self, images: _Images) -> npt.NDArray[np.float32]:
        """The first output alone."""
        ...

    @property
    def features(self) -> Collection[str]:
        """The names of what it gives besides."""
        ...

    def outputs(self, images: _Images) -> dict[str, npt.NDArray[np.float32]]:
        """(batch, H, W, C) uint8 to outputs and features by name, (batch, ...) float32 each."""
        ...


@dataclass(frozen=True, eq=False)
class KeptOutputs:
    """A `OriginalModel` that looks answers up: for an image that it does not know it has none.

    ``values`` are the outputs by name, (n, ...) float32, the first of them first, in the order of ``rows``, by image
    the row of its answer; so are ``features``.
    """

    values: Mapping[str, npt.NDArray[np.float32]]
    rows: dict[str, int]
    features: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, images: _Images) -> npt.NDArray[np.float32]:
        """(batch, H, W, C) uint8 to the first output, (batch, ...) float32.

        Raises `DataError` for an image without an answer.
        """
        return next(iter(self.values.values()))[self._rows_of(images)]

    def outputs(self, images: _Images) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs and features of these images by name. Raises `DataError` for an image without an answer."""
        rows = self._rows_of(images)
        return {name: values[rows] for name, values in {**self.values, **self.features}.items()}

    def _rows_of(self, images: _Images) -> npt.NDArray[np.int64]:
        rows = [self.rows.get(content_of(image)) for image in images]
        if None in rows:
            raise DataError(
                f"{rows.count(None)} of {len(images)} images are not among the {len(self.rows)} whose answers "
                "by the original the bundle keeps",
                fix="verify with the same photos, or where torch and the checkpoint are, to compute new answers",
            )
        return np.asarray(rows, np.int64)


@dataclass
class RecordingOriginal:
    """A `OriginalModel` that remembers what `model` answered to every image; `output` is its first output."""

    model: Callable[[_Images], npt.NDArray[np.float32]]
    output: str = "logits"
    _digests: list[bytes] = field(default_factory=list)
    _answers: list[dict[str, npt.NDArray[np.float32]]] = field(default_factory=list)

    @property
    def features(self) -> Collection[str]:
        """What `model` gives besides its outputs."""
        return self.model.features if isinstance(self.model, FeatureModel) else ()

    def __call__(self, images: _Images) -> npt.NDArray[np.float32]:
        """The first output of `model`."""
        return self.outputs(images)[self.output]

    def outputs(self, images: _Images) -> dict[str, npt.NDArray[np.float32]]:
        """What `model` says."""
        outputs = (
            self.model.outputs(images) if isinstance(self.model, FeatureModel) else {self.output: self.model(images)}
        )
        self._digests += [bytes.fromhex(content_of(image)) for image in images]
        self._answers.append(outputs)
        return outputs

    def keep(self, bundle: Path, manifest: Manifest, truth: Sequence[int]) -> None:
        """Write the answers into the folder `bundle`, those kept before are replaced; `truth` are label indices.

        Raises `OutputError` when `bundle` is no folder or cannot be written to.
        """
        if not bundle.is_dir():
            raise OutputError(f"{bundle} is one file: answers cannot be kept in it", fix="unpack it into a folder")
        n = len(truth)
        content = io.BytesIO()
        answers = {name: np.concatenate([outputs[name] for outputs in self._answers])[:n] for name in self._answers[0]}
        np.savez_compressed(
            content,
            **answers,  # type: ignore[arg-type] # none is allow_pickle
            images=np.frombuffer(b"".join(self._digests[:n]), np.uint8).reshape(n, -1),
            labels=np.asarray(truth, np.int64),
        )
        index = {
            "schema": _SCHEMA,
            "n": n,
            "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
            "labels": [label.id for label in manifest.labels],
            "checkpoint_sha256": manifest.provenance.get("checkpoint_sha256"),
        }
        try:
            (bundle / _LOGITS).parent.mkdir(exist_ok=True)
            for path, data in ((_LOGITS, content.getvalue()), (_INDEX, json.dumps(index, indent=1).encode())):
                write_file(bundle / path, data)
        except OSError as error:
            raise OutputError(
                f"cannot keep the answers in {bundle}: {error.strerror}", fix="make room for it"
            ) from None


def check_keeps_more(bundle: Bundle, n: int) -> None:
    """`OutputError` when `bundle` keeps answers to more than `n` photos: fewer do not replace more unasked."""
    try:
        kept = read_kept_outputs(bundle)
    except BundleError:  # of another model, or damaged: nothing is lost
        return
    if kept is not None and n < len(kept):
        raise OutputError(
            f"{bundle.path} keeps the original's answers to {len(kept)} photos, and these are {n}: fewer do not "
            "replace more",
            fix="verify on as many, leave --keep-reference out, or replace them: --keep-reference --force",
        )


def read_kept_outputs(bundle: Bundle) -> KeptOutputs | None:
    """The answers that `bundle` keeps, ``None`` when it keeps none.

    Raises `BundleError` when they are damaged, of a newer schema, or of another model than the bundle.
    """
    try:
        text = bundle.read(_INDEX, limit=LARGEST_MANIFEST)
    except BundleError:
        return None
    where = f"{_INDEX} in {bundle.path}"
    try:
        index: dict[str, Any] = parse(text)
        schema, n, digest = index["schema"], index["n"], index["sha256"]
        about = index["labels"], index["checkpoint_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{where} is damaged: {error!r:.200}", fix=_AGAIN) from None
    if not isinstance(n, int) or not 0 < n <= _MOST_IMAGES:
        raise BundleError(f"{where} is damaged: it says that there are {n!r:.40} images", fix=_AGAIN)
    if not isinstance(schema, int) or schema > _SCHEMA:
        raise BundleError(f"{where} has schema {schema!r:.60}, this edgetl reads {_SCHEMA}", fix="update edgetl")
    manifest = bundle.manifest
    if about != ([label.id for label in manifest.labels], manifest.provenance.get("checkpoint_sha256")):
        raise BundleError(f"the answers kept in {bundle.path} are those of another model", fix=_AGAIN)
    content = bundle.read(_LOGITS)
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"{_LOGITS} in {bundle.path} is damaged: the SHA-256 differs", fix=_AGAIN)
    rows: dict[str, tuple[int, ...]] = {"images": (_DIGEST,)}
    rows |= {spec.name: tuple(spec.shape[1:]) for spec in manifest.outputs}
    features: dict[str, tuple[int, ...]] = {spec.name: tuple(spec.shape[1:]) for spec in manifest.features}
    arrays = _arrays(content, f"{_LOGITS} in {bundle.path}", n, rows, features)
    images, outputs = arrays.pop("images"), {spec.name: arrays.pop(spec.name) for spec in manifest.outputs}
    return KeptOutputs(outputs, {image.tobytes().hex(): row for row, image in enumerate(images)}, arrays)


def _arrays(
    content: bytes,
    where: str,
    n: int,
    rows: Mapping[str, tuple[int, ...]],
    features: Mapping[str, tuple[int, ...]],
) -> dict[str, npt.NDArray[Any]]:
    """Those of `rows`, which has the shape of a row of each, and those of the `features` that are there.

    Raises `BundleError` when there are not `n` rows of these shapes, or they would take too much memory.
    """
    try:
        sizes = npz_sizes(content)
        there = {**rows, **{name: row for name, row in features.items() if name in sizes}}
        if sum(sizes.get(name, 0) for name in there) > max(_LARGE_INFLATED, _INFLATES * len(content)):
            raise ValueError(f"its {len(content)} bytes would become too many")
        # Numbers of other types than ours are converted: 8 bytes have room for them.
        limits = {name: min(n * math.prod(map(abs, row)) * 8, LARGEST_FILE) for name, row in there.items()}
        arrays = read_npz(content, limits)
        for name, row in there.items():
            if arrays[name].shape != (n, *row) or arrays[name].dtype.kind not in "uif":
                raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, not {[n, *row]}")
    except ValueError as error:
        raise BundleError(f"{where} is damaged: {error}", fix=_AGAIN) from None
    kinds = {"images": np.uint8}
    return {name: values.astype(kinds.get(name, np.float32), copy=False) for name, values in arrays.items()}
