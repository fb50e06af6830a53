from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetl.tasks.classification.results import Accuracy
from edgetl.verify.gate.decision import decide_share
from edgetl.verify.gate.limits import Gate, judge, read_gate
from edgetl.verify.gate.quantities import QUANTITIES
from edgetl.verify.report import FeatureParity, Latency, Memory, Parity, VariantReport
from edgetl_runtime.errors import UsageError
from edgetl_runtime.verification import COSTS, is_cost

IMAGES = 367


def variant(
    name: str = "onnx.int8", *, flips: int = 3, sqnr: float = 22.0, broken: int = 0, repaired: int = 0
) -> VariantReport:
    """A variant that decides `flips` of 367 images otherwise, and breaks and repairs so many."""
    target, precision = name.split(".")
    return VariantReport(
        name,
        target,
        precision,
        bytes=1000,
        parity=Parity(IMAGES, 1 - flips / IMAGES, sqnr, 0.1, 0.99),
        accuracy=Accuracy(
            IMAGES,
            0.9,
            1.0,
            (repaired - broken) / IMAGES,
            (0.8, 0.95),
            delta_ci95=(-0.1, 0.1),
            broken=broken,
            repaired=repaired,
            class_delta=0.0,
        ),
        latency=Latency(1, 10, p50_ms=2.0, p95_ms=3.0, load_ms=5.0, first_ms=4.0, preprocess_ms=1.0),
    )


def timed(**fields: Any) -> VariantReport:
    latency = Latency(1, 120, 2.0, 3.0, 5.0, 4.0, 1.0, rounds_ms=(2.0,) * 12, **fields)
    return replace(variant(), latency=latency)


def gate_file(folder: Path, text: str) -> Path:
    path = folder / "gate.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("report", "failing"),
    [
        (variant("onnx.fp32", flips=0, sqnr=110), set()),
        (variant("onnx.fp32", flips=3, sqnr=110), set()),
        (variant("onnx.fp32", flips=12, sqnr=110), {"top1_agreement"}),
        (variant("onnx.fp32", flips=0, sqnr=55), {"sqnr_db"}),
        (variant("onnx.fp16", flips=3, sqnr=31), set()),
        (variant("onnx.fp16", flips=12, sqnr=29), {"top1_agreement", "sqnr_db"}),
        (variant("onnx.int8", flips=12, broken=3), set()),
        (variant("onnx.int8", flips=12, broken=12), {"delta"}),
        (variant("onnx.int8", flips=12, broken=8, repaired=4), set()),
        (variant("onnx.int8", flips=40, broken=12, repaired=1), {"top1_agreement", "delta"}),
        (variant("tflite.w8a16", flips=40), {"top1_agreement"}),
    ],
)
def test_built_in_limits(report: VariantReport, failing: set[str]) -> None:
    verdict = judge([report], Gate())
    assert {check.what for check in verdict.failed} == failing
    assert verdict.passed == (not failing)
    assert verdict.checks


@pytest.mark.parametrize(
    ("broken", "repaired", "passes"),
    [(0, 0, True), (3, 0, True), (4, 0, True), (5, 0, False), (12, 0, False), (20, 12, True), (2, 9, True)],
)
def test_with_no_tolerance_mcnemar_decides(broken: int, repaired: int, passes: bool) -> None:
    (check,) = judge([variant(broken=broken, repaired=repaired)], Gate(default={"delta": 0.0})).checks[1:2]
    assert (check.what, check.passed) == ("delta", passes)
    if broken > repaired:
        assert check.p_value is not None
        assert (check.p_value > 0.05) == passes
        assert f"{broken} broken, {repaired} repaired" in str(check.note)
        assert ("images do not tell that from chance" in str(check.note)) == passes


def test_an_improvement_that_is_asked_for_must_be_shown() -> None:
    (check,) = judge([variant(broken=1, repaired=2)], Gate(default={"delta": 0.01})).failed
    assert check.what == "delta"
    assert judge([variant(repaired=9)], Gate(default={"delta": 0.01})).passed


def test_a_pass_by_chance_says_how_many_images_would_decide() -> None:
    (check,) = judge([variant(broken=3)], Gate(default={"delta": 0.0})).checks[1:2]
    assert "about 591 would decide" in str(check.note)
    (check,) = judge([variant("onnx.fp32", flips=3, sqnr=90)], Gate()).checks[:1]
    assert (check.what, check.passed) == ("top1_agreement", True)
    assert "about 2245 would decide" in str(check.note)


def test_no_share_of_agreement_is_lost_to_few_images() -> None:
    """One image that is decided otherwise is all that there is."""
    lost = replace(variant(), parity=Parity(1, 0.0, 22.0, 0.1, 0.99))
    assert [check.what for check in judge([lost], Gate()).failed] == ["top1_agreement"]


