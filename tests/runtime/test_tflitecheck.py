"""A TFLite file that does not hold together is refused before LiteRT, which trusts every index in it, gets it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl_runtime import BundleError, EngineError, open_bundle
from edgetl_runtime.binary import DamagedFile
from edgetl_runtime.tflitecheck import check_tflite
from tests.conftest import FILES, tflite_model
from tests.runtime.test_modelcheck import replace_model

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")
TFLITE = FILES["tflite"]
WHILE = 119


def changed(change: Callable[[Any], object]) -> bytes:
    """The colours' file after `change`."""
    model = schema.ModelT.InitFromPackedBuf(tflite_model("{}"))
    change(model)
    return packed(model)


def packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def set_(place: str, value: Any) -> Callable[[Any], None]:
    """``set_("operators[0].inputs", [9])``: a change in the first subgraph."""

    def change(model: Any) -> None:
        exec(f"graph.{place} = value", {"graph": model.subgraphs[0], "value": value})

    return change


def no_subgraph(model: Any) -> None:
    model.subgraphs = []


def signature(tensor: int, graph: int = 0, key: bytes | None = b"run", name: bytes | None = b"x") -> Any:
    def change(model: Any) -> None:
        made, entry = schema.SignatureDefT(), schema.TensorMapT()
        entry.name, entry.tensorIndex = name, tensor
        made.inputs, made.outputs, made.signatureKey, made.subgraphIndex = [entry], [entry], key, graph
        model.signatureDefs = [made]

    return change


def metadata_buffer(model: Any) -> None:
    model.metadata[0].buffer = 99


def buffer_behind_the_end(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 2**40, 10


def scales(model: Any) -> None:
    found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint, found.quantizedDimension = [1.0, 2.0], [0, 0], 0
    model.subgraphs[0].tensors[4].quantization = found


def scales_along(model: Any) -> None:
    scales(model)
    model.subgraphs[0].tensors[4].quantization.quantizedDimension = 7


def swapped_operators(model: Any) -> None:
    model.subgraphs[0].operators.reverse()


def calls(body: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        code, operator, options = schema.OperatorCodeT(), schema.OperatorT(), schema.WhileOptionsT()
        code.builtinCode = code.deprecatedBuiltinCode = WHILE
        options.condSubgraphIndex, options.bodySubgraphIndex = body, body
        operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), [], []
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.WhileOptions, options
        model.operatorCodes.append(code)
        model.subgraphs[0].operators.append(operator)

    return change


def kind(code: int) -> Callable[[Any], None]:
    """Another kind of operator, which takes another number of inputs: LiteRT would end the process."""

    def change(model: Any) -> None:
        model.operatorCodes[2].builtinCode = model.operatorCodes[2].deprecatedBuiltinCode = code

    return change


def split(model: Any) -> None:
    kind(49)(model)
    operator = model.subgraphs[0].operators[2]
    operator.inputs = [2, 3]
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.SplitOptions,
        schema.SplitOptionsT(),
    )
    operator.builtinOptions.numSplits = 3


