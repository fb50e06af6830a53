from __future__ import annotations

from pathlib import Path

import pytest

import edgetl.reports.writing as writing
from edgetl.reports.writing import ReportFiles, write_report
from edgetl.verify.report import Report
from edgetl_runtime.errors import MissingDependency, OutputError


@pytest.mark.slow
def test_every_format_that_is_asked_for(tmp_path: Path, report: Report) -> None:
    files = ReportFiles(
        json=tmp_path / "a.json", html=tmp_path / "b.html", markdown=tmp_path / "c.md", junit=tmp_path / "d.xml"
    )
    write_report(report, files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.html", "c.md", "d.xml"]
    assert (tmp_path / "d.xml").read_text(encoding="utf-8").startswith("<?xml")
    assert Report.from_json((tmp_path / "a.json").read_bytes(), where="a.json") == report


def test_in_a_bundle(tmp_path: Path, report: Report) -> None:
    (tmp_path / "report.json").write_text("old")
    write_report(report, ReportFiles.in_folder(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert (tmp_path / "report.json").read_text(encoding="utf-8").startswith("{")


def test_a_folder_that_is_not_there(tmp_path: Path, report: Report) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*none.*No such file"):
        write_report(report, ReportFiles(json=tmp_path / "none" / "report.json"))


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    (tmp_path / "report.json").write_text("old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(report, ReportFiles(json=tmp_path / "report.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_a_missing_library_is_found_before_anything_is_written(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(report: Report, *, bundle: Path | None) -> str:
        raise MissingDependency("jinja2", needed_for="the HTML report", extra="report")

    monkeypatch.setattr(writing, "render_html", missing)
    with pytest.raises(MissingDependency):
        write_report(report, ReportFiles.in_folder(tmp_path))
    assert list(tmp_path.iterdir()) == []