@pytest.mark.parametrize("what", ["p50_ms", "p95_ms", "p50_ratio", "p95_ratio", "speedup"])
@pytest.mark.parametrize(
    ("interval", "passed", "undecided"),
    [((0.8, 0.9), True, False), ((1.1, 1.2), False, False), ((0.9, 1.1), True, True), ((1.0, 1.0), True, False)],
)
def test_a_time_is_held_against_the_limit_with_its_interval(
    what: str, interval: tuple[float, float], passed: bool, undecided: bool
) -> None:
    quantity = QUANTITIES[what]
    if quantity.relation == ">=":
        interval = (2 - interval[1], 2 - interval[0])
    middle = sum(interval) / 2
    report = timed()
    assert report.latency is not None
    latency = replace(report.latency, **{quantity.field: middle, str(quantity.interval): interval})
    check = judge([replace(report, latency=latency)], Gate(default={what: 1.0})).checks[-1]
    assert (check.what, check.passed, check.undecided, check.interval) == (what, passed, undecided, interval)
    assert (check.note is not None) == undecided
    if undecided:
        assert "12 rounds" in str(check.note)


def test_the_class_that_lost_most_is_named() -> None:
    report = variant()
    assert report.accuracy is not None
    report = replace(report, accuracy=replace(report.accuracy, class_delta=-0.3, worst_class="roses"))
    (check,) = judge([report], Gate(default={"class_delta": -0.1})).failed
    assert (check.what, check.value, check.note) == ("class_delta", -0.3, "label roses")


def test_a_gate_knows_which_parts_it_needs(tmp_path: Path) -> None:
    assert not Gate().needs("memory")
    gate = read_gate(gate_file(tmp_path, '[variant."onnx.int8"]\ncold_start_ms = 900\n'))
    assert gate.needs("memory")
    assert not gate.needs("latency")
    assert Gate(target={"onnx": {"load_ms": 9.0}}).needs("latency")


def test_the_gate_names_the_reference(tmp_path: Path) -> None:
    assert read_gate(gate_file(tmp_path, 'reference = "tflite.fp32"\n')).reference == "tflite.fp32"
    for text in ("reference = 3\n", 'reference = "fp32"\n', 'reference = "onnx.int9"\n'):
        with pytest.raises(UsageError, match=r"gate\.toml"):
            read_gate(gate_file(tmp_path, text))


def test_what_was_not_measured_fails() -> None:
    verdict = judge([replace(variant(), latency=None)], Gate(default={"p95_ms": 1000.0}))
    assert [(check.what, check.value, check.note) for check in verdict.failed] == [("p95_ms", None, "not measured")]


def test_every_quantity_can_be_read_and_limited_from_both_sides() -> None:
    timed_too = timed(ratio=1.0, p95_ratio=1.0, speedup=1.0)
    feature = FeatureParity("pooled", 10, 30.0, 0.1, 0.99)
    parts = {quantity.field: 0.0 for quantity in QUANTITIES.values() if quantity.part.endswith("quality.parts")}
    known = timed_too.known_quality
    assert known is not None
    quality = replace(known, parts={**known.parts, **parts})
    full = replace(timed_too, memory=Memory(5000, cold_start_ms=700.0), features=(feature,), quality=quality)
    for name, quantity in QUANTITIES.items():
        value = quantity.read(full)
        assert value is not None, name
        step = 1.0 if quantity.relation == "<=" else -1.0
        assert quantity.holds(value, value)
        assert quantity.holds(value, value + step)
        assert not quantity.holds(value, value - step), name


def test_a_variant_with_an_error_fails_with_its_reason() -> None:
    broken = VariantReport("tflite.int8", "tflite", "int8", error="not exported: no such operator")
    verdict = judge([variant(), broken], Gate())
    assert not verdict.passed
    assert [(check.variant, check.note) for check in verdict.failed] == [
        ("tflite.int8", "not exported: no such operator")
    ]


def test_nothing_measured_is_not_passed() -> None:
    assert not judge([], Gate()).passed


