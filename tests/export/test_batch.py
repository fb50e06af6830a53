"""``batch``: files that take several images in one run, or any number, in all formats and precisions."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import openvino
import pytest
import torch
from torch import nn

from edgetl_export import ExportOptions, export
from edgetl_export.capture import capture
from edgetl_export.int8 import Int8Options
from edgetl_export.targets import check_batch
from edgetl_export.targets.onnx_file import OnnxTarget
from edgetl_runtime import load, open_bundle, preprocess, self_test
from edgetl_runtime.batch_sizes import FREE
from edgetl_runtime.batches import run_images
from edgetl_runtime.errors import ExportError, UsageError
from tests.zoo import LABELS, SIZE, Attentive, Trained

pytestmark = pytest.mark.slow

ALL = ("onnx", "tflite", "openvino")
FREELY = ("onnx", "openvino")


def of(batch: int) -> tuple[str, ...]:
    return FREELY if batch == FREE else ALL


@pytest.fixture(scope="module", params=[FREE, 4], ids=["free", "four"])
def written(request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of all formats that have such a batch, in three precisions."""
    folder = tmp_path_factory.mktemp("batch")
    options = ExportOptions(of(request.param), ("fp32", "fp16", "int8"), batch=request.param)
    exported = export(trained.source, trained.samples, trained.calibration[:8], folder, options)
    assert not exported.failed
    return folder


@pytest.fixture(scope="module")
def alone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for one image in a run."""
    folder = tmp_path_factory.mktemp("alone")
    export(trained.source, trained.samples, trained.calibration[:8], folder, ExportOptions(ALL, ("fp32", "int8")))
    return folder


def tensors(trained: Trained, n: int = 15) -> npt.NDArray[np.uint8]:
    return np.stack([preprocess(image, trained.source.preprocess) for image in trained.calibration[:n]])


def test_manifest_and_files_say_it(written: Path) -> None:
    bundle = open_bundle(written)
    manifest = bundle.manifest
    batch = manifest.input.shape[0]
    assert manifest.input.shape == (batch, SIZE, SIZE, 3)
    assert manifest.output.shape == (batch, len(LABELS))
    assert {variant.input for variant in manifest.variants} == {None}
    model = onnx.load(written / "onnx/model.fp32.onnx")
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        assert first.dim_param == "batch" if batch == FREE else first.dim_value == 4
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Gather", "Range"})  # nothing is moved for it
    read = openvino.Core().read_model(written / "openvino/model.fp32.xml")
    assert read.input(0).get_partial_shape()[0].is_dynamic == (batch == FREE)


def test_every_variant_answers_alike_alone_and_together(written: Path, trained: Trained) -> None:
    bundle, images = open_bundle(written), tensors(trained)
    reference = trained.source.reference()(images)
    for variant in bundle.manifest.variants:
        with bundle.session(variant.id) as session:
            one_by_one = np.concatenate([run_images(session, image[None])["logits"] for image in images])
            sevens = run_images(session, images, most=7)["logits"]
            all_at_once = run_images(session, images)["logits"]
        for together in (sevens, all_at_once):
            np.testing.assert_array_equal(one_by_one.argmax(1), together.argmax(1), err_msg=variant.id)
            np.testing.assert_allclose(one_by_one, together, atol=1e-3 * np.ptp(reference), err_msg=variant.id)
        same = (one_by_one.argmax(1) == reference.argmax(1)).mean()
        assert same == 1.0 if variant.precision == "fp32" else same >= 14 / 15, variant.id


@pytest.mark.parametrize("variant", ["onnx.fp32", "onnx.int8", "openvino.int8", "tflite.fp32", "tflite.int8"])
def test_logits_are_those_of_the_file_for_one_image(variant: str, written: Path, alone: Path, trained: Trained) -> None:
    if variant not in [entry.id for entry in open_bundle(written).manifest.variants]:
        pytest.skip("TFLite has no free batch")
    images = tensors(trained)
    with load(alone, variant=variant) as one, load(written, variant=variant) as many:
        for image in images[:5]:
            np.testing.assert_allclose(many.logits(image), one.logits(image), atol=2e-2)
        photos = list(trained.calibration[:15])
        expected = [found.top.id for found in one.predict_batch(photos)]
        assert [found.top.id for found in many.predict_batch(photos)] == expected
        assert [found.top.id for found in many.stream(photos, workers=2)] == expected
        assert [many.predict(photo).top.id for photo in photos] == expected


def test_as_much_is_in_integers_as_for_one_image(written: Path, alone: Path) -> None:
    def left(folder: Path) -> dict[str, object]:
        variants = open_bundle(folder).manifest.variants
        return {one.id: (one.quantization or {})["float_operators"] for one in variants if one.precision == "int8"}

    found, expected = left(written), left(alone)
    for variant, operators in found.items():
        plain = {name: n for name, n in dict(operators).items() if name != "Expand"}  # type: ignore[call-overload]
        assert plain == expected[variant]


def test_the_bundle_tests_itself_and_is_chosen_from(written: Path, trained: Trained) -> None:
    found = self_test(open_bundle(written))
    assert found.passed, found
    with load(written) as classifier:
        assert classifier.choice is not None
        assert all(candidate.problem is None for candidate in classifier.choice.candidates)
        assert classifier.predict(trained.calibration[0]).top.id in [label.id for label in LABELS]


def test_a_file_alone_knows_its_batch(written: Path, trained: Trained) -> None:
    images = list(trained.calibration[:6])
    with load(written / "onnx/model.int8.onnx") as alone, load(written, variant="onnx.int8") as bundled:
        assert alone.predict_batch(images) == bundled.predict_batch(images)


def test_features_and_pixels_come_with_their_rows(trained: Trained, tmp_path: Path) -> None:
    source = replace(trained.source, features=("pooled",))
    options = ExportOptions(FREELY, ("fp32", "int8"), batch=FREE)
    assert not export(source, trained.samples, trained.calibration[:4], tmp_path, options).failed
    photos = list(trained.calibration[:5])
    for variant in ("onnx.fp32", "onnx.int8", "openvino.fp32", "openvino.int8"):
        with load(tmp_path, variant=variant) as classifier:
            together = classifier.embed(photos)
            for photo, row in zip(photos, together, strict=True):
                np.testing.assert_allclose(classifier.embed(photo), row, atol=1e-4, err_msg=variant)


def test_int8_borders_take_a_batch(trained: Trained, tmp_path: Path) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, len(LABELS))
    )
    source = replace(trained.source, module=plain)
    options = ExportOptions(("tflite",), ("int8",), Int8Options(io="int8"), batch=3)
    assert not export(source, trained.samples, trained.calibration[:4], tmp_path, options).failed
    (variant,) = open_bundle(tmp_path).manifest.variants
    assert variant.input is not None
    assert (variant.input.dtype, variant.input.shape[0]) == ("int8", 3)
    with load(tmp_path, variant="tflite.int8") as classifier:
        photos = list(trained.calibration[:4])
        assert classifier.predict_batch(photos) == [classifier.predict(photo) for photo in photos]


def test_the_ladder_judges_files_of_a_batch(trained: Trained, tmp_path: Path) -> None:
    options = ExportOptions(("onnx",), ("int8",), Int8Options(max_drop=0.4), batch=4)
    exported = export(trained.source, trained.samples, trained.calibration[:4], tmp_path, options)
    assert not exported.failed
    assert exported.rungs


def test_attention_takes_any_number(trained: Trained, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = replace(trained.source, module=Attentive(len(LABELS)))
    options = ExportOptions(FREELY, ("fp32", "int8"), batch=FREE)
    assert not export(source, trained.samples, trained.calibration[:4], tmp_path, options).failed
    for variant in open_bundle(tmp_path).manifest.variants:
        with load(tmp_path, variant=variant.id) as classifier:
            images = tensors(trained, 7)
            rows = run_images(classifier.session, images)["logits"]
            np.testing.assert_allclose(rows, [classifier.logits(image) for image in images], atol=1e-2)


class CountsImages(nn.Module):
    """Its weights are for so many images: a network that cannot take another number."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        return logits * (2.0 if x.shape[0] == 2 else 1.0)


