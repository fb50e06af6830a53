"""Open a bundle - a folder, a zip of it, or one model file that describes itself - and check what is in it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_runtime.engines import Execution, ModelBytes, Signature, open_session
from edgetl_runtime.errors import BundleError, UsageError
from edgetl_runtime.files import BundleFiles, Folder, Memory, Zip, read_file
from edgetl_runtime.manifest import LARGEST_MANIFEST, FileEntry, Golden, Manifest, Variant
from edgetl_runtime.modelfile import MODEL_SUFFIXES, embedded_text, weights_path
from edgetl_runtime.seal import Sealed
from edgetl_runtime.session import IntegerSession, Session

__all__ = ["Bundle", "FailedCheck", "GoldenSamples", "open_bundle"]

_MANIFEST = "manifest.json"
_REPORT = "report.json"
_LARGEST_REPORT = 32 * 2**20
_LARGEST_GOLDEN = 2**28
_NPY_HEADER = 2**14
"""Bytes. What an .npz may have in front of an array's own."""


@dataclass(frozen=True)
class GoldenSamples:
    """Golden samples in order: PNG files, what `preprocess` made of them, and the original model's logits.

    ``tensors`` is (n, H, W, 3) uint8, ``logits`` (n, classes) float32.
    """

    names: tuple[str, ...]
    images: tuple[bytes, ...]
    tensors: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class FailedCheck:
    """A check of the report's verdict that a variant did not pass."""

    variant: str
    what: str
    limit: Any
    value: Any

    def __str__(self) -> str:
        return f"{self.what} {_short(self.value)} (limit {_short(self.limit)})"


class Bundle:
    """Variants with their manifest, wherever they are kept. Made by `open_bundle`; holds no file open."""

    def __init__(self, path: Path, manifest: Manifest, files: BundleFiles, sealed: Sealed) -> None:
        self.path = path
        self.manifest = manifest
        self._files = files
        self._sealed = sealed

    def read(self, relative: str) -> bytes:
        """A file of the bundle, by its path in the manifest. Raises `BundleError` when it is not there."""
        return self._files.read(relative)

    def check(self) -> None:
        """Compare size and SHA-256 of every file in the manifest; `BundleError` names the first that differs.

        The manifest itself, and a model file alone, are held against their seal.
        """
        self._sealed.check()
        golden = self.manifest.golden
        for variant in self.manifest.variants:
            for entry in variant.files:
                self._read_checked(entry, verify=True)
        for entry in () if golden is None else (*golden.images, golden.expected):
            self._read_checked(entry, verify=True)

    def model(self, variant_id: str, *, verify: bool = True) -> ModelBytes:
        """The bytes of a variant, held against its hashes unless `verify` is False."""
        entries = self.manifest.variant(variant_id).files
        if not entries:
            raise BundleError(f"variant {variant_id} in {self.path} lists no files", fix="export the bundle again")
        if verify:
            self._sealed.check()
        contents = {entry.path: self._read_checked(entry, verify=verify) for entry in entries}
        main = entries[0].path
        weights = weights_path(main)
        name = str(self.path) if main == self.path.name else f"{self.path}: {main}"
        return ModelBytes(contents[main], name=name, weights=None if weights is None else contents.get(weights))

    def session(
        self,
        variant_id: str,
        *,
        threads: int | None = None,
        device: str = "cpu",
        device_options: Mapping[str, str] | None = None,
        strict: bool = False,
        verify: bool = True,
    ) -> Session:
        """Load a variant into its engine; its files are held against their hashes unless `verify` is False.

        `threads`: cores of one run, None for all; `device`, `device_options` and `strict` as in `load`.
        Raises `BundleError`, `MissingDependency` or `EngineError`.
        """
        variant = self.manifest.variant(variant_id)
        model = self.model(variant_id, verify=verify)
        manifest = self.manifest
        signature = Signature((variant.input or manifest.input,), (variant.output or manifest.output,))
        execution = Execution(threads, device, dict(device_options or {}), strict)
        session = open_session(variant.requires.engine, model, signature, execution)
        plain = variant.input is None and variant.output is None
        return session if plain else IntegerSession(session, manifest.input, manifest.output)

    def golden(self) -> GoldenSamples | None:
        """The golden samples, or None when there are none (a single model file has none)."""
        golden = self.manifest.golden
        if golden is None:
            return None
        images = tuple(self._read_checked(entry, verify=True) for entry in golden.images)
        tensors, logits = self._expected(golden)
        names = tuple(Path(entry.path).name for entry in golden.images)
        sound = tensors.dtype == np.uint8 and tensors.ndim == 4 and logits.dtype == np.float32 and logits.ndim == 2
        if not sound or not len(names) == len(tensors) == len(logits) == golden.n:
            raise BundleError(
                f"{golden.expected.path} in {self.path} holds tensors {tensors.dtype} {list(tensors.shape)} and "
                f"logits {logits.dtype} {list(logits.shape)} for {golden.n} golden samples",
                fix="export the bundle again",
            )
        return GoldenSamples(names, images, tensors, logits)

    def failed_checks(self) -> dict[str, tuple[FailedCheck, ...]]:
        """Per variant, the checks it failed in the bundle's report; empty when nothing failed or there is no report."""
        if not self._files.has(_REPORT):
            return {}
        content = self._files.read(_REPORT, limit=_LARGEST_REPORT)
        try:
            raw = json.loads(content)
            # A report that was not judged says so: verdict null. One that says nothing has lost something.
            verdict = raw["verdict"]
            failed = [check for check in map(_check_of, verdict["checks"]) if check] if verdict is not None else []
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{_REPORT} in {self.path} is damaged: {error!r}", fix="edgetl verify") from None
        return {id_: tuple(check for check in failed if check.variant == id_) for id_ in {c.variant for c in failed}}

    def failed_variants(self) -> frozenset[str]:
        """Ids of the variants that failed a check in the bundle's report."""
        return frozenset(self.failed_checks())

    def _expected(self, golden: Golden) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Tensors and logits of the golden samples; never larger than the manifest lets them be."""
        content = self._read_checked(golden.expected, verify=True)
        height, width = self.manifest.preprocess.crop
        values = 4 * math.prod(abs(size) for size in self.manifest.output.shape[1:])
        sizes = {"tensors": golden.n * height * width * 3, "logits": golden.n * values}
        limits = {name: min(size, _LARGEST_GOLDEN) + _NPY_HEADER for name, size in sizes.items()}
        arrays: list[npt.NDArray[Any]] = []
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for name, limit in limits.items():
                    entry = archive.getinfo(f"{name}.npy")
                    if entry.file_size > limit:
                        raise ValueError(f"{name} has {entry.file_size} bytes, more than the {limit} it may have")
                    with archive.open(entry) as file:
                        arrays.append(np.lib.format.read_array(file, allow_pickle=False))
        except _NPZ_FAILURES as error:
            raise BundleError(f"{golden.expected.path} in {self.path} is damaged: {error}", fix=_COPY_AGAIN) from None
        tensors, logits = arrays
        return tensors, logits

    def _read_checked(self, entry: FileEntry, *, verify: bool) -> bytes:
        # The hashes of a single model file were taken from these very bytes; its seal says what they should be.
        if not verify or isinstance(self._files, Memory):
            return self.read(entry.path)
        size = self._files.size(entry.path)
        # The size first: nothing that is too large is read, let alone parsed.
        content = self.read(entry.path) if size == entry.bytes else b""
        if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(
                f"{entry.path} in {self.path} is not the file that was exported: "
                f"{size} bytes, {entry.bytes} in the manifest" + ("; the SHA-256 differs" if content else ""),
                fix=_COPY_AGAIN,
            )
        return content


_NPZ_FAILURES = (
    KeyError,
    TypeError,
    ValueError,
    OSError,
    EOFError,
    MemoryError,
    RuntimeError,  # encrypted
    NotImplementedError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_COPY_AGAIN = "copy the bundle again, or export it again"


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle folder, a zip of one (.edgetl, .zip), or one model file (.onnx, .tflite, .xml) that edgetl wrote.

    Only the manifest is read; a zip is not unpacked. Raises `BundleError` when there is none, or it is damaged or of a
    newer schema.
    """
    if not isinstance(path, (str, Path)):
        raise UsageError(f"cannot open a bundle from {type(path).__name__}", fix="pass a path")
    path = Path(path)
    try:
        if path.is_dir():
            return _from_files(path, Folder(path))
        if not path.exists():
            raise BundleError(f"no bundle at {path}", fix="check the path")
        if path.is_file() and path.suffix.lower() in MODEL_SUFFIXES:
            return _from_model_file(path)
        if path.is_file() and zipfile.is_zipfile(path):
            return _from_files(path, Zip.open(path, marker=_MANIFEST))
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BundleError(f"cannot open {path}: {error.strerror or error}", fix="check the path") from error
    raise BundleError(
        f"{path} is neither a bundle folder, a zip of one, nor a model file",
        fix=f"pass a folder with {_MANIFEST}, a .edgetl file, or a file ending with {', '.join(MODEL_SUFFIXES)}",
    )


