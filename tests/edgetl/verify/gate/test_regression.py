from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl.stats import pack_shares
from edgetl.verify.gate.provenance import contract_of
from edgetl.verify.gate.regression import Baseline, check_same_model, compare_reports
from edgetl.verify.report import Change, Check, Data, Memory, Report, VariantReport
from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Manifest

N = 367


def with_variant(report: Report, id_: str, **parts: Any) -> Report:
    return replace(report, variants=tuple(replace(v, **parts) if v.id == id_ else v for v in report.variants))


def with_fields(report: Report, part: str, id_: str = "onnx.int8", **fields: Any) -> Report:
    return with_variant(report, id_, **{part: replace(getattr(report.variant(id_), part), **fields)})


def changes(report: Report, before: Report) -> dict[tuple[str, str], Change]:
    comparison, _ = compare_reports(report, Baseline(before, "base.json"))
    assert (comparison.source, comparison.created) == ("base.json", before.created)
    return {(change.variant, change.what): change for change in comparison.changes}


def failed(report: Report, before: Report) -> list[Check]:
    return [check for check in compare_reports(report, Baseline(before, "base.json"))[1] if not check.passed]


def bits(wrong: list[int]) -> str:
    right = np.ones(N, bool)
    right[wrong] = False
    return pack_shares(right)


@pytest.fixture
def timed(report: Report) -> Report:
    """The report with ratios, as `edgetl verify` measures them."""
    ratio = {"ratio": 0.5, "ratio_ci95": (0.49, 0.51), "rounds_ms": (3.0,) * 12, "reference": "onnx.fp32"}
    return with_fields(report, "latency", **ratio)


def test_nothing_changed(timed: Report) -> None:
    comparison, checks = compare_reports(timed, Baseline(timed, "base.json"))
    assert comparison.changes == ()
    assert checks
    assert all(check.passed for check in checks)
    assert {check.what for check in checks if check.variant == "onnx.int8"} == {
        "baseline.top1", "baseline.top1_agreement", "baseline.sqnr_db", "baseline.p50_ratio", "baseline.bytes",
    }  # fmt: skip


@pytest.mark.parametrize(("lost", "worse"), [(3, False), (12, True)])
@pytest.mark.parametrize(
    ("part", "share", "kept"), [("accuracy", "top1", "right"), ("parity", "top1_agreement", "agrees")]
)
def test_decisions_on_the_same_images_are_paired(
    report: Report, part: str, share: str, kept: str, lost: int, worse: bool
) -> None:
    before = with_fields(report, part, **{share: 360 / N, kept: bits(list(range(7)))})
    after = with_fields(report, part, **{share: (360 - lost) / N, kept: bits(list(range(7 + lost)))})
    change = changes(after, before)["onnx.int8", share]
    assert (change.significant, change.worse) == (worse, True)
    assert f"{lost} images lost and 0 won, paired on the same images (exact McNemar)" in change.note
    assert [check.what for check in failed(after, before)] == ([f"baseline.{share}"] if worse else [])
    assert not failed(before, after), "getting better is no failure"
    assert changes(before, after)["onnx.int8", share].significant == worse


@pytest.mark.parametrize(("right", "worse"), [(310, False), (295, True)])
def test_shares_of_other_images_are_compared_without_pairs(report: Report, right: int, worse: bool) -> None:
    """317 of 367 before. 12 fewer are 12 fewer of the same images above; of other images that is no news."""
    after = replace(with_fields(report, "accuracy", top1=right / N), data=Data(N, "another"))
    change = changes(after, report)["onnx.int8", "top1"]
    assert change.significant == worse
    assert "Fisher" in change.note
    assert bool(failed(after, report)) == worse
    assert ("", "images") in changes(after, report)


@pytest.mark.parametrize(("sqnr", "fails"), [(21.2, False), (20.8, True), (25.0, False)])
def test_sqnr(report: Report, sqnr: float, fails: bool) -> None:
    after = with_fields(report, "parity", sqnr_db=sqnr)
    assert [check.what for check in failed(after, report)] == (["baseline.sqnr_db"] if fails else [])
    elsewhere = replace(after, data=Data(N, "another"))
    assert not failed(elsewhere, report), "another set of photos gives another number"


@pytest.mark.parametrize(
    ("ratio", "interval", "fails", "undecided"),
    [
        (0.51, (0.50, 0.52), False, False),
        (0.525, (0.51, 0.54), False, False),
        (0.625, (0.60, 0.65), True, False),
        (0.57, (0.54, 0.60), False, True),
    ],
)
def test_latency_is_compared_by_its_ratio(
    timed: Report, ratio: float, interval: tuple[float, float], fails: bool, undecided: bool
) -> None:
    after = with_fields(timed, "latency", ratio=ratio, ratio_ci95=interval, p50_ms=99.0)
    checks = compare_reports(after, Baseline(timed, "base.json"))[1]
    (check,) = [check for check in checks if check.what == "baseline.p50_ratio"]
    assert (check.passed, check.undecided, check.interval) == (not fails, undecided, interval)
    assert check.limit == pytest.approx(0.51 * 1.15), "the accepted ratio had an interval too"
    change = changes(after, timed)["onnx.int8", "p50_ratio"]
    assert (change.significant, change.worse) == (fails, True)