class Mixes(nn.Module):
    """Gives one row, whatever comes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x).mean(0, keepdim=True)
        return logits


def test_a_network_that_counts_its_images_is_refused_before_the_calibration(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["edgetl_export.export"], "Quantizer", None)  # whoever calibrates fails
    counting = replace(trained.source, module=CountsImages(trained.source.module))
    with pytest.raises(ExportError, match="cannot take any number of images") as raised:
        export(counting, trained.samples, (), tmp_path, ExportOptions(FREELY, ("int8",), batch=FREE))
    assert "--batch N" in str(raised.value)
    mixing = replace(trained.source, module=Mixes(trained.source.module))
    assert capture(mixing).output.shape == (1, len(LABELS))
    for batch in (FREE, 3):
        with pytest.raises(ExportError, match=r"gives \[1, 4\] for . images") as raised:
            capture(mixing, batch=batch)
        assert "--batch" in str(raised.value)


@pytest.mark.parametrize(
    ("batch", "targets", "said"),
    [
        (FREE, ALL, "tflite files take a fixed number of images"),
        (FREE, ("tflite",), "tflite files take a fixed number of images"),
        (0, ALL, "batch = 0 makes no sense"),
        (-2, ("onnx",), "batch = -2 makes no sense"),
        (4096, ("onnx",), "batch = 4096 makes no sense"),
    ],
)
def test_what_cannot_be_is_refused_at_once(batch: int, targets: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        ExportOptions(targets, ("fp32",), batch=batch)
    assert "--batch 8" in str(raised.value) or "1 to 1024" in str(raised.value)
    check_batch(FREE, ("onnx", "openvino"))


def test_without_it_nothing_is_new(alone: Path, trained: Trained) -> None:
    raw = json.loads((alone / "manifest.json").read_text(encoding="utf-8"))
    assert raw["input"]["shape"][0] == raw["output"]["shape"][0] == 1
    assert "batch" not in raw["provenance"]
    assert {variant["input"] for variant in raw["variants"]} == {None}
    captured = capture(trained.source)
    assert captured.single is captured
    one, other = (hashlib.sha256(OnnxTarget().write(captured, "fp32").files[".onnx"]) for _ in range(2))
    assert one.digest() == other.digest()
