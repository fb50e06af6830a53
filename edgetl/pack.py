"""A bundle to what a device needs of it: some variants, without the checkpoint and what else only a workbench reads."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgetl.verify.report import REPORT_FILE, Report, Verdict
from edgetl_export.labels_file import LABELS_FILE, labels_text
from edgetl_export.sealing import file_entry, sealed_manifest
from edgetl_export.staging import check_destination, staged
from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.errors import BundleError, OutputError, UsageError
from edgetl_runtime.files import MODEL_SUFFIXES
from edgetl_runtime.manifest import Golden, Manifest, Packed
from edgetl_runtime.verification import LARGEST_REPORT
from edgetl_runtime.writing import check_writable, replacing, write_file

__all__ = ["PackedBundle", "pack_bundle"]

MANIFEST = "manifest.json"
_ZIPS = (".edgetl", ".zip")
"""Endings of an output that becomes one file; any other is a folder."""
_FOR_THE_WORKBENCH = {
    "reference/": ("reference/checkpoint.json", "reference/logits.json"),
    **{name: (name,) for name in ("report.html", "quantization.json", "export.log")},
}
"""What no device reads -> files by which one sees that a bundle has it."""
_WORTH_INFLATING = 0.8
"""A file is deflated when that leaves less of it than this: what is stored loads sooner, and weights hardly deflate."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""The least that a zip can say: the same bundle becomes the same bytes."""


@dataclass(frozen=True)
class PackedBundle:
    """What `pack_bundle` wrote: ``bytes`` is the size of the zip, or of all files of the folder ``path``.

    ``left_out`` are the variants and files that the other bundle had, with those that it lacked already.
    """

    path: Path
    bytes: int
    manifest: Manifest
    left_out: Packed


def pack_bundle(
    bundle: Path,
    out: Path,
    *,
    variants: Sequence[str] | None = None,
    golden: int | None = None,
    force: bool = False,
) -> PackedBundle:
    """Write `variants` of `bundle`, by default all, to `out`: a zip where it ends with ``.edgetl`` or ``.zip``, else a
    folder.

    With them go the manifest, sealed anew, the labels, the golden samples, which are photos, for the self-test, and
    what the report says of them; without them the checkpoint, the answers of the original, the report's page and
    its small pictures, the log and the calibration. Of many golden samples the first `golden` are enough for a quick
    self-test; they are the larger part of a small model's zip. A bundle of an earlier edgetl, a zip, and a single model
    file can be packed too. Every file is held against its hash before it is written.

    Raises:
        BundleError: When the bundle is damaged, or has no such variant.
        OutputError: When `out` exists and not `force`, is no bundle, or cannot be written.
        UsageError: For no variants, fewer than one golden sample, or an `out` that is called like a model file.
    """
    if golden is not None and golden < 1:
        raise UsageError(f"{golden} golden samples test nothing", fix="1 or more, or leave --golden out: all")
    _check_out(bundle, out, force=force)
    opened = open_bundle(bundle)
    chosen = _chosen(opened, variants)
    manifest, contents = _packed(opened, chosen, golden)
    contents[MANIFEST] = sealed_manifest(manifest.to_json())
    assert manifest.packed is not None
    if out.suffix.lower() in _ZIPS:
        size = _write_zip(out, contents)
    else:
        with staged(out, holds=MANIFEST, force=force) as folder:
            for path, content in contents.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                write_file(folder / path, content)
        size = sum(map(len, contents.values()))
    return PackedBundle(out, size, manifest, manifest.packed)


def _check_out(bundle: Path, out: Path, *, force: bool) -> None:
    """`out` can be written, and is not what is packed."""
    if out.suffix.lower() in (*MODEL_SUFFIXES, ".bin"):
        raise UsageError(
            f"{out} would be a bundle that is called like a model file",
            fix="--out NAME.edgetl; a model file alone is copied as it is, it describes itself",
        )
    if os.path.realpath(out) == os.path.realpath(bundle):
        raise OutputError(f"{out} is the bundle that is packed", fix="choose another --out")
    if out.suffix.lower() not in _ZIPS:
        return check_destination(out, holds=MANIFEST, force=force)
    if out.exists():
        if not force:
            raise OutputError(f"{out} exists already", fix="choose another --out, or --force to replace it")
        if out.is_dir():
            raise OutputError(f"{out} is a folder, and would become a file", fix="choose another --out")
        try:
            open_bundle(out)
        except BundleError as error:
            raise OutputError(f"{out} is no bundle and is not replaced", fix="choose another --out") from error
    return check_writable(out, option="--out")


def _chosen(opened: Bundle, variants: Sequence[str] | None) -> tuple[str, ...]:
    """The ids of what is packed, in the bundle's order."""
    ids = tuple(variant.id for variant in opened.manifest.variants)
    if variants is None:
        return ids
    if not variants:
        raise UsageError("no variants to pack", fix=f"choose some of: {', '.join(ids)}")
    asked = {opened.manifest.variant(variant_id).id for variant_id in variants}
    return tuple(id_ for id_ in ids if id_ in asked)


