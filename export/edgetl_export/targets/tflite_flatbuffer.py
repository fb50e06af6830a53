"""TFLite flatbuffers as objects of their schema, and back to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["drop_unused", "flatten_biases", "kind", "name_ends", "opened", "packed", "results_with_relu6"]


_WITH_BIAS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def opened(content: bytes) -> Any:
    """The model's schema object; weights that stand behind the flatbuffer, by offset, are taken into it.

    Older runtimes only find them there.
    """
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model: Any) -> bytes:
    """The flatbuffer of a schema object.

    Weights are aligned as the schema asks (force_align: 16), which the generated Python code forgets. Equal vectors are
    stored once: the zero points of per-channel weights, all zero, are a tenth of an int8 MobileNetV2.
    """
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc] # flatbuffers ships no types
        def __init__(self) -> None:
            super().__init__(1 << 20)
            self.written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:  # noqa: N802 - overrides
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                if x.dtype == np.uint8:
                    self.Prep(16, x.nbytes)
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]

    builder = Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def kind(model: Any, operator: Any) -> str:
    """Name of an operator of `model` in the schema: ``CONV_2D``."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex].builtinCode
    names: dict[int, str] = {
        value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
    }
    return names.get(code, f"operator {code}")


def results_with_relu6(content: bytes) -> set[str]:
    """Names of the tensors in a model's file that are given by an operator with a ReLU6 fused into it."""
    from ai_edge_litert import schema_py_generated as schema

    graph = opened(content).subgraphs[0]
    clips = schema.ActivationFunctionType.RELU6
    fused = [item for item in graph.operators if getattr(item.builtinOptions, "fusedActivationFunction", None) == clips]
    return {graph.tensors[int(item.outputs[0])].name.decode() for item in fused}


def name_ends(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> bool:
    """Give what goes into a model and what comes out these names, in their order; whether that changed anything.

    Tensors have names, and so have the ends of the signature, by which apps ask for them. There is one where there was
    none. An inner tensor that has one of these names gets another.
    """
    graph = model.subgraphs[0]
    ends = [*zip(map(int, graph.inputs), inputs, strict=True), *zip(map(int, graph.outputs), outputs, strict=True)]
    wanted = _signature(ends[: len(inputs)], ends[len(inputs) :])
    if _facts(model.signatureDefs) == _facts([wanted]) and all(_name(graph, at) == name for at, name in ends):
        return False
    taken, own = {name for _, name in ends}, {at for at, _ in ends}
    for index, tensor in enumerate(graph.tensors):
        if index not in own and _name(graph, index) in taken:
            tensor.name = f"{_name(graph, index)}_inside"
    for at, name in ends:
        graph.tensors[at].name = name
    model.signatureDefs = [wanted]
    return True


def _name(graph: Any, index: int) -> str:
    name = graph.tensors[index].name
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _signature(inputs: Sequence[tuple[int, str]], outputs: Sequence[tuple[int, str]]) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [], []
    for found, ends in ((inputs, signature.inputs), (outputs, signature.outputs)):
        for at, name in found:
            end = schema.TensorMapT()
            end.name, end.tensorIndex = name, at
            ends.append(end)
    return signature


def _facts(signatures: Sequence[Any] | None) -> list[list[tuple[str, int]]]:
    """The ends of each signature: names and numbers of tensors."""
    return [
        [
            (end.name.decode("utf-8", "replace") if isinstance(end.name, bytes) else end.name, int(end.tensorIndex))
            for end in (*signature.inputs, *signature.outputs)
        ]
        for signature in signatures or ()
    ]


def flatten_biases(model: Any) -> None:
    """Give biases of shape (1, ..., n) the shape (n,).

    The converter makes them of sums behind matrix products, as in ConvNeXt. Kernels in float take them, but a bias of
    integers has a scale per channel, and the quantiser then writes a file that no interpreter loads.
    """
    graph = model.subgraphs[0]
    layers = [item for item in graph.operators if kind(model, item) in _WITH_BIAS and len(item.inputs) > 2]
    biases = {int(item.inputs[2]) for item in layers}
    others = {int(index) for item in graph.operators for index in item.inputs if item not in layers}
    others |= {int(index) for item in layers for index in item.inputs[:2]}
    for index in biases - others - {-1}:
        tensor = graph.tensors[index]
        if len(tensor.shape) > 1 and tensor.shape[-1] == np.prod(tensor.shape):
            tensor.shape = np.array(tensor.shape[-1:], np.int32)


def drop_unused(model: Any) -> None:
    """Take out the tensors, operator codes and contents that nothing in the first, and only, subgraph refers to."""
    graph = model.subgraphs[0]
    lists = [graph.inputs, graph.outputs, *(part for item in graph.operators for part in (item.inputs, item.outputs))]
    tensors = _renumbered({int(index) for part in lists for index in part if index >= 0})
    codes = _renumbered({operator.opcodeIndex for operator in graph.operators})
    graph.tensors = [graph.tensors[index] for index in tensors]
    graph.inputs, graph.outputs = _mapped(graph.inputs, tensors), _mapped(graph.outputs, tensors)
    for operator in graph.operators:
        operator.inputs, operator.outputs = _mapped(operator.inputs, tensors), _mapped(operator.outputs, tensors)
        operator.opcodeIndex = codes[operator.opcodeIndex]
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    for signature in model.signatureDefs or ():
        for border in (*signature.inputs, *signature.outputs):
            border.tensorIndex = tensors[border.tensorIndex]
    kept = {tensor.buffer for tensor in graph.tensors} | {entry.buffer for entry in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in kept:
            # Its place stays: the numbers of the others are theirs.
            buffer.data = None


def _renumbered(used: set[int]) -> dict[int, int]:
    return {index: place for place, index in enumerate(sorted(used))}


def _mapped(indices: npt.NDArray[np.int32], places: dict[int, int]) -> npt.NDArray[np.int32]:
    # -1 stands for an operator's input that is left out.
    return np.array([places.get(int(index), -1) for index in indices], np.int32)
