from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgetl.verify.report import Report
from edgetl_runtime.errors import UsageError


def test_the_json_has_the_fields_of_the_contract(report: Report) -> None:
    raw = json.loads(report.to_json())
    assert next(iter(raw)) == "schema"
    assert raw["schema"] == 1
    assert {"bundle", "machine", "reference", "seconds", "variants", "verdict"} <= set(raw)
    assert {"top1", "n"} <= set(raw["reference"])
    variant = next(entry for entry in raw["variants"] if entry["id"] == "onnx.int8")
    assert {"id", "engine", "bytes", "parity", "accuracy", "latency", "memory"} <= set(variant)
    assert {"n", "top1_agreement", "sqnr_db", "max_abs", "cosine"} <= set(variant["parity"])
    assert {"n", "top1", "top5", "delta", "ci95", "per_class"} <= set(variant["accuracy"])
    assert {"threads", "n", "p50_ms", "p95_ms", "load_ms", "first_ms", "preprocess_ms"} <= set(variant["latency"])
    assert len(variant["accuracy"]["ci95"]) == 2
    assert {"variant", "what", "limit", "value", "passed"} <= set(raw["verdict"]["checks"][0])


def test_round_trip(report: Report) -> None:
    assert Report.from_json(report.to_json(), where="report.json") == report


def test_a_loss_that_is_not_finite_is_null(report: Report) -> None:
    report = replace(report, history=({"epoch": 1, "val_loss": float("nan")},), provenance={"best": [float("inf")]})
    again = Report.from_json(report.to_json(), where="report.json")
    assert again.history == ({"epoch": 1, "val_loss": None},)
    assert again.provenance == {"best": [None]}


def test_fields_of_a_later_edgetl_are_passed_over(report: Report) -> None:
    raw = json.loads(report.to_json())
    raw["novelty"] = raw["variants"][0]["novelty"] = [1]
    assert Report.from_json(json.dumps(raw), where="report.json") == report


def drop_verdict(raw: dict[str, Any]) -> None:
    del raw["verdict"]


def text_for_number(raw: dict[str, Any]) -> None:
    raw["variants"][0]["accuracy"]["top1"] = "high"


def three_bounds(raw: dict[str, Any]) -> None:
    raw["reference"]["ci95"] = [0, 1, 2]


def newer_schema(raw: dict[str, Any]) -> None:
    raw["schema"] = 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_verdict, "'verdict' is missing"),
        (text_for_number, r"variants\[0\]: accuracy: top1: expected a number"),
        (three_bounds, "ci95: expected 2 items"),
        (newer_schema, "schema 2"),
    ],
)
def test_a_damaged_report_says_where(report: Report, damage: Callable[[dict[str, Any]], None], message: str) -> None:
    raw = json.loads(report.to_json())
    damage(raw)
    with pytest.raises(UsageError, match=f"report.json.*{message}"):
        Report.from_json(json.dumps(raw), where="report.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe"])
def test_what_is_no_report(text: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"cannot read base\.json"):
        Report.from_json(text, where="base.json")


def test_an_unknown_variant_lists_the_known_ones(report: Report) -> None:
    with pytest.raises(UsageError, match=r"no variant 'x'(?s:.*)onnx\.int8"):
        report.variant("x")