def _packed(opened: Bundle, chosen: Sequence[str], golden: int | None) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the other files by path, held against their hashes."""
    before = opened.manifest
    variants = tuple(variant for variant in before.variants if variant.id in chosen)
    for variant in variants:
        opened.model(variant.id)  # whatever no engine may see is not handed on
    contents = {file.path: opened.read_entry(file) for variant in variants for file in variant.files}
    samples = before.golden
    if samples is not None:
        contents |= {entry.path: opened.read_entry(entry) for entry in (*samples.images[:golden], samples.expected)}
        if golden is not None and golden < samples.n:
            expected = _first_expected(opened, golden)
            contents[samples.expected.path] = expected
            samples = Golden(golden, samples.images[:golden], file_entry(samples.expected.path, expected))
    contents[LABELS_FILE] = labels_text(before.labels)
    report = _report(opened, chosen) if opened.has(REPORT_FILE) else None
    if report is not None:
        contents[REPORT_FILE] = report
    manifest = replace(
        before,
        variants=variants,
        golden=samples,
        files=(file_entry(LABELS_FILE, contents[LABELS_FILE]),),
        packed=_left_out(opened, chosen),
        provenance=_provenance(before, chosen),
    )
    return manifest, contents


def _first_expected(opened: Bundle, n: int) -> bytes:
    """What is expected of the first `n` golden samples, as an export writes it."""
    samples = opened.golden()
    assert samples is not None
    arrays = {"tensors": samples.tensors, **samples.outputs, **samples.features}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: values[:n] for name, values in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _left_out(opened: Bundle, chosen: Sequence[str]) -> Packed:
    before = opened.manifest.packed or Packed()
    there = [name for name, files in _FOR_THE_WORKBENCH.items() if any(map(opened.has, files))]
    others = [variant.id for variant in opened.manifest.variants if variant.id not in chosen]
    return Packed(tuple(dict.fromkeys((*before.variants, *others))), tuple(dict.fromkeys((*before.files, *there))))


def _provenance(manifest: Manifest, chosen: Sequence[str]) -> dict[str, object]:
    """Without what it says of variants that are left out."""
    provenance = dict(manifest.provenance)
    methods, ladder = (provenance.get(name) for name in ("methods", "ladder"))
    if isinstance(methods, dict):
        provenance["methods"] = {id_: method for id_, method in methods.items() if id_ in chosen}
    if isinstance(ladder, list):
        provenance["ladder"] = [rung for rung in ladder if isinstance(rung, dict) and rung.get("variant") in chosen]
    return provenance


def _report(opened: Bundle, chosen: Sequence[str]) -> bytes | None:
    """What is recorded of the chosen variants, without pictures of photos; None when nothing is."""
    content = opened.read(REPORT_FILE, limit=LARGEST_REPORT)
    before = Report.from_json(content, where=f"{REPORT_FILE} in {opened.path}")
    kept = {entry.id for entry in before.variants if entry.id in chosen}
    if not kept:
        return None
    checks = tuple(check for check in before.verdict.checks if check.variant in chosen)
    baseline = before.baseline and replace(
        before.baseline, changes=tuple(change for change in before.baseline.changes if change.variant in chosen)
    )
    after = replace(
        before,
        variants=tuple(entry for entry in before.variants if entry.id in kept),
        verdict=Verdict(bool(checks) and all(check.passed for check in checks), checks),
        twins=tuple(pair for pair in before.twins if kept.issuperset(pair.variants)),
        baseline=baseline,
        left_out=tuple(id_ for id_ in chosen if id_ not in kept),
    )
    return (_without_pictures(after).to_json() + "\n").encode()


def _without_pictures(report: Report) -> Report:
    """Photos may be of people who agreed to no shipping of them."""
    variants = tuple(
        entry
        if entry.damage is None
        else replace(
            entry,
            damage=replace(entry.damage, flips=tuple(replace(flip, thumbnail=None) for flip in entry.damage.flips)),
        )
        for entry in report.variants
    )
    original = report.original and replace(
        report.original, worst=tuple(replace(image, thumbnail=None) for image in report.original.worst)
    )
    return replace(report, variants=variants, original=original, pictures=())


def _write_zip(out: Path, contents: Mapping[str, bytes]) -> int:
    """The size of the zip."""
    with replacing(out) as file:
        with zipfile.ZipFile(file, "w") as archive:
            for path, content in sorted(contents.items()):
                entry = zipfile.ZipInfo(path, _DATE)
                entry.external_attr = 0o644 << 16
                saves = len(zlib.compress(content)) < _WORTH_INFLATING * len(content)
                entry.compress_type = zipfile.ZIP_DEFLATED if saves else zipfile.ZIP_STORED
                archive.writestr(entry, content)
        return file.tell()