def test_more_specific_sections_override_less_specific_ones(tmp_path: Path) -> None:
    gate = read_gate(
        gate_file(
            tmp_path,
            """
            [default]
            top1_agreement = 0.5
            p50_ms = 9
            [precision.int8]
            top1_agreement = 0.6
            [target.onnx]
            top1_agreement = 0.7
            [variant."onnx.int8"]
            top1_agreement = 0.8
            """,
        )
    )

    def limits(name: str) -> dict[str, float]:
        target, precision = name.split(".")
        return gate.limits_for(name, target=target, precision=precision)

    assert limits("onnx.int8") == {"top1_agreement": 0.8, "p50_ms": 9.0, "delta": -0.02, "sqnr_db": 6.0}
    assert limits("onnx.fp32") == {"top1_agreement": 0.7, "p50_ms": 9.0, "sqnr_db": 60.0}
    assert limits("tflite.int8")["top1_agreement"] == 0.6
    assert limits("tflite.fp16")["top1_agreement"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defualt]\n", "unknown section.*did you mean 'default'"),
        ("[default]\ntop1_agreemnt = 0.9\n", "unknown limit.*did you mean 'top1_agreement'"),
        ("[precision.int9]\n", "unknown precision 'int9'.*did you mean 'int8'"),
        ("[target.onx]\n", "unknown target 'onx'.*did you mean 'onnx'"),
        ('[variant."onnx_int8"]\n', "unknown target"),
        ('[variant."onnx.int9"]\n', "unknown precision"),
        ('[default]\ndelta = "small"\n', "must be a number"),
        ("[default]\ndelta = true\n", "must be a number"),
        ("[default]\ndelta = nan\n", "must be a number"),
        ("[default]\nsqnr_db = inf\n", "must be a number"),
        ("[default]\ntop1_agreement = 97\n", r"\[default\]: top1_agreement = 97 makes no.*a share of 1: write 0.97"),
        ('[variant."onnx.int8"]\ndelta = -1\n', r'\[variant."onnx.int8"\]: delta = -1.*a share of 1: write -0.01'),
        ("[precision.int8]\nclass_delta = -5\n", r"\[precision.int8\]: class_delta = -5.*1: write -0.05"),
        ("[variant.onnx.int8]\nsqnr_db = 20\n", "'onnx' names no variant.*in quotes"),
        ("[default\n", "not TOML"),
        ("default = 3\n", "expected a section"),
        ("precision = 3\n", "not a section"),
        ("[precision]\nint8 = 3\n", "expected a section"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}") as caught:
        read_gate(gate_file(tmp_path, text))
    assert "gate.toml" in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    ("what", "limit", "fix"),
    [
        ("top1_agreement", -0.1, "from 0 to 1"),
        ("top1", 90, "write 0.9"),
        ("top5", 1.01, "write 0.0101"),
        ("delta", -0.5, "write -0.005"),
        ("delta", -60, "above -0.5, below 0.5"),
        ("delta", 1, "write 0.01"),
        ("class_delta", -1, "write -0.01"),
        ("cosine", 99, "write 0.99"),
        ("cosine", -1, "from 0 to 1"),
        ("sqnr_db", 1e9, "from 0 to 200"),
        ("sqnr_db", -20, "from 0 to 200"),
        ("features_sqnr_db", 201, "from 0 to 200"),
        ("max_abs", -1, "from 0"),
        ("p50_ms", 0, "milliseconds"),
        ("p50_ms", 20_000_000, "write 20000"),
        ("p95_ms", -3, "milliseconds"),
        ("p50_ratio", 0, "a multiple of the reference's"),
        ("p50_ratio", 120, "write 1.2"),
        ("p95_ratio", -1, "a multiple of the reference's"),
        ("speedup", 0, "a multiple of the speed of fp32"),
        ("speedup", 150, "write 1.5"),
        ("load_ms", 0, "milliseconds"),
        ("first_ms", 1e12, "write 1000000"),
        ("bytes", 4, "write 4000000"),
        ("bytes", -1, "bytes"),
        ("peak_rss_bytes", 150, "write 150000000"),
        ("peak_rss_bytes", 120_000, "write 120000000"),
        ("cold_start_ms", 0, "milliseconds"),
        ("bytes", "4 MB", "bytes: bytes = 4000000"),
        ("bytes", True, "bytes: bytes = 4000000"),
    ],
)
def test_no_quantity_takes_a_limit_without_sense(what: str, limit: Any, fix: str) -> None:
    with pytest.raises(UsageError, match=rf"\[default\]: {what} ") as caught:
        Gate(default={what: limit})
    assert fix in str(caught.value.fix)


def test_every_quantity_takes_its_own_example() -> None:
    gate = Gate(default={name: quantity.range.example for name, quantity in QUANTITIES.items()})
    assert set(gate.default) == set(QUANTITIES)


@pytest.mark.parametrize(
    "sections",
    [
        {"precision": {"int9": {}}},
        {"target": {"onx": {}}},
        {"variant": {"onnx": {"sqnr_db": 20.0}}},
        {"default": {"top1_agreemnt": 0.9}},
        {"reference": "fp32"},
    ],
)
def test_a_gate_made_in_python_is_looked_at_too(sections: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Gate(**sections)


def test_chance_never_excuses_what_cannot_be_reached() -> None:
    for n in (1, 3, 367):
        assert not decide_share(1.0, n, 97.0).passed
        assert not decide_share(1.0, n, 1.01).passed
        assert not decide_share((n - 1) / n, n, 1.0).passed


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the gate"):
        read_gate(tmp_path / "none.toml")


def test_the_runtime_knows_which_limits_are_about_cost() -> None:
    """A device takes a variant that missed one of these, and never one that missed another."""
    costs = {name for name, found in QUANTITIES.items() if found.part in ("latency", "memory") or name == "bytes"}
    assert costs == COSTS
    assert all(is_cost(name) and is_cost(f"baseline.{name}") for name in costs)
    assert not any(is_cost(name) for name in QUANTITIES.keys() - costs)
