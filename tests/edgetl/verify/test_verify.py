from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data import Sample
from edgetl.verify.gate import Gate
from edgetl.verify.report import Report
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
    report = verify(bundle_path, samples, linear, QUICK)
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
    assert report.seconds["verify"] > 0


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


@pytest.mark.parametrize("options", [{"threads": 0}, {"latency_seconds": -1.0}])
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
