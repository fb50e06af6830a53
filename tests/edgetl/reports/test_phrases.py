from __future__ import annotations

from dataclasses import replace

import pytest

from edgetl.reports.html import render_html
from edgetl.reports.junit import render_junit
from edgetl.reports.markdown import render_markdown
from edgetl.reports.phrases import all_changed_predictions_in_words, change_rows, changes_in_words, slower_than_float
from edgetl.reports.table import describe, name_of, rows, speed_up
from edgetl.reports.terminal import render_terminal
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.report import BaselineComparison, Change, Check, Report, Verdict


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        (Change("a", "bytes", 2.0, 1.0, True, False, ""), "better"),
        (Change("a", "bytes", 1.0, 2.0, True, True, ""), "worse"),
        (Change("a", "top1", 1.0, 0.9, False, True, ""), "noise"),
        (Change("", "engine onnxruntime", "1.30", "1.31", False, False, ""), "changed"),
        (Change("a", "variant", "a", None, True, True, ""), "worse"),
        (Change("a", "variant", None, "a", False, False, ""), "changed"),
    ],
)
def test_marks_of_changes(report: Report, change: Change, mark: str) -> None:
    (row,) = change_rows(replace(report, baseline=BaselineComparison("b.json", "2026-01-01", (change,))))
    assert row.mark == mark


def test_worse_comes_first_and_noise_is_only_counted(full_report: Report) -> None:
    assert [row.mark for row in change_rows(full_report)] == ["worse", "changed", "better", "noise"]
    lines = changes_in_words(full_report)
    assert lines[0].startswith("tflite.int8: ")
    assert lines[-1] == "within noise: 1 other differences since accepted.json of 2025-12-24"
    assert not any("0.877" in line for line in lines)


def test_without_a_baseline_there_is_nothing_to_say(report: Report) -> None:
    assert change_rows(report) == []
    assert changes_in_words(report) == []


@pytest.mark.parametrize("what", QUANTITIES)
def test_every_quantity_of_the_gate_has_a_name(what: str) -> None:
    assert name_of(what) != what
    assert name_of(f"baseline.{what}") == f"{name_of(what)} since the baseline"
    assert what == "bytes" or name_of(what) != what.replace("_", " ")


@pytest.mark.parametrize(
    ("what", "relation", "value", "limit", "texts"),
    [
        ("top1_agreement", ">=", 0.969999, 0.97, ("0.969999", "0.97")),
        ("delta", ">=", -0.0100004, -0.01, ("-0.0100004", "-0.01")),
        ("p50_ratio", "<=", 1.20001, 1.2, ("1.20001", "1.2")),
        ("bytes", "<=", 4_000_000.5, 4_000_000, ("4000000.5", "4000000")),
    ],
)
def test_a_value_that_misses_its_limit_differs_from_it_in_every_rendering(
    report: Report, what: str, relation: str, value: float, limit: float, texts: tuple[str, str]
) -> None:
    check = Check("onnx.int8", what, limit, value, False, relation)
    failed = replace(report, verdict=Verdict(False, (check,)))
    least = "least" if relation == ">=" else "most"
    for render in (render_terminal, render_markdown, render_html, render_junit):
        text = " ".join(render(failed).replace("\\", "").split())
        assert f"is {texts[0]}, the gate asks for at {least} {texts[1]}" in text, render.__name__


def test_a_change_since_the_baseline_is_seen_in_its_numbers(report: Report) -> None:
    change = Change("onnx.int8", "p50_ratio", 0.500001, 0.500002, True, True, "told")
    (row,) = change_rows(replace(report, baseline=BaselineComparison("b.json", "2026", (change,))))
    assert row.before != row.after


def test_a_check_in_words() -> None:
    check = Check("onnx.int8", "p50_ratio", 1.2, 1.3, False, "<=", note="measured twice as long", interval=(1.25, 1.4))
    name = "median latency as a multiple of the reference's"
    wanted = f"onnx.int8: {name} is 1.3 (1.25 to 1.4), the gate asks for at most 1.2 (measured twice as long)"
    assert describe(check) == wanted
    assert describe(Check("", "baseline.input", None, None, False, note="it changed")) == "it changed"


def test_speed_is_what_was_measured_in_the_same_rounds(report: Report) -> None:
    variant = report.variants[2]
    assert variant.latency is not None
    assert speed_up(variant, report) == pytest.approx(8 / 3)
    timed = replace(variant, latency=replace(variant.latency, speedup=2.5))
    assert speed_up(timed, report) == 2.5


def test_a_variant_that_is_undecided_is_open(full_report: Report) -> None:
    marks = {row.id: row.mark for row in rows(full_report)}
    assert (marks["onnx.fp32"], marks["onnx.fp16"], marks["tflite.int8"]) == ("open", "pass", "fail")


def test_damage_names_labels_only_when_it_is_more_than_chance(full_report: Report) -> None:
    first, second = all_changed_predictions_in_words(full_report)
    assert first == (
        "onnx.int8 changes 13 of 367 decisions: 11 broken, 1 repaired, 1 wrong either way; worse by more than chance: "
        "Label <1> 85.0 -> 76.8 % of 122 (p 0.002)"
    )
    assert second.startswith("tflite.int8 changes 220 of 367")
    damage = full_report.variants[2].damage
    assert damage is not None
    mild = {label: replace(found, p_value=0.2) for label, found in damage.per_class.items()}
    equal = replace(damage, flips=(), flipped=0, broken=0, repaired=0)
    variants = (
        replace(full_report.variants[2], damage=replace(damage, per_class=mild)),
        replace(full_report.variants[0], damage=equal),
    )
    assert all_changed_predictions_in_words(replace(full_report, variants=variants)) == [
        "onnx.int8 changes 13 of 367 decisions: 11 broken, 1 repaired, 1 wrong either way",
        "like the original on all 367 images: onnx.fp32",
    ]


@pytest.mark.parametrize(
    ("place", "interval", "slow"),
    [(2, (0.79, 0.83), True), (2, (0.79, 1.02), False), (2, None, False), (1, (0.79, 0.83), False)],
)
def test_int8_that_costs_time_is_named_in_every_rendering(
    report: Report, place: int, interval: tuple[float, float] | None, slow: bool
) -> None:
    """Beyond chance, and int8 alone: fp16 is for the size."""
    variants = list(report.variants)
    latency = variants[place].latency
    assert latency is not None
    variants[place] = replace(variants[place], latency=replace(latency, speedup=0.81, speedup_ci95=interval))
    told = replace(report, variants=tuple(variants))
    line = "onnx.int8 is slower here than onnx.fp32: 0.81 times as fast (0.79 to 0.83)"
    assert slower_than_float(told) == ([line] if slow else [])
    assert (line in " ".join(render_terminal(told).split())) is slow
    assert (line in render_html(told)) is slow
    assert (line in render_markdown(told).replace("\\", "")) is slow
