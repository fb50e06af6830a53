"""What is advised: never what failed, only what pays, and between equals what decides more alike and is smaller."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pytest

from edgetl_runtime.advice import Advice, EngineAdvice, advise
from edgetl_runtime.bench import VariantLatency
from edgetl_runtime.machine import CpuFeatures
from edgetl_runtime.timing import LatencyStats
from edgetl_runtime.verification import Verified

ENGINES = {"onnx": "onnxruntime", "tflite": "litert", "openvino": "openvino"}
SIZES = {"fp32": 14_000_000, "fp16": 7_000_000, "int8": 4_000_000, "w8": 4_100_000, "w8a16": 4_200_000}
VNNI = CpuFeatures("x86", ("avx2", "avx512_vnni"), True)
PLAIN_X86 = CpuFeatures("x86", ("avx2",), False)
EXACT = Verified(n=250, top1_agreement=1.0, delta=0.0)
CLOSE = Verified(n=250, top1_agreement=0.984, delta=-0.004)
SLOW = Verified(n=250, top1_agreement=0.984, delta=-0.004, notes=("p50_ratio 1.34 (limit 1.2)",))
FAILED = Verified(n=250, top1_agreement=0.2, delta=-0.6, failed=("top1_agreement 0.2 (limit 0.95)",))


def latency(variant: str, p50_ms: float, *, noise: float = 0.01) -> VariantLatency:
    """A variant whose rounds spread evenly by `noise` (a share of the median) to both sides."""
    target, _, precision = variant.partition(".")
    rounds = tuple(p50_ms * (1 + noise * step) for step in (-1, -0.5, 0, 0.5, 1))
    return VariantLatency(
        id=variant,
        engine=ENGINES[target],
        engine_version="1",
        bytes=SIZES.get(precision, 4_000_000),
        threads=1,
        load_ms=1.0,
        first_ms=1.0,
        preprocess_ms=1.0,
        run=LatencyStats.of(list(rounds)),
        rounds_ms=rounds,
    )


def advice_for(
    times: Mapping[str, float],
    fidelity: Mapping[str, Verified] | None = None,
    *,
    features: CpuFeatures = VNNI,
    noise: float = 0.01,
) -> Advice:
    """Advice on variants with these median latencies; without `fidelity`, fp32 is exact and all others are close."""
    if fidelity is None:
        fidelity = {variant: EXACT if variant.endswith("fp32") else CLOSE for variant in times}
    return advise([latency(variant, ms, noise=noise) for variant, ms in times.items()], fidelity, features)


def engine(advice: Advice, name: str) -> EngineAdvice:
    return next(item for item in advice.engines if item.engine == name)


def test_the_fastest_is_advised_with_the_numbers_that_say_why() -> None:
    advice = advice_for({"onnx.fp32": 10.0, "onnx.int8": 5.0, "openvino.fp32": 8.4, "openvino.int8": 4.0})
    best = advice.recommendation
    assert (best.variant, best.verified) == ("openvino.int8", True)
    assert best.reasons == (
        "p50 4.00 ms, 1.25x as fast as onnx.int8, the next engine's best",
        "int8 is 2.10x as fast as fp32 in openvino here (4.00 against 8.40 ms), at 29 % of its size",
        "it agreed with the original on 98.4 % of 250 photos, top-1 -0.4 points",
    )
    in_onnx = engine(advice, "onnxruntime")
    assert in_onnx.recommendation.variant == "onnx.int8"
    (speedup,) = in_onnx.speedups
    assert (speedup.variant, speedup.worth) == ("onnx.int8", True)
    assert (speedup.ratio, speedup.size) == (pytest.approx(2.0), pytest.approx(4 / 14))
    (fp16,) = engine(advice_for({"onnx.fp32": 10.0, "onnx.fp16": 10.0}), "onnxruntime").speedups
    assert fp16.worth is None, "fp16 need not be faster"
    assert json.loads(json.dumps(dataclasses.asdict(advice)))["recommendation"]["variant"] == "openvino.int8"


@pytest.mark.parametrize("int8_ms", [9.7, 12.0], ids=["1.03x", "slower"])
def test_int8_that_gains_nothing_is_called_so(int8_ms: float) -> None:
    advice = advice_for({"onnx.fp32": 10.0, "onnx.fp16": 10.6, "onnx.int8": int8_ms})
    assert advice.recommendation.variant == "onnx.fp32"
    (line,) = engine(advice, "onnxruntime").passed_over
    assert line == (
        f"int8 is not worth it here in onnxruntime: {10 / int8_ms:.2f}x as fast as fp32; "
        "ship onnx.fp32 (or use it only for its size, 29 % of fp32's)"
    )


def test_the_least_gain_that_is_worth_it() -> None:
    assert advice_for({"onnx.fp32": 10.0, "onnx.int8": 9.2}).recommendation.variant == "onnx.fp32"
    assert advice_for({"onnx.fp32": 10.0, "onnx.int8": 9.0}).recommendation.variant == "onnx.int8"


@pytest.mark.parametrize("precision", ["w8", "w8a16", "dynamic"])
def test_every_quantised_precision_has_to_pay(precision: str) -> None:
    advice = advice_for({"onnx.fp32": 10.0, f"onnx.{precision}": 9.5})
    assert advice.recommendation.variant == "onnx.fp32"
    assert f"{precision} is not worth it here" in engine(advice, "onnxruntime").passed_over[0]


def test_a_limit_on_cost_that_was_missed_elsewhere_is_said() -> None:
    advice = advice_for({"onnx.fp32": 10.0, "onnx.int8": 2.0}, {"onnx.fp32": EXACT, "onnx.int8": SLOW})
    assert (advice.recommendation.variant, advice.recommendation.verified) == ("onnx.int8", True)
    assert "where it was verified it missed limits of the gate: p50_ratio 1.34 (limit 1.2)" in (
        advice.recommendation.reasons
    )


def test_what_failed_verification_is_never_advised() -> None:
    times = {"onnx.fp32": 10.0, "onnx.int8": 2.0, "openvino.int8": 3.0}
    advice = advice_for(times, {"onnx.fp32": EXACT, "onnx.int8": FAILED, "openvino.int8": FAILED})
    assert advice.recommendation.variant == "onnx.fp32"
    assert engine(advice, "onnxruntime").passed_over == (
        "onnx.int8 failed verification: top1_agreement 0.2 (limit 0.95)",
    )
    assert engine(advice, "openvino").recommendation.variant is None
    advice = advice_for({"onnx.int8": 2.0}, {"onnx.int8": FAILED})
    assert advice.recommendation.variant is None
    assert "failed verification" in advice.recommendation.reasons[0]


def test_without_a_report_accuracy_is_unknown() -> None:
    best = advice_for({"onnx.fp32": 10.0, "onnx.int8": 5.0}, {}).recommendation
    assert (best.variant, best.verified) == ("onnx.int8", False)
    assert any("accuracy is unknown: verify first" in reason for reason in best.reasons)


def test_a_slower_verified_variant_comes_before_an_unknown_one() -> None:
    advice = advice_for({"onnx.fp32": 10.0, "onnx.int8": 5.0, "openvino.int8": 4.0}, {"onnx.fp32": EXACT})
    assert advice.recommendation.variant == "onnx.fp32"
    assert "openvino.int8 is not verified" in advice.recommendation.reasons
    assert engine(advice, "onnxruntime").passed_over == ("onnx.int8 is faster (5.00 ms), but not verified",)


def test_equally_fast_the_better_agreement_decides_then_the_size() -> None:
    times = {"openvino.fp32": 8.0, "openvino.fp16": 7.9}
    assert advice_for(times).recommendation.variant == "openvino.fp32"
    best = advice_for(times, dict.fromkeys(times, EXACT)).recommendation
    assert best.variant == "openvino.fp16"
    assert "as fast within the noise: openvino.fp32; openvino.fp16 is smaller" in best.reasons
    assert best.reasons[0].startswith("fp16 is as fast as fp32 in openvino here")
    assert advice_for({"onnx.int8": 4.0, "openvino.fp16": 4.0}, {}).recommendation.variant == "openvino.fp16"


def test_a_difference_within_the_spread_of_the_rounds_is_a_tie() -> None:
    times = {"onnx.fp32": 10.0, "onnx.int8": 8.5}
    assert advice_for(times, noise=0.01).recommendation.variant == "onnx.int8"
    assert advice_for(times, noise=0.4).recommendation.variant == "onnx.fp32"


def test_without_fp32_the_gain_is_not_claimed() -> None:
    advice = advice_for({"onnx.int8": 5.0})
    assert "what it gains over fp32 was not measured" in advice.recommendation.reasons[0]
    assert engine(advice, "onnxruntime").speedups == ()


def test_cpu_without_dot_products_explains_slow_and_saturating_int8() -> None:
    times = {"onnx.fp32": 10.0, "onnx.int8": 9.9, "tflite.int8": 9.0}
    (note,) = advice_for(times, features=PLAIN_X86).notes
    assert "no VNNI/dot-product instructions" in note
    assert "u8s8 products can saturate in onnxruntime: export with --int8-safe" in note
    (note,) = advice_for({"tflite.int8": 9.0}, features=PLAIN_X86).notes
    assert "saturate" not in note
    (note,) = advice_for(times, features=CpuFeatures("arm", ("asimd",), False)).notes
    assert "asimddp" in note
    assert "saturate" not in note


def test_cpu_notes_say_what_is_known_and_only_where_it_matters() -> None:
    assert "avx512_vnni" in advice_for({"onnx.int8": 9.0}).notes[0]
    assert "unknown" in advice_for({"onnx.int8": 9.0}, features=CpuFeatures("other", None, None)).notes[0]
    assert advice_for({"onnx.fp32": 9.0, "onnx.w8": 9.0}, features=PLAIN_X86).notes == ()


def test_nothing_measured_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        advise([], {}, VNNI)
