"""Open a bundle - a folder, a zip of it, or one model file that describes itself - and check what is in it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from edgetl_runtime.engines import Execution, ModelBytes, ModelPath, Signature, engine_info, open_session
from edgetl_runtime.engines.private_file import as_private_file
from edgetl_runtime.errors import BundleError, UsageError
from edgetl_runtime.files import (
    COPY_AGAIN,
    LARGEST_FILE,
    MODEL_SUFFIXES,
    BundleFiles,
    Folder,
    Memory,
    mode_of,
    open_regular,
    read_file,
    weights_path,
)
from edgetl_runtime.manifest import LARGEST_MANIFEST, FileEntry, Manifest, Variant
from edgetl_runtime.modelcheck import check_model
from edgetl_runtime.seal import Sealed
from edgetl_runtime.session import IntegerSession, Session

if TYPE_CHECKING:
    from pathlib import Path

    from edgetl_runtime.golden import GoldenSamples
    from edgetl_runtime.verification import FailedCheck

__all__ = ["Bundle", "open_bundle"]

_MANIFEST = "manifest.json"


class Bundle:
    """Variants with their manifest, wherever they are kept. Made by `open_bundle`; of files only a zip stays open."""

    def __init__(self, where: str, manifest: Manifest, files: BundleFiles, sealed: Sealed) -> None:
        self.manifest = manifest
        self._where = where
        self._files = files
        self._sealed = sealed

    def __repr__(self) -> str:
        names = ", ".join(variant.id for variant in self.manifest.variants)
        return f"<Bundle {self.manifest.name!r} at {self._where}: {names}>"

    @property
    def path(self) -> Path:
        """The folder, the zip, or the model file."""
        from pathlib import Path

        return Path(self._where)

    def has(self, relative: str) -> bool:
        """Whether the bundle has a file of that path."""
        return self._files.has(relative)

    def read(self, relative: str, *, limit: int = LARGEST_FILE) -> bytes:
        """A file of the bundle, by its path in the manifest.

        Raises `BundleError` when it is not there, or has more than `limit` bytes.
        """
        return self._files.read(relative, limit=limit)

    def check(self) -> None:
        """Compare size and SHA-256 of every file in the manifest; `BundleError` names the first that differs, or the
        first model that no engine may see (`edgetl_runtime.modelcheck`).

        The manifest itself, and a model file alone, are held against their seal.
        """
        golden = self.manifest.golden
        for variant in self.manifest.variants:
            self.model(variant.id)
        for entry in (*self.manifest.files, *(() if golden is None else (*golden.images, golden.expected))):
            self.read_entry(entry)

    def absent(self, variant_id: str) -> BundleError | None:
        """Why the files of a variant cannot be its own: one is not there, or has another size. Nothing is read."""
        try:
            for entry in self.manifest.variant(variant_id).files:
                self._check_size(entry)
        except BundleError as error:
            return error
        return None

    def model(self, variant_id: str, *, verify: bool = True) -> ModelBytes:
        """The bytes of a variant, held against its hashes unless `verify` is False, and such as an engine may see.

        They are read once: what was hashed and checked is what an engine is given, whatever becomes of the files.
        Raises `BundleError`, or `EngineError` when the model does not hold together.
        """
        variant = self.manifest.variant(variant_id)
        entries = variant.files
        if not entries:
            raise BundleError(f"variant {variant_id} in {self._where} lists no files", fix="export the bundle again")
        if verify:
            self._sealed.check()
        contents = {entry.path: self.read_entry(entry, verify=verify) for entry in entries}
        main = entries[0].path
        weights = weights_path(main)
        alone = main == os.path.basename(self._where)
        name = self._where if alone else f"{self._where}: {main}"
        model = ModelBytes(contents[main], name=name, weights=None if weights is None else contents.get(weights))
        check_model(variant.requires.engine, model.main, model.weights, where=name)
        return model

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
        """Load a variant into its engine.

        Args:
            variant_id: Its id, such as "onnx.int8".
            threads: Cores of one run, None for all.
            device: As in `load`, and so are `device_options` and `strict`.
            verify: Hold its files against their hashes.

        Returns:
            The session: the manifest's input (N, H, W, C) to its outputs by name.

        Raises:
            BundleError: There is no such variant, or a file is damaged.
            MissingDependency: Its engine is not installed.
            EngineError: The engine cannot take the model, or has no such device.
        """
        variant = self.manifest.variant(variant_id)
        manifest = self.manifest
        given = manifest.outputs_of(variant)
        own = (variant.output,) if variant.output is not None and variant.in_integers else given
        signature = Signature((variant.input or manifest.input,), own)
        execution = Execution(threads, device, dict(device_options or {}), strict)
        lend: Callable[[ModelBytes], AbstractContextManager[ModelBytes | ModelPath]] = nullcontext
        # Other devices than the CPU may keep what they compiled by the name of the file.
        if engine_info(variant.requires.engine).opens_paths and execution.kind == "cpu":
            lend = as_private_file
        with lend(self.model(variant_id, verify=verify)) as model:
            session = open_session(variant.requires.engine, model, signature, execution)
        from edgetl_runtime.forks import prepare_to_read  # here: until a session is opened nothing needs it

        prepare_to_read(session, partial(self.model, variant_id, verify=verify))
        return IntegerSession(session, manifest.input, given) if variant.in_integers else session

    def golden(self) -> GoldenSamples | None:
        """The golden samples, or None when there are none (a single model file has none)."""
        from edgetl_runtime.golden import read_golden  # here: loading and predicting need none

        return read_golden(self)

    def failed_checks(self) -> dict[str, tuple[FailedCheck, ...]]:
        """Per variant, the checks it failed in the bundle's report; empty when nothing failed or there is no report.

        A limit on time, size or memory is among them (`FailedCheck.is_cost`).
        """
        from edgetl_runtime.verification import read_failed_checks

        return read_failed_checks(self)

    def failed_variants(self) -> frozenset[str]:
        """Ids of the variants that failed a check of their quality in the bundle's report: what they answer is not
        what it should be. One that is only slower or larger than somebody's gate allows is not among them."""
        checks = self.failed_checks()
        return frozenset(id_ for id_, failed in checks.items() if not all(check.is_cost for check in failed))

    def read_entry(self, entry: FileEntry, *, verify: bool = True) -> bytes:
        """A file of the manifest, held against its size and hash unless `verify` is False. Raises `BundleError`."""
        # The hashes of a single model file were taken from these very bytes; its seal says what they should be.
        if not verify or isinstance(self._files, Memory):
            return self.read(entry.path)
        self._check_size(entry)
        content = self.read(entry.path)
        self._check_hash(entry, len(content), hashlib.sha256(content).hexdigest())
        return content

    def _check_size(self, entry: FileEntry) -> None:
        """The size first: nothing that is too large is read, let alone parsed."""
        size = self._files.size(entry.path)
        if size != entry.bytes:
            raise self._another_file(entry, size)

    def _check_hash(self, entry: FileEntry, size: int, digest: str) -> None:
        if size != entry.bytes or digest != entry.sha256:
            raise self._another_file(entry, size)

    def _another_file(self, entry: FileEntry, size: int) -> BundleError:
        return BundleError(
            f"{entry.path} in {self._where} is not the file that was exported: "
            f"{size} bytes, {entry.bytes} in the manifest" + ("; the SHA-256 differs" if size == entry.bytes else ""),
            fix=COPY_AGAIN,
        )


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder, a zip of one (.edgetl, .zip), or one model file (.onnx, .tflite, .xml) that edgetl wrote.

    Only the manifest is read; a zip is not unpacked.

    Args:
        path: Of the folder or the file.

    Returns:
        The bundle: its manifest, and what reads and opens its files.

    Raises:
        BundleError: There is none, or it is damaged or of a newer schema.
        UsageError: `path` is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"cannot open a bundle from {type(path).__name__}", fix="pass a path")
    where = os.fsdecode(path)
    try:
        mode = mode_of(where)
        if mode is None:
            raise BundleError(f"no bundle at {where}", fix="check the path")
        if stat.S_ISDIR(mode):
            return _from_files(where, Folder(where))
        if stat.S_ISREG(mode) and where.lower().endswith(MODEL_SUFFIXES):
            return _from_model_file(where)
        if stat.S_ISREG(mode) and (files := _zipped(where)) is not None:
            return _from_files(where, files)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BundleError(f"cannot open {where}: {error.strerror or error}", fix="check the path") from error
    raise BundleError(
        f"{where} is neither a bundle folder, a zip of one, nor a model file",
        fix=f"pass a folder with {_MANIFEST}, a .edgetl file, or a file ending with {', '.join(MODEL_SUFFIXES)}",
    )


