"""What a bundle keeps of its verifications: variant by variant, never a lesser report over a fuller one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetl.reports import recording
from edgetl.reports.html import render_html
from edgetl.reports.phrases import measured_apart
from edgetl.reports.recording import record_report
from edgetl.verify import record
from edgetl.verify.gate.limits import Gate, judge
from edgetl.verify.record import check_record, merge_reports
from edgetl.verify.report import (
    BaselineComparison,
    Change,
    Check,
    CrossFormatParity,
    Data,
    LayerError,
    Measured,
    Memory,
    Parity,
    Report,
    VariantReport,
)
from edgetl_runtime.errors import OutputError, UsageError
from edgetl_runtime.manifest import Manifest

Part = Callable[..., Report]
OTHER = Data(367, "e" * 64)


@pytest.fixture
def manifest(report: Report, fake_bundle: Any) -> Manifest:
    """A bundle of the variants of `report` but openvino.int8, which could not be exported."""
    found: Manifest = fake_bundle({variant.id: None for variant in report.variants[:-1]}).manifest
    return found


def files_of(manifest: Manifest, id_: str) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.variant(id_).files}


@pytest.fixture
def part(report: Report, manifest: Manifest) -> Part:
    """``part("onnx.fp32", created=..., data=...)``: what a verification of these variants gives; of all without names.

    tflite.int8 fails in a whole one; ``sound`` measures it as it should be.
    """

    def make(
        *ids: str, created: str = "2026-02-03T04:05:06+00:00", data: Data = report.data, sound: bool = False
    ) -> Report:
        wanted = ids or tuple(item.id for item in manifest.variants)
        measured = Measured(created, data, "Some CPU")
        entries = [
            replace(entry, files_sha256=files_of(manifest, entry.id), measured=measured)
            for entry in report.variants
            if entry.id in wanted
        ]
        if sound:
            entries = [replace(entry, parity=Parity(367, 1.0, 90.0, 0.1, 1.0)) for entry in entries]
        left_out = tuple(item.id for item in manifest.variants if item.id not in wanted)
        verdict = judge(entries, Gate())
        return replace(
            report, created=created, data=data, variants=tuple(entries), verdict=verdict, left_out=left_out, seconds={}
        )

    return make


@pytest.fixture
def whole(report: Report, part: Part) -> Report:
    """What `edgetl run` recorded: all variants, and the one that it could not export."""
    found = part(created="2026-01-02T03:04:05+00:00")
    entries = (*found.variants, report.variants[-1])
    return replace(found, variants=entries, verdict=judge(entries, Gate()), seconds={"train": 60.0})


def failed(report: Report) -> set[str]:
    return {check.variant for check in report.verdict.failed}


@pytest.mark.parametrize("ids", [["onnx.fp32"], ["openvino.fp16"], ["onnx.int8", "tflite.fp32"]])
def test_a_part_changes_nothing_that_is_recorded_of_the_others(
    whole: Report, part: Part, manifest: Manifest, ids: list[str]
) -> None:
    merged, notes = merge_reports(whole, part(*ids), manifest)
    assert notes == ()
    assert [entry.id for entry in merged.variants] == [entry.id for entry in whole.variants]
    for entry in merged.variants:
        assert entry == (part(*ids) if entry.id in ids else whole).variant(entry.id)
    assert failed(merged) == {"tflite.int8", "openvino.int8"}
    assert not merged.verdict.passed
    assert {(c.variant, c.what) for c in merged.verdict.checks} == {(c.variant, c.what) for c in whole.verdict.checks}
    assert merged.seconds == {"train": 60.0}
    assert merged.left_out == ()
    assert Report.from_json(merged.to_json(), where="x") == merged


def test_measuring_a_variant_again_is_what_undoes_it(whole: Report, part: Part, manifest: Manifest) -> None:
    merged, _ = merge_reports(whole, part("tflite.int8", sound=True), manifest)
    assert failed(merged) == {"openvino.int8"}
    again, _ = merge_reports(merged, part("tflite.int8"), manifest)
    assert failed(again) == {"tflite.int8", "openvino.int8"}


def test_a_part_alone_says_what_it_leaves_out(part: Part, manifest: Manifest) -> None:
    merged, _ = merge_reports(None, part("onnx.fp32"), manifest)
    assert merged.verdict.passed
    assert merged.left_out == tuple(item.id for item in manifest.variants if item.id != "onnx.fp32")
    more, _ = merge_reports(merged, part("tflite.int8"), manifest)
    assert [entry.id for entry in more.variants] == ["onnx.fp32", "tflite.int8"]
    assert not more.verdict.passed


def test_an_older_report_counts_as_one_on_these_files(
    whole: Report, part: Part, report: Report, manifest: Manifest
) -> None:
    merged, notes = merge_reports(report, part("onnx.fp32"), manifest)
    assert notes == ()
    assert failed(merged) == {"tflite.int8", "openvino.int8"}
    old = merged.variant("tflite.int8")
    assert old.files_sha256 == files_of(manifest, "tflite.int8")
    assert old.measured == Measured(report.created, report.data, "Some CPU")


def test_what_was_recorded_of_other_files_is_left_out_with_a_word(
    whole: Report, part: Part, manifest: Manifest
) -> None:
    entries = [
        replace(entry, files_sha256={"tflite.int8.bin": "1" * 64}) if entry.id == "tflite.int8" else entry
        for entry in whole.variants
    ]
    merged, notes = merge_reports(replace(whole, variants=tuple(entries)), part("onnx.fp32"), manifest)
    assert "tflite.int8" not in {entry.id for entry in merged.variants}
    assert merged.left_out == ("tflite.int8",)
    assert failed(merged) == {"openvino.int8"}
    (note,) = notes
    assert "tflite.int8" in note


def test_a_variant_that_was_written_after_all_is_no_longer_missing(
    whole: Report, part: Part, report: Report, manifest: Manifest
) -> None:
    missing = VariantReport("onnx.int8", "onnx", "int8", error="not exported: unsupported operator")
    entries = tuple(missing if entry.id == "onnx.int8" else entry for entry in whole.variants)
    merged, notes = merge_reports(replace(whole, variants=entries), part("onnx.fp32"), manifest)
    assert merged.left_out == ("onnx.int8",)
    assert "onnx.int8" in notes[0]
    assert merged.variant("openvino.int8") == report.variants[-1], "that one still is"


LAYERS = (LayerError("stem", "n1", "t1", 30.0, 8.0), LayerError("head", "n2", "t2", 20.0, 10.0))


@pytest.mark.parametrize(
    ("name", "parts", "check"),
    [
        ("memory", {"memory": Memory(200_000_000)}, Check("onnx.int8", "peak_rss_bytes", 1e8, 2e8, False, "<=")),
        ("layers", {"layers": LAYERS, "suspects": LAYERS[:1]}, None),
        ("latency", {}, Check("onnx.int8", "p50_ms", 1.0, 3.0, False, "<=")),
    ],
)
def test_parts_that_were_not_measured_this_time_stay(
    whole: Report, part: Part, manifest: Manifest, name: str, parts: dict[str, Any], check: Check | None
) -> None:
    entries = tuple(replace(v, **parts) if v.id == "onnx.int8" else v for v in whole.variants)
    checks = (*whole.verdict.checks, *([check] if check else []))
    before = replace(whole, variants=entries, verdict=replace(whole.verdict, checks=checks))
    now = part("onnx.int8")
    now = replace(now, variants=(replace(now.variants[0], **({"latency": None} if name == "latency" else {})),))
    merged, _ = merge_reports(before, now, manifest)
    entry = merged.variant("onnx.int8")
    assert getattr(entry, name) == getattr(before.variant("onnx.int8"), name)
    assert entry.earlier == {name: before.variant("onnx.int8").measured}
    assert entry.measured == now.variants[0].measured
    assert ([c for c in merged.verdict.failed if c.variant == "onnx.int8"] == [check]) == (check is not None)
    assert Report.from_json(merged.to_json(), where="x") == merged
    assert any(f"{name} of onnx.int8" in line for line in measured_apart(merged))
    # Measured again, they are replaced, and so is what was said of them.
    again = replace(now, variants=(replace(before.variant("onnx.int8"), measured=now.variants[0].measured),))
    assert merge_reports(before, again, manifest)[0].variant("onnx.int8").earlier == {}


def test_what_no_engine_here_can_run_is_not_measured_anew(whole: Report, part: Part, manifest: Manifest) -> None:
    absent = VariantReport("onnx.fp32", "onnx", "fp32", error="onnxruntime is not installed here")
    now = part("onnx.fp32", "tflite.int8", sound=True)
    entries = (absent, now.variant("tflite.int8"))
    now = replace(now, variants=entries, verdict=judge(entries, Gate()))
    merged, notes = merge_reports(whole, now, manifest)
    assert merged.variant("onnx.fp32") == whole.variant("onnx.fp32")
    assert failed(merged) == {"openvino.int8"}
    assert "not recorded: onnx.fp32 was not measured here: onnxruntime is not installed here" in notes
    alone, _ = merge_reports(None, now, manifest)
    assert [entry.id for entry in alone.variants] == ["tflite.int8"]
    assert alone.verdict.passed


@pytest.mark.parametrize("data", [OTHER, Data(20, "f" * 64), Data(999, "a" * 64)], ids=["other", "fewer", "more"])
def test_one_report_is_on_one_set_of_photos(whole: Report, part: Part, manifest: Manifest, data: Data) -> None:
    for force in (False, True):
        with pytest.raises(OutputError, match=r"tflite\.int8.* is on 367 other photos .*one set of photos"):
            merge_reports(whole, part("onnx.fp32", data=data), manifest, force=force)


def test_all_variants_on_other_photos_replace_all_but_never_with_fewer(
    whole: Report, part: Part, manifest: Manifest
) -> None:
    for data in (OTHER, Data(999, "a" * 64)):
        merged, _ = merge_reports(whole, part(data=data, sound=True), manifest)
        assert merged.data == data
        assert failed(merged) == {"openvino.int8"}, "it was not exported, whatever the photos"
    few = part(data=Data(20, "a" * 64))
    with pytest.raises(OutputError, match="367 photos, and these are 20: fewer do not replace more"):
        merge_reports(whole, few, manifest)
    assert merge_reports(whole, few, manifest, force=True)[0].data.n == 20


def test_changes_since_a_baseline_and_twins_stay_with_their_variants(
    whole: Report, part: Part, manifest: Manifest
) -> None:
    changes = tuple(Change(id_, "top1", 0.9, 0.8, True, True, "p 0.01") for id_ in ("onnx.fp32", "tflite.int8"))
    parity = Parity(367, 0.99, 20.0, None, None)
    twins = (CrossFormatParity(("onnx.int8", "tflite.int8"), parity),)
    lost = Check("tflite.int8", "baseline.top1", 0.9, 0.8, False, ">=")
    checks = (*whole.verdict.checks, lost)
    before = replace(
        whole,
        baseline=BaselineComparison("a.json", "2025", changes),
        twins=twins,
        disturbances=("the clock rose",),
        verdict=replace(whole.verdict, checks=checks),
    )
    merged, _ = merge_reports(before, part("onnx.fp32"), manifest)
    assert merged.baseline == BaselineComparison("a.json", "2025", changes[1:])
    assert lost in merged.verdict.failed
    assert merged.twins == twins
    assert merged.disturbances == ("the clock rose",)
    new = BaselineComparison("b.json", "2026", (replace(changes[0], note="p 0.02"),))
    merged, _ = merge_reports(before, replace(part("onnx.fp32"), baseline=new), manifest)
    assert merged.baseline is not None
    assert (merged.baseline.source, len(merged.baseline.changes)) == ("b.json", 2)
    assert merged.baseline.changes[0].note == "p 0.01; since a.json"


@pytest.mark.slow
def test_the_page_says_what_was_measured_apart(whole: Report, part: Part, manifest: Manifest) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    merged, _ = merge_reports(whole, part("onnx.fp32"), manifest)
    page = render_html(merged)
    assert "measured 2026-02-03 04:05:06 UTC on 367 images, Some CPU: onnx.fp32" in page
    assert "openvino.fp16" in page
    assert measured_apart(part()) == []
    assert measured_apart(part("onnx.fp32")) == []


@pytest.fixture
def folder(tmp_path: Path, fake_bundle: Any, report: Report, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle's folder; the bundle in it is a fake one."""
    bundle = fake_bundle({variant.id: None for variant in report.variants[:-1]})
    monkeypatch.setattr(recording, "open_bundle", lambda path: bundle)
    monkeypatch.setattr(recording, "write_report", lambda report, files: files.json.write_text(report.to_json()))
    return tmp_path