def _from_files(path: Path, files: BundleFiles) -> Bundle:
    if not files.has(_MANIFEST):
        raise BundleError(f"{path} is no bundle: it has no {_MANIFEST}", fix="pass the folder that edgetl wrote")
    text = files.read(_MANIFEST, limit=LARGEST_MANIFEST)
    sealed = Sealed(f"{_MANIFEST} in {path}", (text,), text)
    return Bundle(path, Manifest.from_json(text, where=str(path)), files, sealed)


def _from_model_file(path: Path) -> Bundle:
    """A bundle of one variant. Its files get the hashes they have now; what they should be is in the seal."""
    contents = {path.name: read_file(path)}
    text = embedded_text(contents[path.name], suffix=path.suffix.lower(), where=str(path))
    manifest = Manifest.from_json(text, where=str(path))
    if len(manifest.variants) != 1:
        raise BundleError(f"the manifest in {path} has {len(manifest.variants)} variants, not one", fix=_COPY_AGAIN)
    weights = weights_path(path.name)
    if weights is not None:
        contents[weights] = read_file(path.with_name(weights))
    entries = tuple(
        FileEntry(name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in contents.items()
    )
    variant: Variant = dataclasses.replace(manifest.variants[0], files=entries)
    manifest = dataclasses.replace(manifest, variants=(variant,), golden=None)
    sealed = Sealed(str(path), tuple(contents.values()), text)
    return Bundle(path, manifest, Memory(path, contents), sealed)


def _check_of(check: Mapping[str, Any]) -> FailedCheck | None:
    """A check of a report's verdict, None when it passed. Raises `KeyError` or `TypeError` when it is none."""
    variant, passed = check["variant"], check["passed"]
    if not isinstance(variant, str) or not isinstance(passed, bool):
        raise TypeError(f"variant {variant!r:.60}, passed {passed!r:.60}")
    return None if passed else FailedCheck(variant, check["what"], check["limit"], check["value"])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
