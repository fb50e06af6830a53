from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from edgetl.tasks.classification.results import ClassAccuracy
from edgetl.verify.gate.limits import Gate, judge, read_gate
from edgetl.verify.gate.propose import propose_gate, write_gate
from edgetl.verify.gate.regression import BYTES_MARGIN, LATENCY_MARGIN, PEAK_MARGIN, Baseline, compare_reports
from edgetl.verify.report import Memory, Parity, Report
from edgetl_runtime.errors import OutputError


@pytest.fixture
def measured(report: Report) -> Report:
    """Everything measured; without the two variants that are broken."""
    variants = []
    for variant in report.variants:
        if variant.latency is None or variant.accuracy is None or variant.id == "tflite.int8":
            continue
        ratio = variant.latency.p50_ms / 8.0
        latency = replace(
            variant.latency,
            ratio=ratio,
            ratio_ci95=(ratio * 0.97, ratio * 1.1),
            rounds_ms=(variant.latency.p50_ms,) * 12,
            reference="onnx.fp32",
        )
        accuracy = replace(variant.accuracy, class_delta=-0.03)
        memory = Memory(123_456_789, cold_start_ms=612.3)
        variants.append(replace(variant, latency=latency, accuracy=accuracy, memory=memory))
    return replace(report, variants=tuple(variants), verdict=judge(variants, Gate()))


def test_what_is_proposed(measured: Report) -> None:
    proposed = tomllib.loads(propose_gate(measured).text)
    assert proposed["reference"] == "onnx.fp32"
    assert list(proposed["variant"]) == [variant.id for variant in measured.variants]
    assert proposed["variant"]["onnx.int8"] == {
        "top1_agreement": 0.97,  # 361 of 367 are 98.4 %
        "sqnr_db": 19.0,
        "delta": -0.02,  # 2 of 367 are 0.5 points
        "class_delta": -0.08,
        "p50_ratio": 0.48,  # 3 of 8 ms, perhaps 10 % more, and 15 % more than that
        "bytes": 2_450_000,
        "peak_rss_bytes": 150_000_000,
        "cold_start_ms": 920,
    }
    assert proposed["variant"]["onnx.fp32"]["sqnr_db"] == 80
    assert "p50_ratio" not in proposed["variant"]["onnx.fp32"], "it is the reference itself"


def test_the_proposed_gate_passes_on_its_report(measured: Report, tmp_path: Path) -> None:
    write_gate(measured, tmp_path / "gate.toml")
    verdict = judge(measured.variants, read_gate(tmp_path / "gate.toml"))
    assert verdict.passed, verdict.failed
    assert not verdict.undecided
    assert len(verdict.checks) > 50


def test_a_little_worse_is_found(measured: Report, tmp_path: Path) -> None:
    write_gate(measured, tmp_path / "gate.toml")
    gate = read_gate(tmp_path / "gate.toml")
    fat = [replace(variant, bytes=round((variant.bytes or 0) * 1.05)) for variant in measured.variants]
    assert {check.what for check in judge(fat, gate).failed} == {"bytes"}


def with_photos(report: Report, n: int, per_label: int) -> Report:
    """The report as if it were of `n` photos, all decided as the original decides."""
    classes = {label: ClassAccuracy(per_label, 1.0) for label in report.labels if per_label}
    variants = [
        replace(
            variant,
            parity=Parity(n, 1.0, 100.0, 0.1, 0.99),
            accuracy=None
            if variant.accuracy is None
            else replace(
                variant.accuracy, n=n, top1=1.0, delta=0.0, broken=0, repaired=0, class_delta=0.0, per_class=classes
            ),
        )
        for variant in report.variants
    ]
    return replace(
        report,
        data=replace(report.data, n=n),
        reference=replace(report.reference, n=n, per_class=classes),
        variants=tuple(variants),
        verdict=judge(variants, Gate()),
    )


def lose(report: Report, images: int) -> Report:
    """So many images of the last variant are now decided otherwise, and wrong."""
    *others, last = report.variants
    assert last.parity is not None
    assert last.accuracy is not None
    share = images / last.parity.n
    worse = replace(
        last,
        parity=replace(last.parity, top1_agreement=1 - share),
        accuracy=replace(last.accuracy, top1=1 - share, delta=-share, broken=images),
    )
    return replace(report, variants=(*others, worse))