DAMAGED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no subgraph": (no_subgraph, "0 subgraphs"),
    "input": (set_("operators[1].inputs", [1, 99]), "input of an operator"),
    "negative input": (set_("operators[1].inputs", [1, -2]), "input of an operator"),
    "first input left out": (set_("operators[2].inputs", [-1, 4, 5]), "input of an operator"),
    "second input left out": (set_("operators[2].inputs", [3, -1, 5]), "input of an operator"),
    "output": (set_("operators[1].outputs", [7]), "output of an operator"),
    "negative output": (set_("operators[1].outputs", [-1]), "output of an operator"),
    "output is a constant": (set_("operators[1].outputs", [4]), "not its own"),
    "output is the input": (set_("operators[1].outputs", [0]), "not its own"),
    "two write it": (set_("operators[1].outputs", [1]), "not its own"),
    "intermediate": (set_("operators[1].intermediates", [70]), "intermediate"),
    "code": (set_("operators[0].opcodeIndex", 3), "code of an operator"),
    "buffer": (set_("tensors[4].buffer", 99), "buffer of a tensor"),
    "no weights": (set_("tensors[4].buffer", 0), "nothing has written"),
    "order": (swapped_operators, "nothing has written"),
    "graph's input": (set_("inputs", [70]), "input of a subgraph"),
    "graph's output": (set_("outputs", [-1]), "output of a subgraph"),
    "graph's output is never written": (set_("operators", []), "nothing has written"),
    "negative size": (set_("tensors[1].shape", [1, -24, 32, 3]), "size that none has"),
    "enormous size": (set_("tensors[1].shape", [2**31 - 1] * 4), "size that none has"),
    "dimensions": (set_("tensors[1].shape", [1] * 40), "dimensions"),
    "metadata": (metadata_buffer, "buffer of metadata"),
    "data behind the end": (buffer_behind_the_end, "buffer leads out"),
    "scales": (scales, "scales than channels"),
    "scales along": (scales_along, "quantized dimension"),
    "strided slice": (kind(45), "inputs or outputs than its kind"),
    "split": (split, "inputs or outputs than its kind"),
    "batch matmul": (kind(126), "inputs or outputs than its kind"),
    "runs itself": (calls(0), "runs itself"),
    "runs nothing": (calls(5), "subgraph of an operator"),
    "signature's tensor": (signature(70), "tensor of a signature"),
    "signature's graph": (signature(0, graph=4), "subgraph of a signature"),
    "signature without a key": (signature(0, key=None), "no name"),
    "signature without a name": (signature(0, name=None), "no name"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_does_not_hold_together_is_refused(damage: str, bundle_path: Path) -> None:
    change, message = DAMAGED[damage]
    replace_model(bundle_path, changed(change), TFLITE)
    for verify in (True, False):
        with pytest.raises(EngineError, match=f"model.fp32.tflite is damaged: .*{message}") as raised:
            open_bundle(bundle_path).session("tflite.fp32", verify=verify)
        assert "upgrade" not in str(raised.value)
    with pytest.raises(EngineError, match="is damaged"):
        open_bundle(bundle_path).check()


def test_sound_files_pass() -> None:
    assert check_tflite(changed(lambda _: None)) is None
    assert check_tflite(changed(signature(0))) is None
    # A bias may be left out; what has no elements needs no data.
    assert check_tflite(changed(set_("operators[2].inputs", [3, 4, -1]))) is None
    assert check_tflite(changed(set_("tensors[5].shape", [0]))) is None


@pytest.mark.parametrize("field", [8, 9])
def test_external_buffers_are_refused(field: int, bundle_path: Path) -> None:
    def change(model: Any) -> None:
        if not hasattr(model, "externalBuffers"):
            pytest.skip("this schema has no external buffers")
        group, buffer = schema.ExternalBufferGroupT(), schema.ExternalBufferT()
        group.name = b"../../secret"
        model.externalBufferGroups = [group] if field == 8 else None
        model.externalBuffers = [buffer] if field == 9 else None

    replace_model(bundle_path, changed(change), TFLITE)
    with pytest.raises(BundleError, match=r"would read another file: .*external buffer"):
        open_bundle(bundle_path).session("tflite.fp32")


def test_a_tensor_in_an_external_buffer_is_refused() -> None:
    def change(model: Any) -> None:
        if not hasattr(model.subgraphs[0].tensors[4], "externalBuffer"):
            pytest.skip("this schema has no external buffers")
        model.subgraphs[0].tensors[4].externalBuffer = 1

    assert check_tflite(changed(change)) == "a tensor has an external buffer"


@pytest.mark.slow
def test_no_damage_escapes_as_another_error() -> None:
    content = changed(signature(0))
    rng = np.random.default_rng(0)
    refused = 0
    for turn in range(1500):
        damaged = bytearray(content)
        if turn % 5 == 0:
            del damaged[rng.integers(8, len(damaged)) :]
        else:
            place = int(rng.integers(8, len(damaged)))
            damaged[place] = int(rng.integers(0, 256))
            if turn % 2:
                damaged[place - place % 4 : place - place % 4 + 4] = (
                    rng.choice(np.array([0, 1, 2**31 - 1, -1, -2, 2**16, len(content)], "<i8")).astype("<i4").tobytes()
                )
        try:
            check_tflite(bytes(damaged))
        except DamagedFile:
            refused += 1
    assert 300 < refused < 1475


def test_a_thousand_tensors_take_milliseconds() -> None:
    def change(model: Any) -> None:
        tensors = model.subgraphs[0].tensors
        while len(tensors) < 1000:
            tensors.append(copy.copy(tensors[len(tensors) % 7]))

    content, times = changed(change), []
    for _ in range(15):
        start = time.perf_counter()
        check_tflite(content)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # 3 ms when nothing else runs


@pytest.mark.parametrize("repeated", [4, 400_000])
def test_lists_that_lie_over_each_other_take_no_memory(repeated: int) -> None:
    """Many tensors that all have one long list as their shape: refused before it is read for each."""

    def change(model: Any) -> None:
        tensors = model.subgraphs[0].tensors
        tensors[1].shape = [1] * repeated

    start = time.perf_counter()
    content = changed(change)
    if repeated == 4:
        assert check_tflite(content) is None
    else:
        with pytest.raises(DamagedFile, match="dimensions"):
            check_tflite(content)
    assert time.perf_counter() - start < 20
