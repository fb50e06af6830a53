"""--io int8: a TFLite file without a float in it, which decides as before, behind the same contract."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from edgetl_export.artifact import Artifact
from edgetl_export.quantize.layers import layers
from edgetl_export.targets import check_io, tflite_flatbuffer
from edgetl_export.targets.tflite_integer_io import INTEGER_OPERATORS, with_integer_borders
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import BundleError, ExportError, UsageError
from edgetl_runtime.loading import load
from edgetl_runtime.manifest import Manifest, Requires, TensorSpec, Variant
from edgetl_runtime.session import FakeSession, IntegerSession


@pytest.fixture(scope="module")
def integer(int8) -> Artifact:
    return int8.targets["tflite"].quantize(int8.quantized, io="int8")


@pytest.fixture(scope="module")
def file(integer, int8, tmp_path_factory):
    """The same as a file that describes itself."""
    source, captured = int8.trained.source, int8.quantized.captured
    variant = Variant(
        "tflite.int8", "tflite", "int8", (), Requires("litert"), integer.quantization, integer.input, integer.output
    )
    manifest = Manifest(
        source.name,
        source.task,
        source.labels,
        captured.input,
        source.preprocess,
        source.normalize,
        captured.output,
        (variant,),
    )
    path = tmp_path_factory.mktemp("integer") / "model.int8.tflite"
    path.write_bytes(int8.targets["tflite"].embed(integer, manifest.to_json()).files[".tflite"])
    return path


def test_the_file_has_int8_borders_and_no_float(integer) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = tflite_flatbuffer.opened(integer.files[".tflite"])
    graph = model.subgraphs[0]
    floats = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.UINT8)
    assert not [tensor.name for tensor in graph.tensors if tensor.type in floats]
    assert {tflite_flatbuffer.kind(model, operator) for operator in graph.operators} <= INTEGER_OPERATORS
    borders = [graph.tensors[int(index)].type for index in (*graph.inputs, *graph.outputs)]
    assert borders == [schema.TensorType.INT8] * 2
    used = {int(index) for operator in graph.operators for index in (*operator.inputs, *operator.outputs)}
    assert used - {-1} == set(range(len(graph.tensors)))
    assert {operator.opcodeIndex for operator in graph.operators} == set(range(len(model.operatorCodes)))


def test_it_decides_like_the_file_with_float_borders(file, int8) -> None:
    with open_bundle(file).session("tflite.int8", threads=1) as session:
        logits = np.concatenate([session.run({"image": tensor[None]})["logits"] for tensor in int8.trained.tensors])
    assert logits.dtype == np.float32
    plain = int8.logits("tflite")
    assert sqnr_db(int8.reference, logits) >= sqnr_db(int8.reference, plain) - 3
    assert (logits.argmax(1) == plain.argmax(1)).mean() >= 0.97


def test_the_classifier_and_the_manifest_are_as_ever(file, int8) -> None:
    with load(file) as classifier:
        predicted = [classifier.predict(image).top.index for image in int8.trained.calibration[:32]]
        assert (classifier.session.inputs[0].dtype, classifier.session.outputs[0].dtype) == ("uint8", "float32")
        own = classifier.variant
    assert (own.input.dtype, own.input.scale, own.input.zero_point) == ("int8", 1.0, -128)
    assert own.output.dtype == "int8"
    assert own.output.scale > 0
    with open_bundle(file).session("tflite.int8") as session:
        assert session.engine == "litert"
    assert len(set(predicted)) > 1


def test_grey_levels_lose_128_and_logits_get_their_scale() -> None:
    seen = []

    def compute(feeds):
        seen.append(feeds["image"])
        return {"logits": np.array([[-128, 0, 127]], np.int8)}

    image = TensorSpec("image", "int8", (1, 1, 2, 3), "NHWC", 1.0, -128)
    inner = FakeSession((image,), (TensorSpec("logits", "int8", (1, 3), None, 0.5, -8),), compute)
    outer = (TensorSpec("image", "uint8", (1, 1, 2, 3), "NHWC"), TensorSpec("logits", "float32", (1, 3)))
    with IntegerSession(inner, outer[0], outer[1:]) as session:
        found = session.run({"image": np.array([[[[0, 1, 127], [128, 129, 255]]]], np.uint8)})["logits"]
    assert seen[0].ravel().tolist() == [-128, -127, -1, 0, 1, 127]
    assert found.tolist() == [[-60.0, 4.0, 67.5]]
    assert found.dtype == np.float32
    assert inner._closed


@pytest.mark.parametrize(
    ("what", "value"), [("input", {"zero_point": 0}), ("input", {"scale": 0.5}), ("output", {"scale": None})]
)
def test_integers_without_a_meaning_are_damage(what: str, value: dict[str, object], file) -> None:
    manifest = open_bundle(file).manifest
    (variant,) = manifest.variants
    damaged = replace(variant, **{what: replace(getattr(variant, what), **value)})
    with pytest.raises(BundleError, match="grey levels"):
        Manifest.from_json(replace(manifest, variants=(damaged,)).to_json(), where="file")


def test_a_layer_that_stays_in_float_is_named(int8) -> None:
    last = layers(int8.quantized.captured.batched.graph)[-1]
    quantization = replace(int8.quantized.quantization, in_float=(last.output,))
    with pytest.raises(ExportError, match=f"float operators are left.*FULLY_CONNECTED of {last.name}"):
        int8.targets["tflite"].quantize(replace(int8.quantized, quantization=quantization), io="int8")


def test_an_operator_without_an_integer_kernel_is_named(int8, monkeypatch) -> None:
    monkeypatch.setattr(
        "edgetl_export.targets.tflite_integer_io.INTEGER_OPERATORS", INTEGER_OPERATORS - {"DEPTHWISE_CONV_2D"}
    )
    with pytest.raises(ExportError, match=r"DEPTHWISE_CONV_2D of expand\.\d"):
        int8.targets["tflite"].quantize(int8.quantized, io="int8")


def test_float_borders_are_seen(int8) -> None:
    with pytest.raises(ExportError, match="the logits"):
        with_integer_borders(int8.files["tflite"].files[".tflite"], {})


def test_a_network_that_does_not_read_pixels_is_refused(int8) -> None:
    captured = replace(copy.copy(int8.quantized.captured), takes_pixels=False)
    with pytest.raises(ExportError, match="does not begin with a convolution"):
        int8.targets["tflite"].quantize(replace(int8.quantized, captured=captured), io="int8")


def test_only_tflite_int8_may_have_integer_borders() -> None:
    check_io("float", ("onnx", "tflite"), ("fp32", "int8"))
    check_io("int8", ("tflite",), ("int8",))
    with pytest.raises(UsageError, match=r"cannot be had for onnx\.int8: .* microcontrollers"):
        check_io("int8", ("onnx", "tflite"), ("int8",))
    with pytest.raises(UsageError, match=r"cannot be had for tflite\.fp32"):
        check_io("int8", ("tflite",), ("fp32", "int8"))
    with pytest.raises(UsageError, match="unknown borders 'int16'"):
        check_io("int16", ("tflite",), ("int8",))


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_other_targets_do_not_pass_over_the_wish(target: str, int8) -> None:
    with pytest.raises(ExportError, match="with int8 borders"):
        int8.targets[target].quantize(int8.quantized, io="int8")
