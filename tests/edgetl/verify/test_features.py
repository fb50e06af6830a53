"""Features are held against the original's like the logits: measured, judged, shown, kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.data.dataset import Sample
from edgetl.reports.html import render_html
from edgetl.reports.markdown import render_markdown
from edgetl.reports.terminal import render_terminal
from edgetl.verify.gate.limits import Gate
from edgetl.verify.gate.propose import propose_gate
from edgetl.verify.measure.original_outputs import RecordingOriginal, read_kept_outputs
from edgetl.verify.measure.parity import FeatureSums, compare
from edgetl.verify.options import VerifyOptions
from edgetl.verify.report import FeatureParity, Report
from edgetl.verify.verify import verify
from edgetl_runtime.bundle import open_bundle

MakeBundle = Callable[..., Path]
Model = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
QUICK = VerifyOptions(latency_seconds=0.0, layers=False, diagnose=False)


@dataclass(frozen=True)
class Colours:
    """The original behind `colours_bundle`."""

    logits: Model
    features: Sequence[str] = ("pooled",)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.logits(images)

    def outputs(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        pooled = images.mean((1, 2), dtype=np.float64).astype(np.float32)
        return {"logits": self.logits(images), "pooled": pooled}


@pytest.fixture
def model(original: Model) -> Colours:
    return Colours(original)


@pytest.fixture
def samples(original: Model) -> list[Sample]:
    """100 images, more than a chunk, labelled as the original decides."""
    images = np.random.default_rng(0).integers(0, 256, (100, 24, 32, 3), dtype=np.uint8)
    images[::2, ..., 0] //= 2
    return [Sample(image, int(label), "x") for image, label in zip(images, original(images).argmax(1), strict=True)]


def test_sound_features_pass(colours_bundle: MakeBundle, model: Colours, samples: list[Sample]) -> None:
    report = verify(colours_bundle(), samples, model, QUICK)
    assert report.verdict.passed
    (feature,) = report.variants[0].features
    assert (feature.name, feature.n, feature.non_finite) == ("pooled", 100, 0)
    assert feature.sqnr_db > 100
    assert feature.cosine == pytest.approx(1)
    assert "features_sqnr_db" in [check.what for check in report.verdict.checks]
    assert report.contract["features"][0]["name"] == "pooled"
    assert Report.from_json(report.to_json(), where="here") == report


def test_a_broken_feature_fails_though_the_logits_are_right(
    colours_bundle: MakeBundle, model: Colours, samples: list[Sample]
) -> None:
    report = verify(colours_bundle(wrong=1.001), samples, model, QUICK)
    (failed,) = report.verdict.failed
    assert (failed.what, failed.limit) == ("features_sqnr_db", 80.0)
    assert failed.value == pytest.approx(60.0, abs=0.1)
    parity = report.variants[0].parity
    assert parity is not None
    assert parity.sqnr_db > 100


def test_what_was_not_measured_fails_only_where_it_is_asked_for(
    pristine_bundle: Path, colours_bundle: MakeBundle, model: Colours, samples: list[Sample], original: Model
) -> None:
    folder = colours_bundle()
    assert verify(pristine_bundle, samples, model, QUICK, variants=["onnx.fp32"]).verdict.passed
    assert verify(folder, samples, original, QUICK).variants[0].features == ()
    asked = replace(QUICK, gate=Gate(default={"features_sqnr_db": 50.0}))
    (failed,) = verify(pristine_bundle, samples, model, asked, variants=["onnx.fp32"]).verdict.failed
    assert (failed.what, failed.note) == ("features_sqnr_db", "not measured")
    assert verify(folder, samples, model, asked).verdict.passed


def test_every_rendering_shows_them(report: Report) -> None:
    assert "FEAT" not in render_terminal(report)
    assert "Features" not in render_markdown(report) + render_html(report)
    features = (FeatureParity("pooled", 367, 42.123, 0.1, 0.99), FeatureParity("layer<3>", 367, 200.0, 0.0, 1.0))
    with_some = replace(report, variants=(replace(report.variants[0], features=features), *report.variants[1:]))
    assert "FEAT  pooled (dB): onnx.fp32 42.1\n" in render_terminal(with_some)
    assert "| onnx.fp32 | 42.1 | equal |" in render_markdown(with_some)
    page = render_html(with_some)
    assert "<td>42.1</td><td>equal</td>" in page
    assert "layer&lt;3&gt;" in page
    assert "features_sqnr_db = 39" in propose_gate(with_some).text


def test_sums_over_images_are_those_of_all_at_once() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(7, 2, 3, 5)).astype(np.float32)
    values = reference + rng.normal(scale=0.1, size=reference.shape).astype(np.float32)
    sums = FeatureSums("map")
    for start in range(7):
        sums.add(reference[start : start + 1], values[start : start + 1])
    found, expected = sums.parity(), compare(reference.reshape(7, -1), values.reshape(7, -1))
    assert (found.n, found.max_abs) == (7, expected.max_abs)
    assert (found.sqnr_db, found.cosine) == (pytest.approx(expected.sqnr_db), pytest.approx(expected.cosine))
    values[3, 0, 0, 0] = np.nan
    sums.add(reference[3:4], values[3:4])
    assert (sums.parity().sqnr_db, sums.parity().non_finite, sums.parity().cosine) == (-200.0, 1, None)


def test_answers_that_are_kept_have_features_too(
    colours_bundle: MakeBundle, model: Colours, samples: list[Sample]
) -> None:
    folder = colours_bundle(wrong=1.001)
    recording = RecordingOriginal(model)
    before = verify(folder, samples, recording, QUICK)
    recording.keep(folder, open_bundle(folder).manifest, [sample.label for sample in samples])
    kept = read_kept_outputs(open_bundle(folder))
    assert kept is not None
    after = verify(folder, samples, kept, QUICK)
    assert after.variants[0].features == before.variants[0].features != ()
