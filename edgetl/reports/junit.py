"""The report as JUnit XML, for GitHub, GitLab and Jenkins.

One test suite per variant, one test case per check of the gate; its name is the quantity and its class the bundle and
the variant, so that a check keeps its history when a limit moves. A limit that does not hold is a failure; what could
not be measured, and a variant that does not run, is an error. An undecided check is skipped with its reason: all
three show that apart from passed and failed, none lets it break the build, and a passed case with a remark in its
output would be shown as passed. The suite's output has the table of checks with values and limits, its properties
the machine and the versions of libraries.

The format has no standard. What is written here fits both published schemas that tools check against: that of Apache
Ant's report (with ``skipped``), and the looser one of Jenkins' xUnit plugin.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import PurePath

from edgetl.reports.phrases import causes, changed_predictions_in_words, changes_in_words
from edgetl.reports.table import (
    describe,
    describe_limit,
    describe_value,
    is_of_parity,
    verdict_line,
    where_it_goes_wrong,
)
from edgetl.verify.report import Check, Report, VariantReport
from edgetl_runtime.escaping import printable

__all__ = ["render_junit"]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no place for, such as the colour codes in an engine's message."""

_NO_TIME = "0.000"
"""Checks take no time of their own: all were measured together."""


def render_junit(report: Report) -> str:
    """The XML, complete. A failed verdict has at least one failed case, so that no CI passes on nothing."""
    root = ElementTree.Element("testsuites")
    checks: dict[str, list[Check]] = {variant.id: [] for variant in report.variants}
    for check in report.verdict.checks:
        checks.setdefault(check.variant, []).append(check)
    if not report.verdict.passed and not report.verdict.failed:
        checks[""] = [*checks.get("", []), Check("", "verdict", None, None, False, note=verdict_line(report))]
    for number, (variant_id, own) in enumerate(checks.items()):
        root.append(_suite(number, variant_id, own, report))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(number: int, variant_id: str, checks: Sequence[Check], report: Report) -> ElementTree.Element:
    variant = next((variant for variant in report.variants if variant.id == variant_id), None)
    package = re.sub(r"[^\w-]+", "_", PurePath(report.bundle).stem) or "bundle"
    cases = [_case(check, f"{package}.{variant_id or 'bundle'}", variant, report) for check in checks]
    suite = _element(
        "testsuite",
        name=variant_id or "bundle",
        package=package,
        id=str(number),
        timestamp=report.created[:19],
        hostname="localhost",
        tests=str(len(cases)),
        failures=_count(cases, "failure"),
        errors=_count(cases, "error"),
        skipped=_count(cases, "skipped"),
        time=_NO_TIME,
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(variant, report):
        properties.append(_element("property", name=name, value=value))
    suite.extend(cases)
    suite.append(_element("system-out", _output(variant, checks, report)))
    suite.append(_element("system-err", "\n".join(report.disturbances)))
    return suite


def _case(check: Check, classname: str, variant: VariantReport | None, report: Report) -> ElementTree.Element:
    case = _element("testcase", name=check.what, classname=classname, time=_NO_TIME)
    if check.undecided:
        case.append(_element("skipped", message=f"undecided: {describe(check)}"))
    elif not check.passed:
        kind = "failure" if check.value is not None else "error"
        case.append(_element(kind, _explained(check, variant, report), message=describe(check), type=check.what))
    return case


def _explained(check: Check, variant: VariantReport | None, report: Report) -> str:
    """All that helps to understand a check that does not hold."""
    lines = [describe(check)]
    lines += [f"p value {check.p_value:.3g}"] if check.p_value is not None else []
    if variant is not None:
        lines += [*causes(variant)]
        places = where_it_goes_wrong(report) if is_of_parity(check.what) else []
        lines += [line for line in places if line.startswith(f"{variant.id} ")]
    return "\n".join(lines)


def _output(variant: VariantReport | None, checks: Sequence[Check], report: Report) -> str:
    lines = [f"{_result(check):9} {check.what} {describe_value(check)} {describe_limit(check)}" for check in checks]
    damage = None if variant is None else changed_predictions_in_words(variant, report)
    lines += [damage] if damage else []
    own = "" if variant is None else variant.id
    lines += [text for text in changes_in_words(report) if text.startswith(f"{own}: ")] if own else []
    return "\n".join(line.rstrip() for line in lines)


def _result(check: Check) -> str:
    return "undecided" if check.undecided else "pass" if check.passed else "FAIL"


def _properties(variant: VariantReport | None, report: Report) -> list[tuple[str, str]]:
    machine = report.machine
    libraries = machine.get("libraries")
    found = {
        "bundle": report.bundle,
        "images": report.data.n,
        "data_fingerprint": report.data.fingerprint,
        "verdict": "passed" if report.verdict.passed else "failed",
        **{name: machine.get(name) for name in ("system", "architecture", "processor", "cores", "python")},
        **{f"library.{name}": version for name, version in (libraries if isinstance(libraries, dict) else {}).items()},
        "checkpoint_sha256": report.provenance.get("checkpoint_sha256"),
    }
    if variant is not None:
        found |= {"engine": variant.engine, "engine_version": variant.engine_version, "bytes": variant.bytes}
    return [(name, str(value)) for name, value in found.items() if value is not None]


def _count(cases: Sequence[ElementTree.Element], kind: str) -> str:
    return str(sum(case.find(kind) is not None for case in cases))


def _element(tag: str, text: str | None = None, /, **attributes: str) -> ElementTree.Element:
    element = ElementTree.Element(tag, {name: _legal(value) for name, value in attributes.items()})
    element.text = None if text is None else _legal(text)
    return element


def _legal(text: str) -> str:
    return printable(_NOT_XML.sub("\ufffd", text), keep="\n\t")
