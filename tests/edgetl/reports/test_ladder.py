"""What the report says of how int8 was made, in all three renderings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgetl.reports.html import render_html
from edgetl.reports.ladder import attempts, how_int8_was_made, ladder_variants, method_of, surgery_line
from edgetl.reports.markdown import render_markdown
from edgetl.reports.terminal import render_terminal
from edgetl.verify.report import Report


def rung(variant: str, name: str, drop: float, *, kept: bool = False, note: str | None = None) -> dict[str, Any]:
    fields = {"variant": variant, "rung": name, "agreement": 1 - drop, "drop": drop, "sqnr_db": 20.0 + 10 * kept}
    return {**fields, "n": 50, "seconds": 1.5, "kept": kept, "note": note}


LADDER = [
    rung("onnx.int8", "static", 0.0, kept=True),
    rung("tflite.int8", "static", 0.1),
    rung("tflite.int8", "mixed", 0.06, note="9 nodes in float"),
    rung("tflite.int8", "mixed", 0.04, note="9 nodes in float"),
    rung("tflite.int8", "distill", 0.02, kept=True, note="16 epochs | 200 <photos>"),
]
SURGERY = {"replaced": {"SiLU": 49}, "sqnr_db": 3.25, "loss": 0.011, "epochs": 16, "seconds": 200.0}


@pytest.fixture
def climbed(report: Report) -> Report:
    methods = {"onnx.int8": "static", "tflite.int8": "distill", "onnx.w8": "w8", "openvino.int8": "static"}
    return replace(report, provenance={"ladder": LADDER, "methods": methods, "surgery": SURGERY})


def test_every_attempt_is_a_row_and_every_variant_a_column(climbed: Report) -> None:
    assert ladder_variants(climbed) == ("onnx.int8", "tflite.int8")
    rows = attempts(climbed)
    assert [row.rung for row in rows] == ["static", "mixed", "mixed", "distill"]
    assert [[cell is not None and cell.kept for cell in row.cells] for row in rows] == [
        [True, False],
        [False, False],
        [False, False],
        [False, True],
    ]
    texts = [[cell.text if cell else None for cell in row.cells] for row in rows]
    assert texts[0] == ["0 of 50 change, 30.0 dB", "5 of 50 change, 20.0 dB"]
    assert [cells[1] for cells in texts[1:3]] == ["3 of 50 change, 20.0 dB", "2 of 50 change, 20.0 dB"]
    assert texts[3][0] is None


def test_of_parts_of_photos_no_photos_are_counted(report: Report) -> None:
    rung = {**LADDER[0], "drop": 0.0177}
    texts = [
        cell.text for row in attempts(replace(report, provenance={"ladder": [rung]})) for cell in row.cells if cell
    ]
    assert texts == ["1.77 % of 50 photos' decisions change, 30.0 dB"]


def test_every_integer_variant_says_what_it_needed(climbed: Report) -> None:
    assert how_int8_was_made(climbed) == [
        "onnx.int8 static: 0 of 50 change, 30.0 dB",
        "tflite.int8 distill (16 epochs | 200 <photos>): 1 of 50 change, 30.0 dB",
        "openvino.int8 static",
    ]
    assert [method_of(name, climbed) for name in ("tflite.int8", "onnx.fp32")] == ["distill", None]
    assert surgery_line(climbed) == (
        "surgery replaced 49 SiLU (SQNR before training 3.25 dB, loss after it 0.011, epochs 16, seconds 200)"
    )


def test_the_terminal_names_the_rungs(climbed: Report) -> None:
    lines = render_terminal(climbed).splitlines()
    assert "INT8  tflite.int8 distill (16 epochs | 200 <photos>): 1 of 50 change, 30.0 dB" in lines
    assert any(line.startswith("surgery replaced 49 SiLU") for line in lines)
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith("FAILED")


def test_markdown_has_the_table_with_the_kept_rungs_in_bold(climbed: Report) -> None:
    lines = render_markdown(climbed).splitlines()
    assert "| rung | note | onnx.int8 | tflite.int8 |" in lines
    assert "| static |  | **0 of 50 change, 30.0 dB** | 5 of 50 change, 20.0 dB |" in lines
    assert "| distill | 16 epochs \\| 200 \\<photos\\> |  | **1 of 50 change, 30.0 dB** |" in lines


def test_the_page_has_the_table_and_marks_what_was_kept(climbed: Report) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    text = render_html(climbed)
    assert text.count("✓ 0 of 50 change") == 1
    assert text.count("✓ 1 of 50 change") == 1
    assert "✓ 5 of 50" not in text
    assert "200 &lt;photos&gt;" in text
    assert "surgery replaced 49 SiLU" in text
    assert "<dt>ladder</dt>" not in text
    assert "<td>distill</td>" in text


@pytest.mark.parametrize(
    "ladder", [None, 3, "x", [1], [{"rung": "static"}], [rung("a.int8", "static", 0.1) | {"n": "5"}]]
)
def test_what_is_no_ladder_is_passed_over(ladder: object, report: Report) -> None:
    odd = replace(report, provenance={"ladder": ladder, "methods": ladder, "surgery": ladder})
    assert ladder_variants(odd) == ()
    assert how_int8_was_made(odd) == []
    assert surgery_line(odd) is None
    assert render_terminal(odd) == render_terminal(replace(report, provenance={}))
