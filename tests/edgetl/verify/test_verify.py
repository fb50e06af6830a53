from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data.dataset import Sample
from edgetl.verify.gate.limits import Gate
from edgetl.verify.gate.regression import LATENCY_MARGIN, Baseline
from edgetl.verify.measure.latency import Latencies
from edgetl.verify.report import Latency, Report
from edgetl.verify.verify import RunFacts, VerifyOptions, verify
from edgetl_runtime.errors import CheckpointError, DataError, EngineError, UsageError

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Model = Callable[[Images], Logits]

QUICK = VerifyOptions(latency_seconds=0)


def swapped(model: Model) -> Model:
    return lambda images: model(images[..., ::-1])


def permuted(model: Model) -> Model:
    return lambda images: np.roll(model(images), 1, axis=1)


def noisy(model: Model) -> Model:
    rng = np.random.default_rng(1)
    return lambda images: model(images) + rng.normal(scale=5, size=(1, 6)).astype(np.float32)


def not_a_number(model: Model) -> Model:
    return lambda images: np.full_like(model(images), np.nan)


def constant(model: Model) -> Model:
    return lambda images: np.zeros_like(model(images)) + np.arange(6, dtype=np.float32)


def crashing(model: Model) -> Model:
    def run(images: Images) -> Logits:
        raise EngineError("the engine gave up")

    return run


def wrong_shape(model: Model) -> Model:
    return lambda images: model(images)[:, :3]


def test_a_sound_bundle_passes(fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path) -> None:
    def rounded(images: Images) -> Logits:
        return np.round(linear(images), 2).astype(np.float32)

    fake_bundle({"onnx.fp32": linear, "onnx.int8": rounded})
    began = time.monotonic()
    report = verify(bundle_path, samples, linear, QUICK)
    assert 0 <= report.seconds["verify"] <= time.monotonic() - began
    assert report.verdict.passed, report.verdict.failed
    assert (report.bundle, report.data.n) == ("fakes.edgetl", 150)
    assert report.reference.top1 == pytest.approx(140 / 150)
    fp32, int8 = report.variants
    assert fp32.parity is not None
    assert fp32.parity.n == 150
    assert fp32.parity.top1_agreement == 1.0
    assert int8.parity is not None
    assert 40 < int8.parity.sqnr_db < 80
    assert int8.accuracy is not None
    assert (int8.engine, int8.bytes, int8.accuracy.n) == ("fake", 1_000_000, 150)


@pytest.mark.parametrize("damage", [swapped, permuted, noisy, not_a_number, constant, crashing, wrong_shape])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_damaged_variant_fails_and_is_named(
    fake_bundle: Any,
    linear: Model,
    samples: list[Sample],
    bundle_path: Path,
    damage: Callable[[Model], Model],
    precision: str,
) -> None:
    fake_bundle({"onnx.fp32": linear, f"tflite.{precision}": damage(linear)})
    report = verify(bundle_path, samples, linear, QUICK)
    assert not report.verdict.passed
    assert {check.variant for check in report.verdict.failed} == {f"tflite.{precision}"}
    assert Report.from_json(report.to_json(), where="test") == report


