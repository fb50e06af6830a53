"""ONNX: fp32 by the dynamo exporter, fp16 and w8 as smaller weights, int8 as QDQ from the shared ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import torch

from edgetl_export.artifact import Artifact
from edgetl_export.capture import BATCH_NAME, Captured
from edgetl_export.quantize.quantization import Quantized
from edgetl_export.sealing import with_room_for_seal
from edgetl_export.targets.onnx_opset import lowered
from edgetl_export.targets.onnx_qdq import quantize_qdq
from edgetl_export.targets.onnx_weights import multiply_dynamically, round_weights
from edgetl_export.targets.summaries import weight_summary
from edgetl_runtime.errors import ExportError
from edgetl_runtime.manifest import METADATA_KEY

__all__ = ["OnnxTarget", "half_weights"]


_OLDEST_EXPORTED = 18
"""The oldest operator set that PyTorch's exporter writes of itself."""


class OnnxTarget:
    """Writes ``.onnx`` files for ONNX Runtime and everything else that reads them."""

    def __init__(self, opset: int | None = None) -> None:
        """`opset` is the operator set of the files, by default the exporter's."""
        self._opset = opset
        self._converted: dict[Captured, onnx.ModelProto] = {}

    def write(self, captured: Captured, precision: str) -> Artifact:
        """fp32, fp16 as half-precision weights, w8 and dynamic as int8 weights."""
        model = self._float(captured)
        if precision == "fp32":
            return _artifact(model)
        if precision == "fp16":
            return _artifact(half_weights(model))
        if precision == "w8":
            return _artifact(round_weights(model), weight_summary(precision))
        if precision == "dynamic":
            return _artifact(multiply_dynamically(model), weight_summary(precision, "uint8, matrix products only"))
        raise ExportError(f"onnx cannot be written at precision {precision!r}")

    def quantize(self, quantized: Quantized, precision: str = "int8", *, io: str = "float") -> Artifact:
        """int8 as QuantizeLinear / DequantizeLinear pairs."""
        if (precision, io) != ("int8", "float"):
            raise ExportError(f"onnx cannot be written at precision {precision!r} with {io} borders")
        written = quantize_qdq(self._float(quantized.captured), quantized)
        summary = quantized.quantization.summary()
        return _artifact(written.model, {**summary, "activations": "uint8", "float_operators": written.float_operators})

    def _float(self, captured: Captured) -> onnx.ModelProto:
        if captured not in self._converted:
            if self._opset is None:
                self._converted[captured] = _exported(captured)
            else:
                exported = _exported(captured, opset=max(self._opset, _OLDEST_EXPORTED))
                self._converted[captured] = lowered(exported, self._opset)
        return self._converted[captured]

    def embed(self, artifact: Artifact, manifest_json: str) -> Artifact:
        """The manifest as an entry of metadata_props, sealed."""
        model = onnx.ModelProto.FromString(artifact.files[".onnx"])
        kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=METADATA_KEY, value=with_room_for_seal(manifest_json))
        return replace(artifact, files=_artifact(model).files).sealed()


def _artifact(model: onnx.ModelProto, quantization: dict[str, object] | None = None) -> Artifact:
    return Artifact({".onnx": model.SerializeToString()}, quantization)