def _zipped(where: str) -> BundleFiles | None:
    """The zip at `where`; None when it is none."""
    from zipfile import is_zipfile

    from edgetl_runtime.zipped import Zip

    with open_regular(where) as file:
        zipped = is_zipfile(file)
    return Zip.open(where, marker=_MANIFEST) if zipped else None


def _from_files(where: str, files: BundleFiles) -> Bundle:
    if not files.has(_MANIFEST):
        raise BundleError(f"{where} is no bundle: it has no {_MANIFEST}", fix="pass the folder that edgetl wrote")
    text = files.read(_MANIFEST, limit=LARGEST_MANIFEST)
    sealed = Sealed(f"{_MANIFEST} in {where}", (text,), text)
    return Bundle(where, Manifest.from_json(text, where=where), files, sealed)


def _from_model_file(where: str) -> Bundle:
    """A bundle of one variant. Its files get the hashes they have now; what they should be is in the seal."""
    from edgetl_runtime.modelfile import embedded_text

    folder, name = os.path.split(where)
    contents = {name: read_file(where)}
    text = embedded_text(contents[name], suffix=os.path.splitext(name)[1].lower(), where=where)
    manifest = Manifest.from_json(text, where=where)
    if len(manifest.variants) != 1:
        raise BundleError(f"the manifest in {where} has {len(manifest.variants)} variants, not one", fix=COPY_AGAIN)
    weights = weights_path(name)
    if weights is not None:
        contents[weights] = read_file(os.path.join(folder, weights))
    entries = tuple(
        FileEntry(name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in contents.items()
    )
    variant: Variant = dataclasses.replace(manifest.variants[0], files=entries)
    manifest = dataclasses.replace(manifest, variants=(variant,), golden=None, files=())
    sealed = Sealed(where, tuple(contents.values()), text)
    return Bundle(where, manifest, Memory(where, contents), sealed)
