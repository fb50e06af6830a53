"""Which layer is blamed, and when none is: a failure in parity that `edgetl inspect --layers` would confirm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgetl.verify.steps as measuring_module
from edgetl.data.dataset import Sample
from edgetl.reports.junit import render_junit
from edgetl.reports.markdown import render_markdown
from edgetl.reports.table import where_it_goes_wrong, wrong_layers
from edgetl.reports.terminal import render_terminal
from edgetl.verify.gate.limits import Gate
from edgetl.verify.layers.layer_error import find_suspects
from edgetl.verify.layers.parting import find_place
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import Check, LayerError, Report, Verdict
from edgetl.verify.verify import verify

ID = "onnx.int8"
COSTLY, BROKEN = (3.0, 12.0, 2.0), (3.0, 12.0, 30.0)


def layers(drops: tuple[float, ...]) -> tuple[LayerError, ...]:
    return tuple(LayerError(f"m{i}", f"n{i}", "t", 9.0, drop) for i, drop in enumerate(drops))


def taken_apart(report: Report, drops: tuple[float, ...], what: str, **check: Any) -> Report:
    """`report` with the layers of two int8 variants, the sibling's as its precision costs; `what` alone failed."""
    loses = {ID: layers(drops), "openvino.int8": layers(COSTLY)}
    sound = report.variant(ID)
    variants = [
        replace(
            replace(sound, id=v.id, target=v.target) if v.error else v,
            layers=loses.get(v.id, ()),
            suspects=find_suspects(loses.get(v.id, ())),
        )
        for v in report.variants
    ]
    failed = Check(**{"variant": ID, "what": what, "limit": 1.0, "value": 2.0, "passed": False, **check})
    return replace(report, variants=tuple(variants), verdict=Verdict(False, (failed,)))


@pytest.mark.parametrize("what", ["p50_ratio", "p95_ms", "bytes", "peak_rss_bytes", "baseline.p50_ratio"])
def test_cost_blames_no_layer(report: Report, what: str) -> None:
    found = taken_apart(report, BROKEN, what)
    assert found.variant(ID).suspects
    assert where_it_goes_wrong(found) == []
    for render in (render_terminal, render_markdown, render_junit):
        text = render(found)
        assert "goes wrong" not in text
        assert "LAYER" not in text


@pytest.mark.parametrize("what", ["top1", "delta", "class_delta", "top5", "baseline.top1", "labels", "works"])
def test_accuracy_and_faults_blame_no_layer(report: Report, what: str) -> None:
    assert where_it_goes_wrong(taken_apart(report, BROKEN, what)) == []


@pytest.mark.parametrize(
    "what", ["top1_agreement", "sqnr_db", "max_abs", "cosine", "features_sqnr_db", "baseline.top1_agreement"]
)
def test_parity_blames_the_layer_that_inspect_names(report: Report, what: str) -> None:
    found = taken_apart(report, BROKEN, what)
    assert find_place(found.variant(ID), found.variants) == layers(BROKEN)[2]
    (line,) = where_it_goes_wrong(found)
    assert line == f"{ID} first goes wrong at m2 (n2: 9.0 dB, 30.0 dB below what goes in)"
    assert "LAYER onnx.int8 first goes wrong at m2" in " ".join(render_terminal(found).split())
    assert list(wrong_layers(found)) == [ID]


@pytest.mark.parametrize("what", ["top1_agreement", "sqnr_db", "cosine"])
def test_what_the_precision_costs_everywhere_is_nobodys_fault(report: Report, what: str) -> None:
    """`inspect --layers` says that no layer goes wrong, and so does this."""
    found = taken_apart(report, COSTLY, what)
    assert [layer.module for layer in found.variant(ID).suspects] == ["m1"]
    assert where_it_goes_wrong(found) == []


def test_a_layer_stands_beside_the_check_that_it_explains(report: Report) -> None:
    found = taken_apart(report, BROKEN, "sqnr_db")
    slow = Check(ID, "p50_ratio", 1.0, 2.0, False, "<=")
    junit = render_junit(replace(found, verdict=Verdict(False, (*found.verdict.checks, slow))))
    assert junit.count("first goes wrong at m2") == 1


def test_nothing_was_taken_apart(report: Report) -> None:
    assert where_it_goes_wrong(report) == []
    assert find_place(report.variant(ID), report.variants) is None


@pytest.mark.parametrize(("limit", "looked"), [("bytes = 1_000", False), ("sqnr_db = 200", True), ("top1 = 1.0", True)])
def test_causes_are_looked_for_where_answers_are_wrong(
    fake_bundle: Any,
    linear: Any,
    samples: list[Sample],
    bundle_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    looked: bool,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(measuring_module, "diagnose", lambda report, evidence: asked.append(report.id) or ())
    fake_bundle({"onnx.fp32": linear, "onnx.int8": linear})
    name, _, value = limit.partition(" = ")
    gate = Gate(variant={"onnx.int8": {name: float(value)}})
    report = verify(bundle_path, samples, linear, VerifyOptions(latency_seconds=0, gate=gate))
    assert [check.what for check in report.verdict.failed] == [name]
    assert asked == (["onnx.int8"] if looked else [])
