"""Bundles that are not what they say, though original and variants agree."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgetl.tasks.task import TaskFault
from edgetl.verify.diagnose.audit import _pixels, audit_bundle, audit_variant, faults_of
from edgetl.verify.diagnose.damaged_files import explain_error
from edgetl_export.bundle_writer import write_manifest
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.manifest import FileEntry, Manifest, Preprocess
from edgetl_runtime.preprocess import load_image, preprocess

Reference = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@pytest.fixture
def bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine_bundle, tmp_path / "colours.edgetl")
    return tmp_path / "colours.edgetl"


def edit(bundle: Path, **changes: object) -> Manifest:
    manifest = dataclasses.replace(open_bundle(bundle).manifest, **changes)  # type: ignore[arg-type]
    write_manifest(bundle, manifest)
    return manifest


def golden_made_by(bundle: Path, make: Callable[[bytes, Preprocess], npt.NDArray[np.uint8]]) -> None:
    """Let the golden tensors be what `make` makes of the images."""
    opened = open_bundle(bundle)
    samples, golden = opened.golden(), opened.manifest.golden
    assert samples is not None
    assert golden is not None
    content = io.BytesIO()
    np.savez(
        content, tensors=np.stack([make(i, opened.manifest.preprocess) for i in samples.images]), logits=samples.logits
    )
    (bundle / golden.expected.path).write_bytes(content.getvalue())
    entry = FileEntry(golden.expected.path, hashlib.sha256(content.getvalue()).hexdigest(), len(content.getvalue()))
    edit(bundle, golden=dataclasses.replace(golden, expected=entry))


def test_a_sound_bundle_has_no_faults(bundle: Path, original: Reference) -> None:
    opened = open_bundle(bundle)
    assert audit_bundle(opened, original) == ()
    assert audit_variant(opened, "onnx.fp32") == audit_variant(opened, "openvino.fp32") == ()


def bgr(image: bytes, spec: Preprocess) -> npt.NDArray[np.uint8]:
    return preprocess(image, spec)[..., ::-1]


def one_row_down(image: bytes, spec: Preprocess) -> npt.NDArray[np.uint8]:
    height, width = spec.crop
    return preprocess(image, dataclasses.replace(spec, crop=(height + 2, width)))[2:]


def nearest(image: bytes, spec: Preprocess) -> npt.NDArray[np.uint8]:
    small = load_image(image).resize((36, 28), 0)
    return preprocess(np.asarray(small), spec)


PIXELS = {
    "colour order of the golden tensors is BGR": bgr,
    "resize filter is bilinear where it was bicubic": lambda i, s: preprocess(
        i, dataclasses.replace(s, interpolation="bicubic")
    ),
    "resized to 28 pixels where it was 30": lambda i, s: preprocess(i, dataclasses.replace(s, resize=30)),
    "off by one pixel (1 rows, 0 columns)": one_row_down,
    "not the one that the golden samples were made with": nearest,
}


@pytest.mark.parametrize("cause", PIXELS)
def test_other_pixels_than_the_golden_ones_are_told_apart(bundle: Path, cause: str) -> None:
    golden_made_by(bundle, PIXELS[cause])
    faults = audit_bundle(open_bundle(bundle))
    assert [fault.check.variant for fault in faults] == [v.id for v in open_bundle(bundle).manifest.variants]
    assert {fault.check.what for fault in faults} == {"preprocessing"}
    assert faults[0].check.passed is False
    assert faults[0].check.value is not None
    assert faults[0].check.value > 0
    assert cause in faults[0].finding.cause
    assert len(audit_bundle(open_bundle(bundle), None, ["onnx.fp32"])) == 1


@pytest.mark.parametrize("made", [24, 37, (26, 36), (24, 32)])
def test_rectangles_that_were_resized_otherwise_are_told_apart(bundle: Path, made: int | tuple[int, int]) -> None:
    """Wide images of which the manifest says that they cover 27 rows of 37 pixels."""
    golden = open_bundle(bundle).golden()
    assert golden is not None
    spec = Preprocess(resize=(27, 37), crop=(24, 32))
    others = [preprocess(image, dataclasses.replace(spec, resize=made)) for image in golden.images]
    found = _pixels(dataclasses.replace(golden, tensors=np.stack(others)), spec)
    assert found is not None
    was = made if isinstance(made, int) else f"{made[0]}x{made[1]}"
    assert found[1].cause == f"the image is resized to 27x37 pixels where it was {was} pixels"


def test_another_reference_is_noticed(bundle: Path, original: Reference) -> None:
    faults = audit_bundle(open_bundle(bundle), lambda tensors: original(tensors)[:, ::-1])
    assert {fault.check.what for fault in faults} == {"golden"}
    assert "not the model that the bundle came from" in faults[0].finding.cause


def test_a_fault_of_the_task_fails_every_variant() -> None:
    found = TaskFault("labels", ">=", 0.4, 0.1, "the labels are shuffled", "3 of 4", "order them")
    faults = faults_of([found], ["onnx.fp32", "onnx.int8"])
    assert [(fault.check.variant, fault.check.what, fault.check.passed) for fault in faults] == [
        ("onnx.fp32", "labels", False),
        ("onnx.int8", "labels", False),
    ]
    assert faults[0].finding.cause == faults[0].check.note == "the labels are shuffled"


def test_a_file_of_another_precision_or_model_is_noticed(bundle: Path) -> None:
    (renamed,) = [fault for fault in audit_variant(open_bundle(bundle), "onnx.int8") if fault.check.what == "weights"]
    assert renamed.check.value == 0.0
    assert "float model renamed" in renamed.finding.cause
    provenance = {**open_bundle(bundle).manifest.provenance, "checkpoint_sha256": "f" * 64}
    edit(bundle, provenance=provenance)
    (other,) = audit_variant(open_bundle(bundle), "tflite.fp32")
    assert other.check.what == "manifest"
    assert "another model" in other.finding.cause


def test_a_manifest_that_was_edited_is_noticed(bundle: Path) -> None:
    edit(bundle, labels=tuple(reversed(open_bundle(bundle).manifest.labels)), decoder={"anchors": "others"})
    (fault,) = audit_variant(open_bundle(bundle), "openvino.fp32")
    assert fault.finding.cause == "the manifest was changed after the export: labels, decoder"


def test_why_a_file_cannot_be_used(bundle: Path) -> None:
    def cause(variant: str, error: str = "it failed") -> str:
        (finding,) = explain_error(open_bundle(bundle), variant, error)
        return finding.cause

    assert explain_error(open_bundle(bundle), "onnx.fp32", "the engine gave up") == ()
    file = bundle / "onnx/model.fp32.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    assert cause("onnx.fp32") == "the file is truncated"
    file.write_bytes(content[:-10] + b"0123456789")
    assert cause("onnx.fp32") == "the file was changed after the export"
    file.unlink()
    assert cause("onnx.fp32") == "a file is missing"
    weights = bundle / "openvino/model.fp32.bin"
    weights.write_bytes(weights.read_bytes()[:4])
    assert cause("openvino.fp32") == "the file is truncated"
    assert cause("tflite.int4", "not exported: unsupported") == "the conversion failed"
    manifest = json.loads((bundle / "manifest.json").read_text())
    edit(bundle, name="flowers")
    assert cause("tflite.fp32") == "the manifest is that of another model"
    assert manifest["name"] == "colours"
