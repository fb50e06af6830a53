from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, capture
from edgetl_export.quantize.calibrate import METHODS, calibrate, node_values
from edgetl_export.quantize.layers import layers
from edgetl_export.quantize.match import match_by_value
from edgetl_export.quantize.ranges import Histogram, Range
from edgetl_runtime.errors import DataError

if TYPE_CHECKING:
    from tests.export.conftest import Int8


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


def test_a_histogram_does_not_grow_with_the_data() -> None:
    rng = np.random.default_rng(0)
    histogram = Histogram()
    for exponent in range(-6, 7):
        histogram.add(rng.normal(0, 10.0**exponent, 5000).astype(np.float32))
        assert len(histogram.counts) <= 4096
    assert histogram.counts.sum() == 13 * 5000


def test_one_pass_gives_ranges_probe_and_fingerprint(trained, int8: Int8) -> None:
    captured, calibration = int8.pixels, int8.calibration
    assert calibration.n == 64
    np.testing.assert_array_equal(calibration.probe, list(trained.samples)[-1])
    fewer = CalibrationSamples(trained.calibration[:32], trained.source.preprocess)
    assert calibrate(captured, fewer).fingerprint != calibration.fingerprint == trained.samples.fingerprint
    assert set(calibration.ranges) == set(METHODS)
    values = node_values(captured, calibration.probe)
    for ranges in calibration.ranges.values():
        assert set(ranges) == set(values)
        relu6 = [found for name, found in ranges.items() if name.startswith("hardtanh")]
        assert len(relu6) == 3
        assert all(found.low == 0 and 0 < found.high <= 6 for found in relu6)
        for found in ranges.values():
            assert found.low <= 0 <= found.high


def test_every_method_stays_within_what_was_seen(int8: Int8) -> None:
    full = int8.calibration.ranges["minmax"]
    for method in ("mse", "percentile"):
        found = int8.calibration.ranges[method]
        assert all(full[name].low <= found[name].low and found[name].high <= full[name].high for name in full)
        assert any(found[name] != full[name] for name in full)


def test_the_last_images_count_although_they_fill_no_batch(trained, int8: Int8) -> None:
    """13 images are a batch and a part of one; the largest logits of all are never clipped."""
    samples = CalibrationSamples(trained.calibration[:13], trained.source.preprocess)
    with torch.inference_mode():
        logits = int8.pixels.module(torch.from_numpy(np.concatenate(list(samples))))
    order = logits.amax(1).argsort().tolist()
    samples = CalibrationSamples([trained.calibration[i] for i in order], trained.source.preprocess)
    (output,) = [node.name for node in int8.pixels.batched.graph.output_node().all_input_nodes]
    calibration = calibrate(int8.pixels, samples)
    for method in METHODS:
        found = calibration.ranges[method][output]
        assert found.low == pytest.approx(float(logits.min()), rel=1e-4)
        assert found.high == pytest.approx(float(logits.max()), rel=1e-4)


@pytest.mark.parametrize("order", ["backwards", "batches of 5"])
def test_neither_order_nor_batches_matter(order: str, trained, int8: Int8, monkeypatch: pytest.MonkeyPatch) -> None:
    images = list(trained.calibration)
    if order == "backwards":
        images = images[::-1]
    else:
        monkeypatch.setattr("edgetl_export.quantize.calibrate._BATCH", 5)
    again = calibrate(int8.pixels, CalibrationSamples(images, trained.source.preprocess))
    for method in METHODS:
        for name, expected in int8.calibration.ranges[method].items():
            found = again.ranges[method][name]
            # Bins may be of another width, and the best of a hundred candidates its neighbour.
            tolerance = (1e-4 if method == "minmax" else 0.05) * (expected.high - expected.low)
            assert found.low == pytest.approx(expected.low, abs=tolerance), (method, name)
            assert found.high == pytest.approx(expected.high, abs=tolerance), (method, name)


def test_node_values_are_copies_of_what_the_network_computes(trained) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 4))
    captured = capture(dataclasses.replace(trained.source, module=network))
    values = node_values(captured, trained.tensors[:1])
    with torch.inference_mode():
        logits = captured.module(torch.tensor(trained.tensors[:1])).numpy()
    convolution, head = layers(captured.batched.graph)
    np.testing.assert_allclose(values[head.node], logits, rtol=1e-4, atol=1e-4)
    # The activation works in place: what stood before it must have been copied by then.
    assert values[convolution.node].min() < 0
    assert values[convolution.output].min() == 0


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
        alike.add(image, np.full(image.size, 1 / float(np.mean(image**2))))
    assert pooled.mse_range().high > 0.9 * huge.max()
    assert alike.mse_range().high < 0.2 * huge.max()
