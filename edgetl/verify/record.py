"""What a bundle keeps of its verifications: ``report.json``, variant by variant.

- What is recorded of a variant, known by the hashes of its files, is only replaced by measuring that variant again: a
  report on some variants leaves what is said of the others, and their checks stay in the verdict.
- Parts that were not measured this time (memory, layers) stay, with when they were measured, as long as the files are
  the same.
- One report is on one set of photos, and fewer photos never replace more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgetl.data.dataset import Sample
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.measure.outputs import fingerprint_of
from edgetl.verify.report import NOT_EXPORTED, REPORT_FILE, BaselineComparison, Check, Report, VariantReport, Verdict
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.files import read_regular
from edgetl_runtime.manifest import Manifest
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.verification import LARGEST_REPORT

__all__ = ["check_files", "check_record", "merge_reports", "read_record", "without_photos"]

_PARTS = ("latency", "memory", "features")
"""Parts of an entry that may be left out when it is measured; layers are another, of several fields."""


def check_record(
    bundle: Path,
    manifest: Manifest,
    samples: Sequence[Sample],
    *,
    variants: Collection[str] | None = None,
    force: bool = False,
) -> None:
    """`OutputError` when a report on `samples` and `variants` (by default all) could not be recorded in `bundle`.

    That is found before anything is measured. `force`: fewer photos may replace more.
    """
    before = read_record(bundle)
    if not os.access(bundle, os.W_OK):
        raise OutputError(f"cannot write into {bundle}", fix="leave --record out; --json FILE keeps the report")
    if before is None:
        return
    again = {item.id for item in manifest.variants if (variants is None or item.id in variants) and not obstacle(item)}
    stay = [id_ for id_, entry in _known(before, manifest).items() if id_ not in again and not _is_unwritten(entry)]
    _check_photos(
        before, stay, len(samples), lambda: fingerprint_of(samples, manifest) == before.data.fingerprint, force=force
    )


def merge_reports(
    before: Report | None, report: Report, manifest: Manifest, *, force: bool = False
) -> tuple[Report, tuple[str, ...]]:
    """`before`, what is recorded of the bundle of `manifest`, with what `report` measured; and what there is to say.

    Raises `OutputError` when `report` is on other photos than what stays, or on fewer than before (unless `force`).
    """
    fresh = {entry.id: entry for entry in report.variants if entry.measured or _is_unwritten(entry)}
    unmeasured = [entry for entry in report.variants if entry.id not in fresh]
    notes = [f"not recorded: {entry.id} was not measured here: {entry.error}" for entry in unmeasured]
    known = {} if before is None else _known(before, manifest)
    entries = {id_: entry for id_, entry in known.items() if id_ not in fresh}
    if before is not None:
        stay = [id_ for id_, entry in entries.items() if not _is_unwritten(entry)]
        same = report.data.fingerprint == before.data.fingerprint
        _check_photos(before, stay, report.data.n, lambda: same, force=force)
        other = [entry.id for entry in before.variants if entry.id not in (*known, *fresh)]
        notes += (
            [f"left out: what was recorded of {', '.join(other)} is not about files of this bundle"] if other else []
        )
    entries |= {id_: _with_parts(entry, known.get(id_)) for id_, entry in fresh.items()}
    order = [*(item.id for item in manifest.variants if item.id in entries)]
    order += [id_ for id_ in entries if id_ not in order]
    merged = replace(
        report,
        variants=tuple(entries[id_] for id_ in order),
        left_out=tuple(item.id for item in manifest.variants if item.id not in entries),
    )
    checks = [check for check in report.verdict.checks if check.variant not in {entry.id for entry in unmeasured}]
    if before is not None:
        checks = [*_kept_checks(before, report, entries, fresh), *checks]
        merged = _with_what_stays(merged, before, [id_ for id_ in entries if id_ not in fresh])
    place = {id_: index for index, id_ in enumerate(order)}
    checks.sort(key=lambda check: place.get(check.variant, len(place)))
    verdict = Verdict(bool(checks) and all(check.passed for check in checks), tuple(checks))
    return replace(merged, verdict=verdict), tuple(notes)


def read_record(bundle: Path) -> Report | None:
    """What is recorded in the folder `bundle`, None when nothing is. Raises `UsageError` and `OutputError`."""
    if not bundle.is_dir():
        raise UsageError(
            f"{bundle} is one file: no report can be recorded in it", fix="unpack it into a folder, or --json FILE"
        )
    file = bundle / REPORT_FILE
    try:
        content = read_regular(file, limit=LARGEST_REPORT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {file}: {error.strerror}", fix="check who may read it") from None
    try:
        return Report.from_json(content, where=str(file))
    except UsageError as error:
        raise OutputError(
            f"what is recorded in the bundle would be lost: {error.what}", fix=f"look at it, then remove it: {file}"
        ) from None


def without_photos(report: Report) -> Report:
    """`report` without thumbnails and without the pictures of its task; the names of the photos stay."""

    def plain(entry: VariantReport) -> VariantReport:
        if entry.damage is None:
            return entry
        flips = tuple(replace(flip, thumbnail=None) for flip in entry.damage.flips)
        return replace(entry, damage=replace(entry.damage, flips=flips))

    original = report.original
    if original is not None:
        original = replace(original, worst=tuple(replace(image, thumbnail=None) for image in original.worst))
    return replace(report, variants=tuple(map(plain, report.variants)), original=original, pictures=())


def _check_photos(before: Report, stay: Sequence[str], n: int, same_photos: Callable[[], bool], *, force: bool) -> None:
    """`OutputError` when a report on `n` photos, beside which `stay` stay as they are, must not be recorded."""
    was = before.data.n
    if stay and not (n == was and same_photos()):
        raise OutputError(
            f"what {before.bundle} has on record of {', '.join(stay)} is on {was} other photos than these {n} "
            "(or on the same, decoded to other pixels here): one report is on one set of photos",
            fix="verify on those photos, record all variants on these (leave --variants out), or leave --record out",
        )
    if not stay and n < was and not force:
        raise OutputError(
            f"{before.bundle} has a report on {was} photos, and these are {n}: fewer do not replace more",
            fix="verify on as many, leave --record out, or replace it: --record --force",
        )


def check_files(report: Report, manifest: Manifest) -> None:
    files = _files(manifest)
    for entry in report.variants:
        if entry.measured and entry.files_sha256 != files.get(entry.id):
            raise OutputError(
                f"the files of {entry.id} are others than when they were measured", fix="verify the bundle again"
            )


def _files(manifest: Manifest) -> dict[str, dict[str, str]]:
    return {item.id: {file.path: file.sha256 for file in item.files} for item in manifest.variants}


def _is_unwritten(entry: VariantReport) -> bool:
    """Whether it is about a variant that could not be exported, so that there is nothing to measure."""
    return entry.error is not None and entry.error.startswith(NOT_EXPORTED)


def _known(before: Report, manifest: Manifest) -> dict[str, VariantReport]:
    """The entries about files of the bundle, and about variants that could not be exported, by id.

    Older ones do not say which files, and get the hashes of those that are there.
    """
    files = _files(manifest)
    known = {}
    for entry in before.variants:
        if entry.id not in files:
            if _is_unwritten(entry):
                known[entry.id] = entry
        elif not _is_unwritten(entry) and (not entry.files_sha256 or entry.files_sha256 == files[entry.id]):
            known[entry.id] = replace(entry, files_sha256=files[entry.id], measured=before.measured_of(entry))
    return known


def _with_parts(entry: VariantReport, before: VariantReport | None) -> VariantReport:
    """`entry` with the parts that were measured before and not this time; one that does not work keeps none."""
    if before is None or entry.error is not None or before.measured is None:
        return entry
    parts: dict[str, Any] = {
        name: getattr(before, name) for name in _PARTS if getattr(before, name) and not getattr(entry, name)
    }
    if entry.measured is None or entry.measured.data != before.measured.data:
        parts.pop("features", None)
    earlier = dict.fromkeys(parts, before.measured)
    if before.layers and not entry.layers and entry.layers_error is None:
        parts |= {"layers": before.layers, "suspects": before.suspects}
        earlier["layers"] = before.measured
    return replace(entry, **parts, earlier={name: before.earlier.get(name, when) for name, when in earlier.items()})


def _kept_checks(
    before: Report, report: Report, entries: dict[str, VariantReport], fresh: Collection[str]
) -> Iterator[Check]:
    """Checks of what was not measured again: of whole variants, and of parts that were kept."""
    judged = {(check.variant, check.what) for check in report.verdict.checks}
    everything = not report.left_out
    for check in before.verdict.checks:
        entry = entries.get(check.variant)
        if entry is None:
            # Of a variant that is missing: as long as not all were looked at, it still is.
            if not everything and check.what == "baseline.variant" and (check.variant, check.what) not in judged:
                yield check
        elif entry.id not in fresh or (
            _part_of(check.what) in entry.earlier and (check.variant, check.what) not in judged
        ):
            yield check


def _part_of(what: str) -> str | None:
    """The part of an entry that a check is about."""
    quantity = QUANTITIES.get(what.removeprefix("baseline."))
    return None if quantity is None else "features" if quantity.field.startswith("features") else quantity.part


def _with_what_stays(merged: Report, before: Report, stay: Sequence[str]) -> Report:
    """`merged` with what `before` says of the variants `stay`, and of the run that made the bundle."""
    present = {entry.id for entry in merged.variants}
    new = {frozenset(pair.variants): pair for pair in merged.twins}
    # The same files decide alike today too, even where only one of them was measured again.
    old = [pair for pair in before.twins if set(pair.variants) <= present and frozenset(pair.variants) not in new]
    return replace(
        merged,
        seconds={**before.seconds, **merged.seconds},
        history=merged.history or before.history,
        baseline=_baseline(merged.baseline, before.baseline, stay),
        disturbances=tuple(dict.fromkeys((*(before.disturbances if stay else ()), *merged.disturbances))),
        twins=(*old, *merged.twins),
    )


def _baseline(
    new: BaselineComparison | None, old: BaselineComparison | None, stay: Sequence[str]
) -> BaselineComparison | None:
    """What changed since a baseline, with the changes of the variants that `stay`."""
    if old is None or not stay:
        return new
    changes = tuple(change for change in old.changes if change.variant in stay)
    if new is None:
        return replace(old, changes=changes)
    if (new.source, new.created) != (old.source, old.created):
        changes = tuple(replace(change, note=f"{change.note}; since {old.source}") for change in changes)
    return replace(new, changes=(*changes, *new.changes))