def _exported(captured: Captured, *, opset: int | None = None) -> onnx.ModelProto:
    program = torch.onnx.export(
        captured.program,
        (),
        dynamo=True,
        opset_version=opset,
        input_names=[captured.input.name],
        output_names=[captured.output.name, *map(_placeholder, range(len(captured.all_outputs) - 1))],
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = _with_batch_named(_without_detours(_without_traces(program.model_proto)))
    decoded_from = captured.source.outputs if captured.source.decodings else ()
    return _with_names(model, [output.name for output in captured.all_outputs[1:]], decoded_from)


def _placeholder(index: int) -> str:
    """A name that no tensor inside has: the exporter does not look whether one is taken."""
    return f"output_{index}_of_the_network"


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter notes the stack of every node, with the paths of this machine: nothing that a device needs."""
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


def _without_detours(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pooling without the exporter's as_strided behind it: a reshape to a row and a gather of all of it in order.

    It moves nothing, but makes integer engines change layouts twice.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    same: dict[str, str] = {}
    for gather in model.graph.node:
        row = makers.get(gather.input[0]) if gather.op_type == "Gather" else None
        indices = constants.get(gather.input[1]) if row is not None and row.op_type == "Reshape" else None
        if row is None or indices is None or shapes.get(row.output[0]) != [indices.size]:
            continue
        in_order = np.array_equal(indices.ravel(), np.arange(indices.size))
        if in_order and shapes.get(row.input[0]) == list(indices.shape):
            same[gather.output[0]] = row.input[0]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    return _pruned(model)


def _with_batch_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A free batch has the name that people look for, instead of the exporter's symbol."""
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info) if symbol else ():
        for length in value.type.tensor_type.shape.dim:
            if length.dim_param == symbol:
                length.dim_param = BATCH_NAME
    return model


def _with_names(model: onnx.ModelProto, names: Sequence[str], decoded_from: Sequence[str]) -> onnx.ModelProto:
    """The outputs behind the first called `names`; one that other operators read too becomes a copy.

    What is done to the tensor inside then leaves the output alone. What others are `decoded_from` is what is given: no
    copy. A tensor inside that has such a name gets another.
    """
    read = {name for node in model.graph.node for name in node.input}
    renamed = {name: f"{name}_inside" for name in names}
    for output, name in zip(model.graph.output[1:], names, strict=True):
        if output.name in read and name not in decoded_from:
            copying = onnx.helper.make_node("Identity", [output.name], [f"{name}_copy"], f"{name}_output")
            model.graph.node.append(copying)
            renamed[f"{name}_copy"] = name
        else:
            renamed[output.name] = name
        output.name = name
    for node in model.graph.node:
        for places in (node.input, node.output):
            places[:] = [renamed.get(name, name) for name in places]
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.name = renamed.get(value.name, value.name)
    return model


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without nodes that nothing reads."""
    needed = {output.name for output in model.graph.output}
    for node in reversed(list(model.graph.node)):
        if needed.isdisjoint(node.output):
            model.graph.node.remove(node)
        else:
            needed.update(node.input)
    return model


def half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of matrix products and dense convolutions stored as float16 with a Cast behind them.

    The engine folds the casts when it loads and computes as it prefers. Half the size, and no activation can
    overflow, as it can when the arithmetic itself is forced to half precision. Biases and depthwise kernels stay
    float32: they are 2 % of a MobileNetV2, and one depthwise kernel whose large weights cancel cost 14 dB of it.
    TFLite's and OpenVINO's fp16 files mean the same.
    """
    converted = ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    graph = converted.graph
    casts: list[ir.Node] = []
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) < 2 or _depthwise(value):
            continue
        weights = tensor.numpy()
        with np.errstate(over="ignore"):
            halved = weights.astype(np.float16)
        if not np.isfinite(halved).all():
            raise ExportError(
                f"weight {name!r} reaches {np.abs(weights).max():.3g}, beyond what float16 holds",
                fix="leave fp16 out of --precisions",
            )
        half = ir.Value(
            name=f"{name}_fp16",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.Tensor(halved, name=f"{name}_fp16"),
        )
        cast = ir.node("Cast", inputs=[half], attributes={"to": ir.DataType.FLOAT})
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
        graph.initializers[f"{name}_fp16"] = half
        casts.append(cast)
    graph.insert_before(graph[0], casts)
    halved_model: onnx.ModelProto = ir.to_proto(converted)
    return halved_model


def _depthwise(weights: ir.Value) -> bool:
    for node in weights.consumers():
        group = node.attributes.get("group")
        if node.op_type == "Conv" and group is not None and group.as_int() > 1:
            return True
    return False
