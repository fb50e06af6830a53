from __future__ import annotations

from dataclasses import replace

from edgetl.verify.markdown import render_markdown
from edgetl.verify.report import Report


def test_table_and_verdict(report: Report) -> None:
    lines = render_markdown(report).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 9
    assert {line.count("|") for line in table} == {11}
    assert "**FAILED: 2 of 9 variants: openvino.int8, tflite.int8**" in lines


def test_names_cannot_break_out(report: Report) -> None:
    text = render_markdown(replace(report, bundle="a|b <img src=x> `c`\n# d"))
    assert "\n# d" not in text
    assert "<img" not in text.replace("\\<", "")
