"""Why a variant cannot be used at all, read from its files: cut short, another model's, or never written."""

from __future__ import annotations

import hashlib

from edgetl.verify.report import Finding
from edgetl_runtime.bundle import Bundle
from edgetl_runtime.errors import BundleError
from edgetl_runtime.files import MODEL_SUFFIXES
from edgetl_runtime.manifest import Variant
from edgetl_runtime.modelfile import embedded_manifest

__all__ = ["explain_error"]

_COPY = "copy the bundle again, or export it again"


def explain_error(bundle: Bundle, variant_id: str, error: str) -> tuple[Finding, ...]:
    """Where `error`, the reason why a variant of `bundle` could not be used, comes from, if its files tell."""
    try:
        variant = bundle.manifest.variant(variant_id)
    except BundleError:
        return (
            Finding(
                "the conversion failed",
                error,
                f"find the smallest module that fails: edgetl inspect BUNDLE --layers --variants {variant_id}",
            ),
        )
    return _other_model(bundle, variant) or _files(bundle, variant)


def _other_model(bundle: Bundle, variant: Variant) -> tuple[Finding, ...]:
    """Files that are whole and say themselves that they belong to another export."""
    for entry in variant.files:
        suffix = next((suffix for suffix in MODEL_SUFFIXES if entry.path.endswith(suffix)), None)
        if suffix is None:
            continue
        try:
            inside = embedded_manifest(bundle.read(entry.path), suffix=suffix, where=entry.path)
        except BundleError:
            continue
        ours, theirs = (part.provenance.get("checkpoint_sha256") for part in (bundle.manifest, inside))
        if (bundle.manifest.name, ours) != (inside.name, theirs):
            return (
                Finding(
                    "the manifest is that of another model",
                    f"{entry.path} says it is {inside.name!r} of checkpoint {str(theirs)[:12]}, manifest.json is of "
                    f"{bundle.manifest.name!r}, checkpoint {str(ours)[:12]}",
                    "put the files and the manifest of one export together",
                ),
            )
    return ()


def _files(bundle: Bundle, variant: Variant) -> tuple[Finding, ...]:
    for entry in variant.files:
        try:
            content = bundle.read(entry.path)
        except BundleError as error:
            return (Finding("a file is missing", error.what, _COPY),)
        if len(content) < entry.bytes:
            evidence = f"{entry.path} has {len(content)} bytes of the {entry.bytes} in the manifest"
            return (Finding("the file is truncated", evidence, _COPY),)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            evidence = f"{entry.path}: {len(content)} bytes, {entry.bytes} in the manifest; the SHA-256 differs"
            return (Finding("the file was changed after the export", evidence, _COPY),)
    return ()
