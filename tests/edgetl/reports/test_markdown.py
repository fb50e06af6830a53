from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgetl.reports.html import render_html
from edgetl.reports.junit import render_junit
from edgetl.reports.markdown import render_markdown
from edgetl.reports.terminal import render_terminal
from edgetl.tasks.classification.results import ChangedPrediction, ChangedPredictions, LabelChanges
from edgetl.verify.report import Finding, Report, Verdict

COMMENT_LIMIT = 65_536
"""Characters that GitHub takes for a comment."""


def tables(text: str) -> list[list[str]]:
    """Runs of lines that are a table."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_the_verdict_comes_first_and_then_the_failures(report: Report) -> None:
    lines = [line for line in render_markdown(report).splitlines() if line]
    assert lines[0] == "## flowers.edgetl"
    assert lines[1] == "**FAILED: 2 of 9 variants: openvino.int8, tflite.int8**"
    assert lines[2].startswith("- tflite.int8: top-1 agreement with the original is 0.4")


def marks(table: list[str]) -> dict[str, str]:
    return {line.split("|")[1].strip(): line.split("|")[2].strip() for line in table[2:]}


def test_what_failed_stands_open_and_what_passes_is_folded(full_report: Report) -> None:
    text = render_markdown(full_report)
    first, second = tables(text)[:2]
    assert {columns(line) for line in (*first, *second)} == {10}
    assert marks(first) == {"onnx.fp32": "❔ open", "tflite.int8": "❌ FAIL", "openvino.int8": "❌ FAIL"}
    assert set(marks(second).values()) == {"✅ pass"}
    assert len(marks(second)) == 6
    fold = text.index("<details><summary>6 variants that pass</summary>")
    assert text.index("❌ FAIL") < fold < text.index("✅ pass")


def test_checks_that_failed_come_first(full_report: Report) -> None:
    table = tables(render_markdown(full_report).partition("All 20 checks")[2])[0]
    results = [line.split("|")[5].strip() for line in table[2:]]
    assert results == sorted(results, key=["FAIL", "undecided", "pass"].index)
    assert results[0] == "FAIL"


def test_where_all_pass_nothing_of_the_table_is_folded(report: Report) -> None:
    only = tuple(check for check in report.verdict.checks if check.passed)
    text = render_markdown(replace(report, verdict=Verdict(True, only), variants=report.variants[:5]))
    assert len(marks(tables(text)[0])) == 5
    assert "that pass<" not in text


def test_causes_changes_and_damage_are_told(full_report: Report) -> None:
    text = render_markdown(full_report)
    assert (
        "- tflite.int8: colours in the order BGR: with R and B swapped 99.2 % agree, as is 40 %. Fix: feed RGB" in text
    )
    assert "- undecided: onnx.fp32: 95th percentile latency in ms: measured 4 times as long" in text
    assert "### Since accepted.json of 2025-12-24" in text
    assert "| tflite.int8 | top-1 agreement with the original | 0.98 | 0.4 | worse | p 1e-50 |" in text
    assert "<summary>Differences within noise: 1</summary>" in text
    assert "<summary>onnx.int8 changes 13 of 367 decisions: 11 broken, 1 repaired, 1 wrong either way" in text
    assert "worse by more than chance: Label &lt;1&gt; 85.0 -&gt; 76.8 % of 122 (p 0.002)</summary>" in text
    assert "| `Label <1>` | 122 | 85.0 | 76.8 | 0.002 |" in text
    assert "| `id1/a<b>.jpg` | `Label <1>` | `Label <1>` | `Label <0>` | 80 |" in text
    assert "- the load of other processes rose" in text


def test_all_tables_are_whole_and_all_folds_close(full_report: Report) -> None:
    text = render_markdown(full_report)
    for table in tables(text):
        assert len({columns(line) for line in table}) == 1, table
    assert text.count("<details>") == text.count("</details>") >= 4
    assert "\n\n\n" not in text


def test_a_plain_pass_has_neither_bullets_nor_sections(report: Report) -> None:
    only = tuple(check for check in report.verdict.checks if check.passed)
    text = render_markdown(replace(report, verdict=Verdict(True, only), variants=report.variants[:5]))
    assert "\n- " not in text
    assert "###" not in text


@pytest.mark.slow
def test_a_report_that_says_nothing_of_its_machine(report: Report) -> None:
    for machine in ({}, {"libraries": "x"}, {"libraries": [3], "other": [[]]}):
        other = replace(report, machine=machine)
        assert "on an unknown processor, unknown cores." in render_markdown(other)
        for render in (render_html, render_junit, render_terminal):
            render(other)


def test_names_cannot_break_out(report: Report) -> None:
    text = render_markdown(replace(report, bundle="a|b <img src=x> `c`\n# d @all #1"))
    assert "\n# d" not in text
    assert "<img" not in text.replace("\\<", "")
    assert "@all" not in text
    assert "#1" not in text


def test_it_fits_into_a_comment_however_much_there_is(full_report: Report) -> None:
    long = "x" * 5000
    flips = tuple(ChangedPrediction(f"{i}{long}", "id0", "id1", "id2", 0.5, f"data:,{long}") for i in range(24))
    per_class = {f"label {i} {long}": LabelChanges(9, 0.9, 0.1, 0.01) for i in range(1000)}
    worst = [
        replace(
            variant,
            damage=ChangedPredictions(flips, 300, 200, 50, per_class),
            findings=tuple(Finding(long, long, long) for _ in range(20)),
        )
        for variant in full_report.variants
    ]
    text = render_markdown(replace(full_report, variants=tuple(worst)))
    assert len(text) < COMMENT_LIMIT
