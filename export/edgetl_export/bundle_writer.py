"""A bundle on disk: written next to its destination and renamed into place, there whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgetl_export.capture import Source
from edgetl_export.workshop import Artifact
from edgetl_runtime.errors import OutputError
from edgetl_runtime.manifest import FileEntry, Golden, Manifest, Variant
from edgetl_runtime.preprocess import ImageSource, load_image, preprocess

__all__ = ["check_destination", "staged", "write_file", "write_golden", "write_manifest", "write_variant"]

_GOLDEN_MARGIN = 1.25
"""A golden image keeps this many times the pixels that preprocessing resizes to, so that it has something to resize."""


def check_destination(path: Path, *, force: bool = False) -> None:
    """`OutputError` when `path` exists (unless `force`, and then only a bundle is replaced) or cannot be created."""
    if path.exists():
        if not force:
            raise OutputError(f"{path} exists already", fix="choose another --out, or --force to replace it")
        if not (path / "manifest.json").is_file():
            raise OutputError(f"{path} is not a bundle and is not replaced", fix="choose another --out")
    existing = next(parent for parent in (path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {existing}", fix="choose another --out, or change its permissions")


@contextlib.contextmanager
def staged(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder beside `destination` that takes its place when the block ends well, and is removed when it does not.

    What stood there before is only removed after that. Raises `OutputError` when it exists (unless `force`), is
    read-only, or the disk is full.
    """
    check_destination(destination, force=force)
    destination = destination.absolute()
    made = [parent for parent in destination.parents if not parent.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise _cannot_write(destination, error) from error
    done = False
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        if destination.exists():
            destination.rename(scratch / "old")
        folder.rename(destination)
        done = True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise _cannot_write(destination, error) from error
    finally:
        if not done and (scratch / "old").exists():
            (scratch / "old").rename(destination)
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made if not done else []:
            with contextlib.suppress(OSError):
                parent.rmdir()


def write_file(folder: Path, relative: str, content: bytes) -> FileEntry:
    """Write one file of the bundle and say what the manifest records of it."""
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return FileEntry(relative, hashlib.sha256(content).hexdigest(), len(content))


def write_variant(folder: Path, variant: Variant, artifact: Artifact) -> Variant:
    """Write ``<target>/model.<precision>.*`` and return `variant` with its files."""
    files = tuple(
        write_file(folder, f"{variant.target}/model.{variant.precision}{suffix}", content)
        for suffix, content in artifact.files.items()
    )
    return dataclasses.replace(variant, files=files)


def write_golden(folder: Path, source: Source, originals: Sequence[ImageSource]) -> Golden:
    """PNG images, their tensors and the original model's logits.

    The photos are stored without loss, reduced to little more than preprocessing needs, and the tensors are made
    from what is stored: so a device whose JPEG decoder differs can still be held to every pixel.
    """
    spec = source.preprocess
    shortest = round(_GOLDEN_MARGIN * spec.resize)
    images: list[FileEntry] = []
    tensors = []
    for index, original in enumerate(originals):
        image = load_image(original)
        scale = shortest / min(image.size)
        if scale < 1:
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        png = _png(image)
        images.append(write_file(folder, f"golden/{index:02d}.png", png))
        tensors.append(preprocess(png, spec))
    stacked = np.stack(tensors)
    reference = source.reference()
    logits = np.concatenate([reference(tensor[None]) for tensor in stacked])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tensors=stacked, logits=logits)
    return Golden(len(images), tuple(images), write_file(folder, "golden/expected.npz", buffer.getvalue()))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """``manifest.json``, last of all."""
    (folder / "manifest.json").write_text(manifest.to_json() + "\n", encoding="utf-8")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _cannot_write(destination: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {destination}: {error.strerror}", fix="choose another --out, or make room")
