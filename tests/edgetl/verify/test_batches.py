"""Files that take several images in one run are held against one image in a run; a planted fault is found."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgetl.data.dataset import Sample
from edgetl.verify.diagnose.mixed_images import batch_check, batch_fault
from edgetl.verify.layers.compare import layer_errors
from edgetl.verify.measure.batches import BatchSums
from edgetl.verify.report import Report
from edgetl.verify.verify import VerifyOptions, verify
from edgetl_export import CalibrationSamples, ExportOptions, Source, export
from edgetl_runtime import open_bundle, preprocess, self_test
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.tasks.classification import agreement
from tests.edgetl.verify.planting import renew
from tests.edgetl.verify.test_planted_faults import pictures, trained

pytestmark = pytest.mark.slow

QUICK = VerifyOptions(latency_seconds=0)


@pytest.fixture(scope="module")
def source() -> Source:
    return trained()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    images, kinds = pictures(60, 1)
    return [Sample(image, int(kind), f"{i}") for i, (image, kind) in enumerate(zip(images, kinds, strict=True))]


@pytest.fixture(scope="module")
def bundles(source: Source, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By batch a bundle of the same network; with features where the batch is free."""
    photos = [sample.source for sample in samples]
    found = {}
    for batch, targets in ((FREE, ("onnx", "openvino")), (8, ("onnx", "tflite", "openvino"))):
        found[batch] = tmp_path_factory.mktemp("batch")
        options = ExportOptions(targets, ("fp32", "int8"), batch=batch)
        calibration = CalibrationSamples(photos[:40], source.preprocess)
        assert not export(source, calibration, photos[:8], found[batch], options).failed
    return found


def verified(bundle: Path, source: Source, samples: Sequence[Sample], options: VerifyOptions = QUICK) -> Report:
    return verify(bundle, samples, source.reference(), options)


def only_the_first_row(bundle: Path, others: str) -> None:
    """In onnx.fp32 every row but the first becomes zeros, or a copy of the first."""
    path = bundle / "onnx/model.fp32.onnx"
    model = onnx.load(path)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    constants = {"zero": [0], "one": [1]}
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items())
    make = onnx.helper.make_node
    graph.node.extend(
        [
            make("Slice", ["right", "zero", "one", "zero"], ["first"]),
            make("Shape", ["right"], ["shape"]),
            make("Expand", ["first", "shape"], ["copies"]),
        ]
    )
    if others == "copies":
        graph.node.append(make("Identity", ["copies"], ["logits"]))
    else:  # minus themselves, but for the first
        graph.node.extend(
            [
                make("Sub", ["right", "right"], ["nothing"]),
                make("Slice", ["nothing", "one", "end", "zero"], ["rest"]),
                make("Concat", ["first", "rest"], ["logits"], axis=0),
            ]
        )
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([2**31], np.int64), "end"))
    onnx.save(model, path)
    renew(bundle, "onnx.fp32")


@pytest.mark.parametrize("batch", [FREE, 8])
def test_sound_files_pass_and_the_check_is_told(
    batch: int, bundles: dict[int, Path], source: Source, samples: list[Sample]
) -> None:
    report = verified(bundles[batch], source, samples)
    assert report.verdict.passed, report.verdict.failed
    checks = {check.variant: check for check in report.verdict.checks if check.what == "batch"}
    assert set(checks) == {variant.id for variant in report.variants}
    size = 7 if batch == FREE else 8
    assert all(check.note == f"60 images alone and up to {size} in one run" for check in checks.values())
    assert all(check.value == 0 for check in checks.values())


@pytest.mark.parametrize("batch", [FREE, 8])
@pytest.mark.parametrize("others", ["zeros", "copies"])
def test_only_the_first_row_right_is_found(
    others: str, batch: int, bundles: dict[int, Path], source: Source, samples: list[Sample], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles[batch], bundle)
    only_the_first_row(bundle, others)
    report = verified(bundle, source, samples)
    failed = [check for check in report.verdict.failed if check.variant == "onnx.fp32"]
    assert [check.what for check in failed] == ["batch"]  # alone it answers as it should: nothing else sees it
    assert {check.variant for check in report.verdict.failed} == {"onnx.fp32"}
    assert failed[0].value is not None
    assert failed[0].value > 20
    (finding,) = report.variant("onnx.fp32").findings
    assert finding.cause == "what it answers depends on the other images of a run"
    assert "get another label in a run of up to" in finding.evidence
    test = next(one for one in self_test(open_bundle(bundle)).variants if one.id == "onnx.fp32")
    assert not test.passed
    assert "golden samples are decided otherwise in runs of up to" in str(test.problem)


def test_a_bundle_for_one_image_has_no_such_check(source: Source, samples: list[Sample], tmp_path: Path) -> None:
    photos = [sample.source for sample in samples]
    options = ExportOptions(("onnx",), ("fp32",))
    export(source, CalibrationSamples(photos[:8], source.preprocess), photos[:4], tmp_path, options)
    report = verified(tmp_path, source, samples[:20])
    assert "batch" not in {check.what for check in report.verdict.checks}


@pytest.mark.parametrize("batch", [FREE, 8])
def test_layers_latency_and_memory_are_measured_of_a_batch(
    batch: int, bundles: dict[int, Path], source: Source, samples: list[Sample]
) -> None:
    bundle = open_bundle(bundles[batch])
    images = np.stack([preprocess(sample.source, source.preprocess) for sample in samples[:2]])
    ids = [variant.id for variant in bundle.manifest.variants]
    for variant, layers in layer_errors(bundle, ids, source, images).items():
        assert isinstance(layers, tuple), layers
        assert len(layers) >= 6
        assert min(layer.sqnr_db for layer in layers) > (10 if "int8" in variant else 60), variant
    report = verified(bundles[batch], source, samples[:16], VerifyOptions(latency_seconds=0.05, memory=True))
    for variant in report.variants:
        assert variant.latency is not None, variant.error
        assert variant.memory is not None


def test_features_that_mix_images_are_found() -> None:
    rng = np.random.default_rng(0)
    alone = {"logits": np.eye(4, dtype=np.float32), "pooled": rng.normal(size=(4, 6)).astype(np.float32)}
    mixed = {**alone, "pooled": np.repeat(alone["pooled"].mean(0, keepdims=True), 4, axis=0)}
    sound, unsound = (BatchSums(7, ["logits"], agreement) for _ in range(2))
    for _ in range(2):
        sound.add(alone, alone)
        unsound.add(alone, mixed)
    assert batch_fault("v", sound, {}) is None
    assert batch_check("v", sound).passed
    fault = batch_fault("v", unsound, {})
    assert fault is not None
    assert "pooled is " in fault.finding.evidence


def test_places_of_what_differs_count_over_runs() -> None:
    alone = {"logits": np.eye(3, dtype=np.float32)}
    sums = BatchSums(7, ["logits"], agreement)
    sums.add(alone, alone)
    sums.add(alone, {"logits": np.roll(alone["logits"], 1, axis=1)})
    assert sums.others == [3, 4, 5]
    fault = batch_fault("v", sums, {3: "d.png", 4: "e.png", 5: "f.png"})
    assert fault is not None
    assert "3 of 6 images" in fault.finding.evidence
    assert "(d.png, e.png, f.png)" in fault.finding.evidence
