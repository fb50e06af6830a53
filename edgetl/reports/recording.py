"""Put a report into its bundle: ``report.json``, variant by variant, and ``report.html`` made from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.reports.writing import ReportFiles, write_report
from edgetl.verify.record import check_files, merge_reports, read_record, without_photos
from edgetl.verify.report import Report
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import MissingDependency, OutputError

__all__ = ["Recorded", "record_report"]


@dataclass(frozen=True)
class Recorded:
    """The report as the bundle has it now, and what there is to say about it."""

    report: Report
    notes: tuple[str, ...]


def record_report(report: Report, bundle: Path, *, force: bool = False, photos: bool = True) -> Recorded:
    """Put what `report` measured into the report of the folder `bundle`, as it is now, and write both its files.

    Without `photos` neither has thumbnails, those that were recorded before included.
    Several processes may record in one bundle: each waits for the other. Without the libraries that make the page only
    ``report.json`` is written. Raises `OutputError` when `report` is on other photos than what stays, on fewer than
    before (unless `force`), about other files than the bundle has, or cannot be written.
    """
    manifest = open_bundle(bundle).manifest
    check_files(report, manifest)
    with _alone_in(bundle):
        before = read_record(bundle)
        merged, notes = merge_reports(before, report, manifest, force=force)
        merged = merged if photos else without_photos(merged)
        if not any(entry.measured for entry in merged.variants):
            raise OutputError("nothing was measured that could be recorded", fix="install the engines of the variants")
        files = ReportFiles.in_folder(bundle)
        try:
            write_report(merged, files)
        except MissingDependency as error:
            write_report(merged, replace(files, html=None))
            older = "; the one in the bundle is older" if files.html is not None and files.html.exists() else ""
            notes = (*notes, f"report.html was not written{older}: {error}")
    return Recorded(merged, notes)


@contextmanager
def _alone_in(bundle: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that no other process reads the report that this one is about to replace.

    Nothing is left in the folder. Windows has no such lock, nor have some network drives: there, two at the same
    moment may still miss each other.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    folder = os.open(bundle, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
