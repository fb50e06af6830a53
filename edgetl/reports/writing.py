"""Put a report on disk: each file is there whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgetl.reports.html import render_html
from edgetl.reports.junit import render_junit
from edgetl.reports.markdown import render_markdown
from edgetl.verify.report import REPORT_FILE, Report
from edgetl_runtime.writing import write_file

__all__ = ["ReportFiles", "write_report"]


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes; a format without a path is not written.

    ``bundle`` is the folder that the report is about: the HTML shows what calibration left there.
    """

    json: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    junit: Path | None = None
    bundle: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """``report.json`` and ``report.html``, as a bundle has them; none where the bundle is a single file."""
        if not folder.is_dir():
            return cls()
        return cls(json=folder / REPORT_FILE, html=folder / "report.html", bundle=folder)


def write_report(report: Report, files: ReportFiles) -> None:
    """Write `report` in every format that `files` names; what stood there is replaced.

    All formats are rendered before the first is written. Raises `OutputError` when a file cannot be written and
    `MissingDependency` when the HTML needs a library that is not there.
    """
    rendered: list[tuple[Path, str]] = []
    if files.html is not None:
        rendered.append((files.html, render_html(report, bundle=files.bundle)))
    if files.markdown is not None:
        rendered.append((files.markdown, render_markdown(report)))
    if files.junit is not None:
        rendered.append((files.junit, render_junit(report)))
    if files.json is not None:
        rendered.append((files.json, report.to_json() + "\n"))
    for path, text in rendered:
        write_file(path, text)
