from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from edgetl_export import CalibrationSamples, capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.ranges import Histogram, Range
from edgetl_runtime.errors import DataError


def test_a_histogram_counts_every_value_whatever_the_order_of_magnitudes() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, scale, 1000).astype(np.float32) for scale in (1e-3, 1.0, 30.0, 0.1)]
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    values = np.concatenate(parts)
    assert histogram.counts.sum() == values.size
    assert len(histogram.counts) <= 4096
    assert histogram.low == values.min()
    assert histogram.high == values.max()
    edges = (np.arange(len(histogram.counts) + 1) + histogram.first) * histogram.width
    np.testing.assert_array_equal(histogram.counts, np.histogram(values.astype(np.float64), edges)[0])


def test_the_range_of_even_values_is_all_of_them() -> None:
    histogram = Histogram()
    histogram.add(np.linspace(0, 6, 10_000, dtype=np.float32))
    found = histogram.mse_range()
    assert found.low == 0
    assert found.high == pytest.approx(6, rel=0.02)


def test_the_range_beats_min_max_when_there_are_outliers() -> None:
    rng = np.random.default_rng(0)
    values = rng.laplace(0, 1, 200_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)

    def error(found: Range) -> float:
        scale = (found.high - found.low) / 255
        zero = round(-found.low / scale)
        levels = np.clip(np.round(values / scale) + zero, 0, 255)
        return float(np.mean(((levels - zero) * scale - values) ** 2))

    assert error(histogram.mse_range()) < 0.8 * error(Range(float(values.min()), float(values.max())))


def test_zero_is_on_the_grid() -> None:
    low, high = Range(-1.0, 2.3).on_grid()
    scale = (high - low) / 255
    assert low / scale == pytest.approx(round(low / scale), abs=1e-9)
    assert high - low == pytest.approx(3.3)


def test_one_pass_gives_ranges_probe_and_fingerprint(trained) -> None:
    captured = capture(trained.source)
    calibration = calibrate(captured, trained.samples)
    assert calibration.n == 64
    assert calibration.fingerprint == calibrate(captured, trained.samples).fingerprint
    fewer = CalibrationSamples(trained.calibration[:32], trained.source.preprocess)
    assert calibration.fingerprint != calibrate(captured, fewer).fingerprint
    assert set(calibration.ranges) == set(calibration.values)
    relu6 = [found for name, found in calibration.ranges.items() if name.startswith("hardtanh")]
    assert relu6
    assert all(found.low == 0 and 0 < found.high <= 6 for found in relu6)


def test_images_that_are_all_the_same_are_refused(trained) -> None:
    samples = CalibrationSamples([trained.calibration[0]] * 16, trained.source.preprocess)
    with pytest.raises(DataError, match="all calibration images are the same"):
        calibrate(capture(trained.source), samples)


def test_too_few_images_are_refused(trained) -> None:
    with pytest.raises(DataError, match="3 calibration images are too few"):
        CalibrationSamples(trained.calibration[:3], trained.source.preprocess)


def test_activations_that_are_not_finite_are_named(trained) -> None:
    broken = copy.deepcopy(trained.source.module)
    broken.get_parameter("last.0.weight").data[0] = float("nan")
    with pytest.raises(DataError, match=r"the output of last\.0 is not finite"):
        calibrate(capture(dataclasses.replace(trained.source, module=broken)), trained.samples)


def test_tensors_match_by_value_whatever_their_layout() -> None:
    rng = np.random.default_rng(0)
    originals = {f"a{i}": rng.normal(i, 1, (1, 8, 4, 4)).astype(np.float32) for i in range(3)}
    converted = {
        "x": originals["a2"].transpose(0, 2, 3, 1) * np.float32(1 + 1e-6),
        "y": originals["a0"].reshape(1, -1),
        "padded": np.pad(originals["a1"], ((0, 0), (0, 0), (1, 1), (1, 1))),
        "other": rng.normal(0, 1, (1, 8, 4, 4)).astype(np.float32),
    }
    assert match_by_value(originals, converted) == {"x": "a2", "y": "a0"}


def test_one_image_with_huge_activations_does_not_claim_the_range() -> None:
    rng = np.random.default_rng(0)
    usual = [rng.normal(0, 1, 5000).astype(np.float32) for _ in range(20)]
    huge = rng.normal(0, 200, 5000).astype(np.float32)
    pooled, alike = Histogram(), Histogram()
    for image in [*usual, huge]:
        pooled.add(image)
        alike.add(image, 1 / float(np.mean(image**2)))
    assert pooled.mse_range().high > 0.9 * huge.max()
    assert alike.mse_range().high < 0.2 * huge.max()