def test_a_variant_that_breaks_half_way_does_not_stop_the_others(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    runs = 0

    def breaks_later(images: Images) -> Logits:
        nonlocal runs
        runs += 1
        if runs == 20:
            raise EngineError("out of memory", fix="use a smaller model")
        return linear(images)

    fake_bundle({"onnx.fp32": breaks_later, "tflite.fp32": linear})
    report = verify(bundle_path, samples, linear, QUICK)
    assert runs == 20, "it is not tried again"
    assert report.variant("onnx.fp32").parity is None
    assert report.variant("onnx.fp32").error == "out of memory (fix: use a smaller model)"
    assert report.variant("tflite.fp32").error is None
    assert {check.variant for check in report.verdict.failed} == {"onnx.fp32"}


def test_a_missing_engine_is_reported_with_the_command_that_installs_it(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    fake_bundle({"onnx.fp32": linear, "tflite.fp32": linear}, "onnx.fp32")
    report = verify(bundle_path, samples, linear, VerifyOptions(latency_seconds=0.01))
    assert "pip install" in str(report.variant("onnx.fp32").error)
    assert report.variant("onnx.fp32").latency is None
    assert report.variant("tflite.fp32").latency is not None
    assert [check.variant for check in report.verdict.failed] == ["onnx.fp32"]


def test_what_was_not_exported_is_reported_and_fails(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    fake_bundle({"onnx.fp32": linear})
    facts = RunFacts(seconds={"train": 3.0}, not_exported={"openvino.int8": "unsupported operator"})
    report = verify(bundle_path, samples, linear, QUICK, facts=facts)
    assert report.seconds["train"] == 3.0
    assert report.variant("openvino.int8").error == "not exported: unsupported operator"
    assert [check.variant for check in report.verdict.failed] == ["openvino.int8"]


def test_only_the_variants_that_were_asked_for_are_run(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    fake_bundle({"onnx.fp32": linear, "tflite.fp32": crashing(linear)})
    report = verify(bundle_path, samples, linear, QUICK, variants=["onnx.fp32"])
    assert [variant.id for variant in report.variants] == ["onnx.fp32"]
    assert report.verdict.passed


def test_progress_goes_through_every_image(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    seen: list[tuple[str, int]] = []

    def track(items: Iterable[Any], *, what: str, total: int) -> Iterable[Any]:
        for done, item in enumerate(items, start=1):
            seen.append((what, done))
            assert total == 150
            yield item

    fake_bundle({"onnx.fp32": linear})
    verify(bundle_path, samples, linear, QUICK, track=track)
    assert seen[-1] == ("verify", 150)


def test_the_fingerprint_follows_images_and_labels(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    fake_bundle({"onnx.fp32": linear})

    def fingerprint(given: list[Sample]) -> str:
        return verify(bundle_path, given, linear, QUICK).data.fingerprint

    first = samples[0]
    assert fingerprint(samples) == fingerprint(samples)
    assert fingerprint(samples) != fingerprint([samples[1], samples[0], *samples[2:]])
    assert fingerprint(samples) != fingerprint([Sample(first.source, (first.label + 1) % 6, ""), *samples[1:]])


def test_mistakes_are_found_before_any_work(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    bundle = fake_bundle({"onnx.fp32": linear})
    with pytest.raises(UsageError, match=r"did you mean 'onnx\.fp32'"):
        verify(bundle_path, samples, linear, QUICK, variants=["onnx.fp3"])
    with pytest.raises(UsageError, match=r"the gate limits 'tflite\.int8'"):
        verify(bundle_path, samples, linear, VerifyOptions(gate=Gate(variant={"tflite.int8": {"delta": 0.0}})))
    with pytest.raises(DataError, match="no images"):
        verify(bundle_path, [], linear, QUICK)
    with pytest.raises(DataError, match="label 6"):
        verify(bundle_path, [Sample(samples[0].source, 6, "stray")], linear, QUICK)
    assert bundle.threads_seen == []


def wobbling(model: Model, share: float) -> Model:
    """`share` of the images, those with the darkest corner, are decided for the next label."""

    def run(images: Images) -> Logits:
        logits = model(images)
        dark = images[:, 0, 0, 0] < share * 256
        return np.where(dark[:, None], np.roll(logits, 1, axis=1), logits).astype(np.float32)

    return run


def test_what_changed_in_every_decision_is_in_the_report(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    fake_bundle({"onnx.int8": wobbling(linear, 0.2)})
    (variant,) = verify(bundle_path, samples, linear, QUICK).variants
    assert variant.damage is not None
    assert variant.accuracy is not None
    assert variant.parity is not None
    assert variant.damage.flipped == round((1 - variant.parity.top1_agreement) * 150)
    assert (variant.damage.broken, variant.damage.repaired) == (variant.accuracy.broken, variant.accuracy.repaired)
    assert variant.damage.flips[0].thumbnail is not None


def test_few_flips_pass_and_many_fail(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    for share, passes in ((0.015, True), (0.2, False)):
        fake_bundle({"onnx.int8": wobbling(linear, share)})
        report = verify(
            bundle_path, samples, linear, VerifyOptions(latency_seconds=0, gate=Gate(default={"delta": 0.0}))
        )
        accuracy = report.variants[0].accuracy
        assert accuracy is not None
        assert accuracy.delta is not None
        assert accuracy.delta < 0
        assert report.verdict.passed == passes


def test_a_gate_makes_latency_measured(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetl.verify.options._LATENCY_SECONDS", 0.02)
    fake_bundle({"onnx.fp32": linear, "onnx.int8": linear})
    options = VerifyOptions(latency_seconds=0, gate=Gate(variant={"onnx.int8": {"p50_ratio": 20.0}}))
    report = verify(bundle_path, samples, linear, options)
    assert report.verdict.passed
    latency = report.variant("onnx.int8").latency
    assert latency is not None
    assert latency.reference == "onnx.fp32"


@pytest.mark.parametrize(
    ("interval", "asked", "longer"),
    [
        ((0.9, 1.1), {}, False),
        ((0.9, 1.1), {"gate": Gate(default={"p50_ratio": 1.0})}, True),
        ((0.9, 1.1), {"gate": Gate(default={"p50_ratio": 1.2})}, False),
        ((0.9, 1.1), {"gate": Gate(default={"p50_ratio": 0.5})}, False),
        ((0.9, 1.1), {"gate": Gate(default={"bytes": 1000.0})}, False),
        ((0.9, 1.1), {"before": 1.0 / LATENCY_MARGIN}, True),
        ((0.9, 1.1), {"before": 1.0}, False),
        ((0.9, 1.1), {"precise": True}, True),
        ((0.99, 1.01), {"precise": True}, False),
    ],
)
def test_what_the_gate_or_the_baseline_leaves_open_is_measured_longer(
    fake_bundle: Any,
    linear: Model,
    samples: list[Sample],
    bundle_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interval: tuple[float, float],
    asked: dict[str, Any],
    longer: bool,
) -> None:
    """Whatever is measured, the ratio of int8 is 1 with this interval."""
    latency = Latency(1, 9, 1.0, 1.0, 1.0, 1.0, 1.0, (1.0,) * 9, ratio=1.0, ratio_ci95=interval, reference="onnx.fp32")
    told: set[str] = set()

    def measured(
        openers: Any, feeds: Any, options: Any, *, undecided: Callable[[dict[str, Latency]], Iterable[str]]
    ) -> Latencies:
        told.update(undecided({"onnx.int8": latency}))
        return Latencies({"onnx.int8": latency})

    monkeypatch.setattr("edgetl.verify.steps.measure_latency", measured)
    fake_bundle({"onnx.fp32": linear, "onnx.int8": linear})
    options = VerifyOptions()
    before = asked.pop("before", None)
    if before is not None:
        report = verify(bundle_path, samples[:20], linear, options)
        asked = {"baseline": Baseline(with_ratio(report, before), "base.json")}
        told.clear()
    report = verify(bundle_path, samples[:20], linear, replace(options, **asked))
    assert told == ({"onnx.int8"} if longer else set())
    undecided = [check for check in report.verdict.undecided if check.what.endswith("p50_ratio")]
    assert bool(undecided) == (longer and "precise" not in asked)
    assert all("undecided after 9 rounds" in str(check.note) and check.passed for check in undecided)


def with_ratio(report: Report, ratio: float) -> Report:
    int8 = report.variant("onnx.int8")
    assert int8.latency is not None
    changed = replace(int8, latency=replace(int8.latency, ratio=ratio, ratio_ci95=(ratio, ratio)))
    return replace(report, variants=tuple(changed if v.id == "onnx.int8" else v for v in report.variants))


def test_a_baseline_finds_what_got_worse(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path
) -> None:
    fake_bundle({"onnx.int8": linear})
    before = Baseline(verify(bundle_path, samples, linear, QUICK), "base.json")
    fake_bundle({"onnx.int8": wobbling(linear, 0.1)})
    report = verify(bundle_path, samples, linear, replace(QUICK, baseline=before))
    assert report.baseline is not None
    worse = {change.what for change in report.baseline.changes if change.significant and change.worse}
    assert worse == {"top1", "top1_agreement", "sqnr_db"}
    assert {check.what for check in report.verdict.failed} >= {f"baseline.{what}" for what in worse}
    assert Report.from_json(report.to_json(), where="test") == report


def test_a_baseline_of_another_model_is_found_before_any_work(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path, report: Report
) -> None:
    bundle = fake_bundle({"onnx.fp32": linear})
    with pytest.raises(UsageError, match=r"base\.json is of another model"):
        verify(bundle_path, samples, linear, replace(QUICK, baseline=Baseline(report, "base.json")))
    assert bundle.threads_seen == []


@pytest.mark.parametrize("options", [{"threads": 0}, {"latency_seconds": -1.0}, {"latency_times": 0}])
def test_options_without_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot verify with"):
        VerifyOptions(**options)


@pytest.mark.parametrize("damage", [wrong_shape, not_a_number])
def test_a_reference_that_does_not_fit(
    fake_bundle: Any, linear: Model, samples: list[Sample], bundle_path: Path, damage: Callable[[Model], Model]
) -> None:
    fake_bundle({"onnx.fp32": linear})
    with pytest.raises(CheckpointError, match="the reference gives logits"):
        verify(bundle_path, samples, damage(linear), QUICK)