@pytest.mark.parametrize("what", ["processor", "threads", "reference"])
def test_latencies_that_cannot_be_compared_are_told_and_do_not_count(timed: Report, what: str) -> None:
    after = with_fields(timed, "latency", ratio=2.0, ratio_ci95=(1.9, 2.1))
    if what == "processor":
        after = replace(after, machine={**after.machine, "processor": "Another CPU"})
    else:
        after = with_fields(after, "latency", **{what: 2 if what == "threads" else "tflite.fp32"})
    change = changes(after, timed)["onnx.int8", "p50_ratio"]
    assert not change.significant
    assert "does not count" in change.note
    assert not failed(after, timed)


def test_size_and_memory(report: Report) -> None:
    before = with_variant(report, "onnx.int8", memory=Memory(100_000_000), bytes=2_000_000)
    for peak, size, found in [
        (110_000_000, 2_010_000, []),
        (120_000_000, 2_000_000, ["baseline.peak_rss_bytes"]),
        (90_000_000, 2_100_000, ["baseline.bytes"]),
    ]:
        after = with_variant(report, "onnx.int8", memory=Memory(peak), bytes=size)
        assert [check.what for check in failed(after, before)] == found


def test_versions_contract_and_original_are_told_and_do_not_count(report: Report) -> None:
    before = replace(
        report,
        provenance={"converters": {"onnx": "1.0", "gone": "1"}, "checkpoint_sha256": "a" * 64},
        contract={"preprocess": {"resize": 256, "crop": [224, 224]}, "normalize": {"mean": [0.5]}},
    )
    after = replace(
        with_variant(report, "onnx.int8", engine_version="9.9"),
        provenance={"converters": {"onnx": "1.1"}, "checkpoint_sha256": "a" * 64},
        contract={"preprocess": {"resize": 232, "crop": [224, 224]}, "normalize": {"mean": [0.5]}},
        reference=replace(report.reference, top1=0.5),
    )
    found = changes(after, before)
    assert (found["", "converter onnx"].before, found["", "converter onnx"].after) == ("1.0", "1.1")
    assert found["", "converter gone"].after is None
    assert found["", "original top1"].after == 0.5
    assert "resize 232" in str(found["", "contract.preprocess"].after)
    assert found["", "contract.preprocess"].significant
    assert ("", "contract.normalize") not in found
    assert ("", "checkpoint") not in found
    assert not any(change.worse for change in found.values())
    assert not failed(after, before)


def test_a_variant_that_is_gone_fails_unless_it_was_not_asked_for(report: Report) -> None:
    after = replace(report, variants=tuple(v for v in report.variants if v.id != "onnx.int8"))
    (check,) = failed(after, report)
    assert (check.variant, check.what) == ("onnx.int8", "baseline.variant")
    comparison, checks = compare_reports(after, Baseline(report, "base.json"), only=["onnx.fp32"])
    assert not [check for check in checks if not check.passed]
    assert not comparison.changes
    new = changes(report, after)["onnx.int8", "variant"]
    assert (new.before, new.after, new.significant) == (None, "onnx.int8", False)


def test_a_variant_that_works_no_more_is_the_gates_business(report: Report) -> None:
    after = with_variant(report, "onnx.int8", error="gone", parity=None, accuracy=None)
    assert not failed(after, report)


@pytest.mark.parametrize("what", ["labels", "backbone", "input"])
def test_a_baseline_of_another_model(report: Report, fake_manifest: Manifest, what: str) -> None:
    base = replace(
        report,
        labels={label.id: label.name for label in fake_manifest.labels},
        provenance={"backbone": "mobilenet_v2"},
        contract=contract_of(fake_manifest),
    )
    manifest = replace(fake_manifest, provenance={"backbone": "mobilenet_v2"})
    check_same_model(manifest, Baseline(base, "base.json"))
    damaged = {
        "labels": {"labels": {"cat": "Cat", "dog": "Dog"}},
        "backbone": {"provenance": {"backbone": "resnet18"}},
        "input": {"contract": {"input": {"name": "pixels"}}},
    }[what]
    with pytest.raises(UsageError, match=r"base\.json is of another model"):
        check_same_model(manifest, Baseline(replace(base, **damaged), "base.json"))


def test_an_older_baseline_says_nothing_of_the_contract(report: Report, fake_manifest: Manifest) -> None:
    labels = {label.id: label.name for label in fake_manifest.labels}
    check_same_model(fake_manifest, Baseline(replace(report, labels=labels, provenance={}), "base.json"))


def test_the_contract_survives_json(report: Report, fake_manifest: Manifest) -> None:
    written = replace(report, contract=contract_of(fake_manifest))
    assert Report.from_json(written.to_json(), where="x").contract == contract_of(fake_manifest)


def test_reading(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "base.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert Baseline.read(path).report == report
    path.write_text(json.dumps({**json.loads(report.to_json()), "schema": 99}), encoding="utf-8")
    with pytest.raises(UsageError, match="schema 99"):
        Baseline.read(path)
    with pytest.raises(UsageError, match="cannot read the baseline"):
        Baseline.read(tmp_path / "gone.json")


def test_the_comparison_survives_json(timed: Report) -> None:
    after = with_fields(timed, "accuracy", top1=0.5, right=bits(list(range(180))))
    comparison, checks = compare_reports(after, Baseline(timed, "base.json"))
    written = replace(after, baseline=comparison, verdict=replace(after.verdict, checks=checks))
    assert Report.from_json(written.to_json(), where="x") == written
    assert isinstance(written.variants[0], VariantReport)
