"""One model file alone: its manifest is found, and damage of any kind is one error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetl_runtime import BundleError, Manifest, load, open_bundle
from edgetl_runtime.files import weights_path
from edgetl_runtime.modelfile import embedded_manifest

FILES = {"onnx.fp32": "onnx/model.fp32.onnx", "tflite.fp32": "tflite/model.fp32.tflite"}
FILES |= {"openvino.fp32": "openvino/model.fp32.xml"}


@pytest.mark.parametrize("variant", FILES)
def test_single_file_loads_and_predicts(variant: str, pristine_bundle: Path, red_photo: bytes) -> None:
    path = pristine_bundle / FILES[variant]
    with load(path) as classifier, load(pristine_bundle, variant=variant) as whole:
        assert classifier.variant.id == variant
        assert classifier.predict(red_photo) == whole.predict(red_photo)
        assert classifier.predict(red_photo).top.id == "red"
    bundle = open_bundle(path)
    assert bundle.manifest.labels == open_bundle(pristine_bundle).manifest.labels
    assert bundle.manifest.variants[0].bytes == open_bundle(pristine_bundle).manifest.variant(variant).bytes
    assert bundle.golden() is None
    assert bundle.failed_variants() == frozenset()
    bundle.check()


@pytest.mark.parametrize("variant", FILES)
def test_no_damage_escapes_as_another_error(variant: str, pristine_bundle: Path) -> None:
    """Cut anywhere, or with any bytes changed, the reader finds a manifest or says `BundleError`."""
    path = Path(FILES[variant])
    content = (pristine_bundle / path).read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for turn in range(1500):
        damaged = bytearray(content)
        if turn % 3 == 0:
            del damaged[rng.integers(0, len(damaged)) :]
        else:
            for _ in range(rng.integers(1, 8)):
                damaged[rng.integers(0, len(damaged))] = rng.integers(0, 256)
        try:
            manifest = embedded_manifest(bytes(damaged), suffix=path.suffix, where="here")
        except BundleError:
            continue
        assert isinstance(manifest, Manifest)
        found += 1
    assert 0 < found < 1200


def test_files_without_a_manifest_say_so(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"foreign\.onnx carries no edgetl manifest: edgetl did not write it"):
        open_bundle(path)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".xml"])
@pytest.mark.parametrize("content", [b"hello, this is text", b"\x00" * 64, b"<net><rt_info></net>", b"\x1c\0\0\0TFL3"])
def test_foreign_content_carries_no_manifest(suffix: str, content: bytes) -> None:
    with pytest.raises(BundleError, match="carries no edgetl manifest"):
        embedded_manifest(content, suffix=suffix, where="here")


def test_xml_entities_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE net [<!ENTITY a "aaaa">]><net><rt_info><edgetl_manifest value="&a;"/></rt_info></net>'
    with pytest.raises(BundleError, match="DOCTYPE"):
        embedded_manifest(bomb, suffix=".xml", where="here")


def test_openvino_file_needs_its_weights(bundle_path: Path) -> None:
    (bundle_path / "openvino/model.fp32.bin").unlink()
    with pytest.raises(BundleError, match=r"model\.fp32\.bin is missing"):
        open_bundle(bundle_path / "openvino/model.fp32.xml")


def test_weights_path() -> None:
    assert weights_path("openvino/model.int8.xml") == "openvino/model.int8.bin"
    assert weights_path("onnx/model.int8.onnx") is None


def test_tflite_data_behind_the_flatbuffer_is_found(pristine_bundle: Path) -> None:
    """Files over 2 GB keep buffers after the flatbuffer: Buffer.offset and .size point there."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    text = open_bundle(pristine_bundle).manifest.embedded("tflite.fp32").to_json().encode()

    def write(offset: int) -> bytes:
        model, buffer, metadata = schema.ModelT(), schema.BufferT(), schema.MetadataT()
        buffer.offset, buffer.size = offset, len(text)
        metadata.name, metadata.buffer = "edgetl_manifest", 1
        model.version, model.buffers, model.metadata = 3, [schema.BufferT(), buffer], [metadata]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    content = write(len(write(2))) + text
    assert embedded_manifest(content, suffix=".tflite", where="here").name == "colours"
    with pytest.raises(BundleError, match="not a whole"):
        embedded_manifest(content[:-1], suffix=".tflite", where="here")


@pytest.mark.parametrize("content", [b"<?xml version='1.0' encoding='odd'?><net/>", "<net/>".encode("utf-16")])
def test_other_encodings_are_damage(content: bytes) -> None:
    with pytest.raises(BundleError, match="not a whole"):
        embedded_manifest(content, suffix=".xml", where="here")


def test_many_fields_do_not_keep_the_reader_busy() -> None:
    with pytest.raises(BundleError, match="more than 100000 fields"):
        embedded_manifest(b"\x08\x01" * 2_000_000, suffix=".onnx", where="here")


def test_a_single_file_may_have_any_name(pristine_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "model:int8\\v1.xml"
    for suffix in (".xml", ".bin"):
        content = (pristine_bundle / FILES["openvino.fp32"]).with_suffix(suffix).read_bytes()
        path.with_suffix(suffix).write_bytes(content)
    open_bundle(path).session("openvino.fp32").close()
