"""The JUnit XML, held against the schema beside this file and against what the three CI systems read of it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetl.reports.junit import render_junit
from edgetl.verify.report import Check, Report, Verdict

SCHEMA = Path(__file__).with_name("junit.xsd")


@pytest.fixture(scope="module")
def schema() -> Any:
    return pytest.importorskip("xmlschema").XMLSchema(SCHEMA)


def suites(report: Report) -> dict[str, ElementTree.Element]:
    return {suite.attrib["name"]: suite for suite in ElementTree.fromstring(render_junit(report))}


def case(report: Report, variant: str, what: str) -> ElementTree.Element:
    (found,) = [case for case in suites(report)[variant].iter("testcase") if case.attrib["name"] == what]
    return found


def test_it_fits_the_schema(schema: Any, report: Report, full_report: Report) -> None:
    for one in (report, full_report, replace(report, variants=(), verdict=Verdict(False, ()))):
        schema.validate(render_junit(one))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("testcase name=", "testcase label="),
        ('tests="', 'tests="x'),
        ("<properties>", "<properties/><properties>"),
        ("system-err", "system-error"),
        (' type="top1_agreement"', ""),
    ],
)
def test_the_schema_finds_what_is_wrong(schema: Any, full_report: Report, old: str, new: str) -> None:
    assert not schema.is_valid(render_junit(full_report).replace(old, new))


def test_a_suite_for_every_variant_and_a_case_for_every_check(full_report: Report) -> None:
    found = suites(full_report)
    assert list(found) == [variant.id for variant in full_report.variants]
    for name, suite in found.items():
        checks = [check for check in full_report.verdict.checks if check.variant == name]
        assert [case.attrib["name"] for case in suite.iter("testcase")] == [check.what for check in checks]
        assert int(suite.attrib["tests"]) == len(checks)
        for kind in ("failure", "error", "skipped"):
            counted = int(suite.attrib[kind + "s" * (kind != "skipped")])
            assert counted == len(list(suite.iter(kind)))


def test_a_failure_says_what_why_and_what_to_do(full_report: Report) -> None:
    (failure,) = case(full_report, "tflite.int8", "top1_agreement")
    assert failure.tag == "failure"
    message = "tflite.int8: top-1 agreement with the original is 0.4, the gate asks for at least 0.95"
    assert failure.attrib["message"] == message
    assert failure.text is not None
    assert message in failure.text
    assert "colours in the order BGR: with R and B swapped 99.2 % agree, as is 40 %. Fix: feed RGB" in failure.text


def test_what_could_not_be_measured_is_an_error(full_report: Report) -> None:
    (error,) = case(full_report, "openvino.int8", "works")
    assert error.tag == "error"
    assert error.attrib["message"] == "openvino.int8: not exported: unsupported operator"


def test_an_undecided_check_is_skipped_with_its_reason(full_report: Report) -> None:
    (skipped,) = case(full_report, "onnx.fp32", "p95_ms")
    assert skipped.tag == "skipped"
    assert skipped.attrib["message"].startswith(
        "undecided: onnx.fp32: 95th percentile latency in ms is 9.1 (8.7 to 9.4)"
    )
    assert "measured 4 times as long" in skipped.attrib["message"]


def test_names_do_not_move_with_limits(report: Report) -> None:
    moved = replace(report, verdict=Verdict(False, tuple(replace(c, limit=0.5) for c in report.verdict.checks)))

    def names(one: Report) -> list[tuple[str, str]]:
        cases = ElementTree.fromstring(render_junit(one)).iter("testcase")
        return [(found.attrib["classname"], found.attrib["name"]) for found in cases]

    assert names(moved) == names(report)
    assert ("flowers.onnx.int8", "delta") in names(report)


def test_properties_name_machine_and_versions(report: Report) -> None:
    properties = {p.attrib["name"]: p.attrib["value"] for p in suites(report)["onnx.int8"].iter("property")}
    assert properties["processor"] == "Some CPU"
    assert properties["library.numpy"] == "2.0"
    assert (properties["engine"], properties["engine_version"]) == ("onnxruntime", "1.31.0")
    assert "memory_bytes" not in properties


def test_a_verdict_that_fails_without_a_failed_check_is_an_error_all_the_same(schema: Any, report: Report) -> None:
    nothing = replace(report, variants=(), verdict=Verdict(False, ()))
    text = render_junit(nothing)
    schema.validate(text)
    (error,) = ElementTree.fromstring(text).iter("error")
    assert error.attrib["message"] == "FAILED: nothing was measured"


def test_whatever_an_engine_says_is_legal_xml(schema: Any, report: Report) -> None:
    loud = Check("onnx.fp32", "works", None, None, False, note="\x1b[31m<&>\x00 \ud800 ]]> \"'")
    text = render_junit(replace(report, verdict=Verdict(False, (loud,))))
    schema.validate(text)
    text.encode("utf-8")
    (error,) = suites(replace(report, verdict=Verdict(False, (loud,))))["onnx.fp32"].iter("error")
    assert error.attrib["message"] == "onnx.fp32: \ufffd[31m<&>\ufffd \ufffd ]]> \"'"


def test_a_check_of_the_whole_bundle_has_its_own_suite(schema: Any, report: Report) -> None:
    whole = Check("", "baseline.input", None, None, False, note="the input contract changed")
    changed = replace(report, verdict=Verdict(False, (*report.verdict.checks, whole)))
    schema.validate(render_junit(changed))
    assert case(changed, "bundle", "baseline.input").attrib["classname"] == "flowers.bundle"
