"""What is said of a calibration that cannot be trusted, and that a good one is not suspected."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export import CalibrationSamples, ExportOptions, Source, export
from edgetl_export.capture import by_image
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.coverage import (
    CERTAIN,
    MOST_DIVERGENCE,
    MOST_OUTSIDE,
    Coverage,
    calibration_warnings,
    coverage,
    divergence,
)
from edgetl_runtime.errors import UsageError
from edgetl_runtime.preprocess import preprocess

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photos(trained) -> Images:
    return np.stack([preprocess(image, trained.source.preprocess) for image in trained.calibration[:16]])


@pytest.fixture(scope="module")
def greys() -> Images:
    """Nothing but one level in each: a calibration that no device will repeat."""
    levels = np.random.default_rng(0).integers(40, 60, (64, 1, 1, 1))
    return np.broadcast_to(levels, (64, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def with_own_statistics(trained) -> Source:
    """The trained network, its batch norms measured on all of the calibration images at once."""
    network = copy.deepcopy(trained.source.module)
    spec, normalize = trained.source.preprocess, trained.source.normalize
    images = torch.from_numpy(np.stack([preprocess(image, spec) for image in trained.calibration]))
    mean, std = torch.tensor(normalize.mean), torch.tensor(normalize.std)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(((images.float() / 255 - mean) / std).permute(0, 3, 1, 2))
    return replace(trained.source, module=network.eval())


def test_other_photos_are_covered_and_others_of_another_domain_are_not(int8, trained, greys: Images) -> None:
    good = coverage(int8.pixels, int8.calibration, trained.tensors[:16])
    narrow = calibrate(int8.pixels, CalibrationSamples(list(greys), trained.source.preprocess))
    bad = coverage(int8.pixels, narrow, trained.tensors[:16])
    assert good.n == 16
    assert good.outside_range < 10 * MOST_OUTSIDE
    assert bad.outside_range > 0.05
    assert bad.outside_range > 50 * good.outside_range
    assert bad.worst_share > bad.outside_range
    assert bad.worst in {*dict(trained.source.module.named_modules()), *int8.calibration.ranges["minmax"]} - {""}


def test_shares_are_those_of_the_values(int8, photos: Images) -> None:
    """Ranges cut to nothing leave every value but zero outside; ranges that hold everything leave none."""
    ranges = int8.calibration.ranges
    wide = {name: type(found)(-1e9, 1e9) for name, found in ranges["minmax"].items()}
    tiny = {name: type(found)(0.0, 1e-9) for name, found in ranges["minmax"].items()}
    everything = coverage(int8.pixels, replace(int8.calibration, ranges={"minmax": wide, "mse": tiny}), photos)
    assert everything.outside_range == 0
    assert everything.outside_grid > 0.5
    nothing = coverage(int8.pixels, replace(int8.calibration, ranges={"minmax": tiny, "mse": wide}), photos)
    assert nothing.outside_range > 0.5
    assert nothing.outside_grid == 0
    assert nothing.worst_share == 1.0


def test_one_odd_photo_is_no_verdict(int8, photos: Images, trained) -> None:
    odd = photos[:9].copy()
    odd[4] = 255
    most = coverage(int8.pixels, int8.calibration, np.delete(odd, 4, axis=0))
    assert coverage(int8.pixels, int8.calibration, odd).outside_range <= most.outside_range + MOST_OUTSIDE


def test_an_unknown_method_is_refused(int8, photos: Images) -> None:
    with pytest.raises(UsageError, match="minmaxx"):
        coverage(int8.pixels, int8.calibration, photos, "minmaxx")


def test_divergence_is_zero_at_home_and_large_for_plain_grey(
    with_own_statistics: Source, photos: Images, greys: Images
) -> None:
    home, away = divergence(with_own_statistics, photos), divergence(with_own_statistics, greys[:16])
    assert home is not None
    assert away is not None
    assert home < 0.1 < MOST_DIVERGENCE < away


def test_divergence_is_the_formula(trained) -> None:
    """One batch norm whose input is the image: mean and variance by hand."""
    norm = nn.BatchNorm2d(3).eval()
    assert norm.running_mean is not None
    norm.running_mean += 0.5
    source = replace(trained.source, module=norm)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    mean, std = np.array(source.normalize.mean), np.array(source.normalize.std)
    values = ((images / 255 - mean) / std).reshape(-1, 3)
    ratio = values.var(0) / (1 + norm.eps)
    expected = (ratio + (values.mean(0) - 0.5) ** 2 / (1 + norm.eps) - 1 - np.log(ratio)).mean() / 2
    assert divergence(source, images) == pytest.approx(expected, rel=1e-5)
    assert all(not module._forward_pre_hooks for module in norm.modules())


def test_networks_without_batch_norms_diverge_from_nothing(attentive, photos: Images) -> None:
    assert divergence(attentive.trained.source, photos) is None


def test_warnings_say_what_and_how_much(int8, with_own_statistics: Source, photos: Images, greys: Images) -> None:
    few = replace(int8.calibration, n=CERTAIN - 1)
    uncovered = Coverage(0.0213, 0.03, "features.1", 0.4, 8)
    said = calibration_warnings(with_own_statistics, few, greys[:16], uncovered)
    assert [word in line for word, line in zip(("49 calibration", "diverge by", "2.13%"), said, strict=True)] == [
        True
    ] * 3
    assert "features.1, 40.0%" in said[2]
    enough = replace(int8.calibration, n=CERTAIN)
    assert calibration_warnings(with_own_statistics, enough, photos, replace(uncovered, outside_range=1e-5)) == ()
    assert calibration_warnings(with_own_statistics, enough, photos, None) == ()


def test_an_export_tells_its_doubts(with_own_statistics: Source, greys: Images, trained, tmp_path: Path) -> None:
    samples = CalibrationSamples(list(greys[:16]), trained.source.preprocess)
    options = ExportOptions(targets=("onnx",), precisions=("int8",))
    exported = export(with_own_statistics, samples, trained.calibration[:8], tmp_path, options)
    assert len(exported.warnings) == 3
    assert exported.manifest.provenance["warnings"] == list(exported.warnings)


def test_attention_is_covered_image_by_image(attentive, photos: Images) -> None:
    """Its tensors have the batch on other axes than the first, of another length for the last few images."""
    together = coverage(attentive.pixels, attentive.calibration, photos)
    assert together.n == len(photos)
    assert together.outside_range < MOST_OUTSIDE
    one = coverage(attentive.pixels, attentive.calibration, photos[:1])
    wild = coverage(attentive.pixels, attentive.calibration, np.stack([photos[0], 255 - photos[0]]))
    assert wild.outside_range >= one.outside_range


def test_rows_are_images_wherever_the_batch_stands(attentive, photos: Images) -> None:
    """What `by_image` makes of a batch is what it makes of each image, but where the batch is folded with tokens."""
    graph = attentive.pixels.batched

    class Rows(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, torch.Tensor) and result.is_floating_point():
                lengths = [str(length) for length in n.meta["val"].shape]
                if any("*" in length for length in lengths):
                    return result
                if lengths[0].isdigit() and not all(length.isdigit() for length in lengths):
                    moved.add(n.name)  # the batch stands elsewhere than first
                found.setdefault(n.name, []).append(by_image(n, result.clone(), images))
            return result

    found: dict[str, list[torch.Tensor]] = {}
    moved: set[str] = set()
    for part in (photos[:3], photos[:1], photos[1:2], photos[2:3]):
        images = len(part)
        with torch.inference_mode():
            Rows(graph).run(torch.from_numpy(part))
    for name, (together, *alone) in found.items():
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4, msg=name)
    assert len(found) > 10
    assert moved
