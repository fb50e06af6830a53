"""Faults planted in one layer of a variant's file, in each format; hashes and seals are renewed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetl_export.bundle_writer import write_manifest
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.manifest import FileEntry

Weights = npt.NDArray[Any]
ChangedPredictions = Callable[[Weights], Weights]


def flipped(weights: Weights) -> Weights:
    """Every second output channel (first axis) negated."""
    signs = np.where(np.arange(len(weights)) % 2, 1, -1).astype(weights.dtype)
    return weights * signs.reshape(-1, *[1] * (weights.ndim - 1))


def plant_in_layer(bundle: Path, variant_id: str, place: int, damage: ChangedPredictions) -> None:
    """`damage` the weights of the convolution or matrix product number `place`, from 0, of a variant's file.

    The weights are as they are stored, output channels first.
    """
    opened = open_bundle(bundle)
    variant = opened.manifest.variant(variant_id)
    paths = [bundle / entry.path for entry in variant.files]
    {"onnx": _in_onnx, "tflite": _in_tflite, "openvino": _in_openvino}[variant.target](paths, place, damage)
    renew(bundle, variant_id)


def renew(bundle: Path, variant_id: str) -> None:
    """Let the manifest record the files of a variant as they are now."""
    manifest = open_bundle(bundle).manifest
    variants = []
    for variant in manifest.variants:
        if variant.id == variant_id:
            contents = {entry.path: (bundle / entry.path).read_bytes() for entry in variant.files}
            entries = [FileEntry(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in contents.items()]
            variant = dataclasses.replace(variant, files=tuple(entries))
        variants.append(variant)
    write_manifest(bundle, dataclasses.replace(manifest, variants=tuple(variants)))


def _in_onnx(paths: list[Path], place: int, damage: ChangedPredictions) -> None:
    import onnx

    model = onnx.load(paths[0])
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    node = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")][place]
    name = node.input[1]
    while name not in constants:
        name = makers[name].input[0]
    tensor = constants[name]
    changed = np.ascontiguousarray(damage(onnx.numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, paths[0])


def _in_tflite(paths: list[Path], place: int, damage: ChangedPredictions) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from edgetl_export.targets import tflite_flatbuffer

    model = tflite_flatbuffer.opened(paths[0].read_bytes())
    graph = model.subgraphs[0]
    weighted = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    operator = [item for item in graph.operators if tflite_flatbuffer.kind(model, item) in weighted][place]
    tensor = graph.tensors[operator.inputs[1]]
    dtype = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT8: np.int8}[tensor.type]
    values = model.buffers[tensor.buffer].data.view(dtype).reshape(tensor.shape)
    axis = -1 if tflite_flatbuffer.kind(model, operator) == "DEPTHWISE_CONV_2D" else 0
    changed = np.moveaxis(damage(np.moveaxis(values.copy(), axis, 0)), 0, axis)
    model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(changed).tobytes(), np.uint8)
    paths[0].write_bytes(tflite_flatbuffer.packed(model))


def _in_openvino(paths: list[Path], place: int, damage: ChangedPredictions) -> None:
    import openvino

    model = openvino.Core().read_model(paths[0])
    weighted = ("Convolution", "GroupConvolution", "MatMul")
    node = [node for node in model.get_ordered_ops() if node.get_type_name() in weighted][place]
    source = node.input_value(1).get_node()
    while source.get_type_name() != "Constant":
        source = source.input_value(0).get_node()
    changed = openvino.op.Constant(np.ascontiguousarray(damage(np.array(source.data))))
    source.output(0).replace(changed.output(0))
    written = paths[0].with_name("changed.xml")
    openvino.save_model(model, written, compress_to_fp16=False)
    for path in paths:
        written.with_suffix(path.suffix).replace(path)