@pytest.mark.parametrize("n", [6, 12, 40, 100, 136, 150, 367, 2000])
def test_decisions_have_the_room_that_a_baseline_gives_them(measured: Report, tmp_path: Path, n: int) -> None:
    """Four images lost are no news for McNemar's test, so they are none for the proposed gate."""
    report = with_photos(measured, n, max(1, n // 3))
    write_gate(report, tmp_path / "gate.toml")
    gate = read_gate(tmp_path / "gate.toml")
    for images in range(min(5, n)):
        verdict = judge(lose(report, images).variants, gate)
        assert verdict.passed, (images, verdict.failed)
    assert not judge(lose(report, n * 2 // 3 + 2).variants, gate).passed


@pytest.mark.parametrize(
    ("n", "per_label", "told"),
    [
        (199, 60, "few photos: 199, and 60 of the label that has fewest"),
        (250, 9, "few photos: 250, and 9 of the label that has fewest"),
        (250, 0, "few photos: 250, and none of some labels"),
        (200, 10, None),
    ],
)
def test_few_photos_are_told(measured: Report, n: int, per_label: int, told: str | None) -> None:
    proposal = propose_gate(with_photos(measured, n, per_label))
    notes = [note for note in proposal.notes if note.startswith("few photos")]
    assert [note.partition(".")[0] for note in notes] == ([] if told is None else [told])
    assert all(f"# Note: {note}." in proposal.text for note in notes)


def disturbed(report: Report, waited: float) -> Report:
    variants = [
        replace(
            variant,
            latency=variant.latency and replace(variant.latency, waited=waited),
            memory=variant.memory and replace(variant.memory, waited=waited),
        )
        for variant in report.variants
    ]
    return replace(report, variants=tuple(variants), disturbances=("other processes took 64% of the 2 cores",))


def test_a_disturbed_machine_is_told_and_times_are_wider(measured: Report) -> None:
    proposal = propose_gate(disturbed(measured, 0.5))
    (note,) = proposal.notes
    assert "other processes took 64% of the 2 cores" in note
    assert "up to 100% wider" in note
    assert f"# Note: {note}." in proposal.text
    wide, usual = (tomllib.loads(text)["variant"]["onnx.int8"] for text in (proposal.text, propose_gate(measured).text))
    assert wide["p50_ratio"] == pytest.approx(2 * usual["p50_ratio"], rel=0.05)
    assert wide["cold_start_ms"] == pytest.approx(2 * usual["cold_start_ms"], rel=0.05)
    assert {name for name in wide if wide[name] != usual[name]} == {"p50_ratio", "cold_start_ms"}


@pytest.mark.parametrize("waited", [0.0, 0.3, 0.6])
def test_no_proposed_limit_is_tighter_than_the_baselines(measured: Report, waited: float) -> None:
    report = disturbed(measured, waited)
    limits = tomllib.loads(propose_gate(report).text)["variant"]
    for check in compare_reports(report, Baseline(report, "accepted.json"))[1]:
        what = check.what.removeprefix("baseline.")
        if what in ("p50_ratio", "bytes", "peak_rss_bytes"):
            assert limits[check.variant][what] >= check.limit * (1 - 1e-6), check
    assert (LATENCY_MARGIN, BYTES_MARGIN, PEAK_MARGIN) == (1.15, 1.01, 1.15)


def test_a_limit_that_would_make_no_sense_is_left_out(measured: Report) -> None:
    variants = [
        replace(v, latency=v.latency and replace(v.latency, ratio=30.0, ratio_ci95=(29.0, 31.0)))
        for v in measured.variants
    ]
    proposal = propose_gate(replace(measured, variants=tuple(variants)))
    assert "onnx.int8: no limit on p50_ratio is proposed: 36 would make no sense" in proposal.notes
    assert "p50_ratio" not in tomllib.loads(proposal.text)["variant"]["onnx.int8"]


def test_the_name_of_a_bundle_adds_no_limit(measured: Report) -> None:
    named = replace(measured, bundle="a\n[default]\nsqnr_db = 0\n#\x1b[31m.edgetl")
    assert tomllib.loads(propose_gate(named).text) == tomllib.loads(propose_gate(measured).text)


def test_what_failed_does_not_become_the_measure(report: Report) -> None:
    text = propose_gate(report).text
    assert "# tflite.int8 failed: the built-in limits stay." in text
    assert set(tomllib.loads(text)["variant"]) == {v.id for v in report.variants} - {"tflite.int8", "openvino.int8"}


def test_limits_that_somebody_chose_are_not_lost(measured: Report, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_gate(measured, path)
    assert path.read_text() == "mine"
    write_gate(measured, path, force=True)
    assert read_gate(path).variant
