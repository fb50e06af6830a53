"""w8, dynamic and w8a16: what they decide, that the weights are int8, and who is refused what, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import nn

from edgetl.verify.gate.limits import read_gate
from edgetl_export import ExportOptions, Source, capture
from edgetl_export.artifact import Artifact
from edgetl_export.quantize.static import quantize_static
from edgetl_export.targets import ALL_PRECISIONS, PRECISIONS, TARGETS, check_names, open_target, tflite_flatbuffer
from edgetl_export.targets.onnx_weights import round_weights
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.machine import cpu_features
from tests.export.conftest import logits_of_file
from tests.zoo import LABELS, NORMALIZE, SPEC, Attentive

pytestmark = pytest.mark.slow

LEAST_SQNR = {"w8": 35.0, "dynamic": 25.0}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["w8", "dynamic"])
def test_int8_weights_need_no_calibration(target: str, precision: str, trained, int8) -> None:
    writer, captured = int8.targets[target], int8.quantized.captured
    artifact = writer.write(captured, precision)
    embedded = writer.embed(artifact, "{}")
    reference = trained.source.reference()(trained.tensors)
    logits = logits_of_file(target, embedded, trained.tensors)
    assert sqnr_db(reference, logits) >= LEAST_SQNR[precision]
    assert (logits.argmax(1) == reference.argmax(1)).mean() >= 0.97
    assert artifact.quantization is not None
    assert artifact.quantization["method"] == precision
    dense = sum(module.weight.numel() for module in trained.source.module.modules() if _has_weights(module))
    assert _int8_values(target, embedded) == dense


def test_w8_computes_in_float_and_dynamic_does_not(trained, int8) -> None:
    captured = int8.quantized.captured
    for target, writer in int8.targets.items():
        w8, dynamic = (
            logits_of_file(target, writer.write(captured, precision), trained.tensors[:40])
            for precision in ("w8", "dynamic")
        )
        if target != "openvino" or _rounds_at_run_time():
            assert not np.array_equal(w8, dynamic)


def test_w8_of_onnx_runtime_is_dequantised_when_it_loads(int8) -> None:
    artifact = int8.targets["onnx"].write(int8.quantized.captured, "w8")
    model = onnx.ModelProto.FromString(artifact.files[".onnx"])
    assert "DequantizeLinear" not in {node.op_type for node in model.graph.node}


def test_dynamic_openvino_says_so_in_the_file(int8) -> None:
    captured, writer = int8.quantized.captured, int8.targets["openvino"]
    groups = {}
    for precision in ("w8", "dynamic"):
        files = writer.embed(writer.write(captured, precision), "{}").files
        model = openvino.Core().read_model(files[".xml"], files[".bin"])
        with kept_signal_stack():
            compiled = openvino.compile_model(model, "CPU")
        groups[precision] = compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    assert groups == {"w8": 0, "dynamic": 32}


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_network_without_matrix_products_is_not_dynamic(target: str, pooling) -> None:
    with pytest.raises(ExportError, match="no matrix product with constant weights") as caught:
        pooling.targets[target].write(pooling.quantized.captured, "dynamic")
    assert "w8" in str(caught.value.fix)


@pytest.mark.parametrize("target", TARGETS)
def test_matrix_products_of_a_transformer(target: str) -> None:
    torch.manual_seed(0)
    source = Source("attentive", Attentive(len(LABELS)).eval(), LABELS, SPEC, NORMALIZE, checkpoint_sha256="0" * 64)
    images = np.random.default_rng(0).integers(0, 256, (4, *SPEC.crop, 3), np.uint8)
    reference = source.reference()(images)
    captured, writer = capture(source), open_target(target)
    for precision in ("w8", "dynamic"):
        logits = logits_of_file(target, writer.write(captured, precision), images)
        assert sqnr_db(reference, logits) >= LEAST_SQNR[precision], precision


def test_w8a16_loses_what_the_weights_lose_and_little_more(int8) -> None:
    quantized = quantize_static(int8.pixels, int8.calibration, method="minmax")
    wide = int8.targets["tflite"].quantize(replace(quantized, captured=int8.quantized.captured), "w8a16")
    assert wide.quantization is not None
    assert wide.quantization["activations"] == "int16"
    weights_alone = int8.logits("tflite", int8.targets["tflite"].write(int8.quantized.captured, "w8"))
    assert sqnr_db(weights_alone, int8.logits("tflite", wide)) >= sqnr_db(weights_alone, int8.logits("tflite")) + 10
    types = {tensor.type for tensor in tflite_flatbuffer.opened(wide.files[".tflite"]).subgraphs[0].tensors}
    assert _tensor_type("INT16") in types


def test_w8a16_keeps_the_bias_of_a_dead_channel(pooling) -> None:
    quantized = quantize_static(pooling.pixels, pooling.calibration, method="minmax")
    wide = open_target("tflite").quantize(quantized, "w8a16")
    assert sqnr_db(pooling.reference, pooling.logits("tflite", wide)) >= 30


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_w8a16_is_refused_with_the_reason(target: str) -> None:
    with pytest.raises(UsageError, match=f"{target} cannot be written at w8a16: .* computes 16-bit") as caught:
        ExportOptions(targets=("tflite", target), precisions=("int8", "w8a16"))
    assert "w8a16 has tflite" in str(caught.value.fix)


def test_every_precision_has_a_target_and_none_is_there_twice() -> None:
    for target, info in TARGETS.items():
        assert set(info.refused) <= set(ALL_PRECISIONS) - set(PRECISIONS), target
        check_names((target,), info.precisions)
    with pytest.raises(UsageError, match="unknown precision 'w8a8'"):
        check_names(("onnx",), ("w8a8",))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["w4", "int8"])
def test_a_target_does_not_write_what_it_does_not_know(target: str, precision: str, int8) -> None:
    with pytest.raises(ExportError, match=f"cannot be written at precision '{precision}'"):
        int8.targets[target].write(int8.quantized.captured, precision)


def test_the_gate_knows_all_precisions(tmp_path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("".join(f"[precision.{name}]\ntop1_agreement = 0.9\n" for name in ALL_PRECISIONS))
    assert set(read_gate(path).precision) == set(ALL_PRECISIONS)
    path.write_text("[precision.dynamo]\ntop1_agreement = 0.9\n")
    with pytest.raises(UsageError, match="unknown precision 'dynamo'"):
        read_gate(path)


def test_weights_that_two_layers_share_are_stored_once() -> None:
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
        onnx.helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))
    stored = [tensor for tensor in round_weights(model).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len(stored) == 1


def _has_weights(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _int8_values(target: str, artifact: Artifact) -> int:
    """How many int8 values the file holds."""
    if target == "onnx":
        model = onnx.ModelProto.FromString(artifact.files[".onnx"])
        found = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
        return sum(int(np.prod(tensor.dims)) for tensor in found)
    if target == "openvino":
        read = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
        constants = [node for node in read.get_ops() if node.get_type_name() == "Constant"]
        return sum(node.get_data().size for node in constants if node.get_element_type() == openvino.Type.i8)
    tensors = tflite_flatbuffer.opened(artifact.files[".tflite"]).subgraphs[0].tensors
    return sum(int(np.prod(tensor.shape)) for tensor in tensors if tensor.type == _tensor_type("INT8"))


def _tensor_type(name: str) -> int:
    from ai_edge_litert import schema_py_generated as schema

    return int(getattr(schema.TensorType, name))


def _rounds_at_run_time() -> bool:
    """Whether OpenVINO rounds as it goes on this processor: it does where one instruction multiplies and adds int8."""
    return "INT8" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and bool(
        cpu_features().dot_product
    )