def recorded(folder: Path) -> Report:
    return Report.from_json((folder / "report.json").read_bytes(), where="report.json")


def test_two_at_once_lose_nothing(folder: Path, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(report: Report, files: Any) -> None:
        time.sleep(0.2)
        files.json.write_text(report.to_json())

    monkeypatch.setattr(recording, "write_report", slow)
    ids = ["onnx.fp32", "onnx.int8", "tflite.fp32", "openvino.fp16"]
    threads = [threading.Thread(target=record_report, args=(part(id_), folder)) for id_ in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.id for entry in recorded(folder).variants} == set(ids)


@pytest.mark.parametrize("text", ["{", "", '{"schema": 99}', '{"schema": 1, "verdict": null}'])
def test_a_report_that_cannot_be_read_is_not_written_over(folder: Path, part: Part, text: str) -> None:
    (folder / "report.json").write_text(text)
    with pytest.raises(OutputError, match="recorded in the bundle would be lost"):
        record_report(part(), folder)
    assert (folder / "report.json").read_text() == text


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(
    folder: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_record(folder, manifest, [])
    monkeypatch.setattr(record.os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="cannot write into"):
        check_record(folder, manifest, [])


def test_files_that_changed_meanwhile_and_nothing_measured(folder: Path, part: Part) -> None:
    now = part("onnx.fp32")
    changed = replace(now, variants=(replace(now.variants[0], files_sha256={"onnx.fp32.bin": "2" * 64}),))
    with pytest.raises(OutputError, match=r"the files of onnx\.fp32 are others"):
        record_report(changed, folder)
    nothing = replace(now, variants=(VariantReport("onnx.fp32", "onnx", "fp32", error="no engine"),))
    with pytest.raises(OutputError, match="nothing was measured"):
        record_report(nothing, folder)
    assert not (folder / "report.json").exists()


def test_one_file_holds_no_report(tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    file = tmp_path / "bundle.zip"
    file.write_bytes(b"")
    with pytest.raises(UsageError, match="is one file"):
        record_report(part(), file)
