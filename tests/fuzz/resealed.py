"""Model files that were changed and sealed anew: no hash finds them, and an engine may be asked to run them."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from typing import Any

import numpy as np
from canary import PLACES
from cases import MODELS, Case, Corpus, Generator, Kind

from edgetl_export.sealing import sealed, with_room_for_seal
from edgetl_runtime import Prediction, load
from tests import conftest as colours

__all__ = ["KINDS"]

ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 255, 2**15, 2**16 - 1, 2**31 - 1, -1, -2, -(2**31))
SECRET = b"what no bundle may read"
SEALED_TEXT = re.compile(rb'"sealed":true.*"seal":"edgetl-seal:[0-9]{12}:[0-9a-f]{64}"', re.DOTALL)


def resealed(corpus: Corpus, target: str, contents: dict[str, bytes], rng: Generator) -> Case:
    """Load `contents`, the changed files of `target`, from a bundle whose manifest has their hashes, or alone."""
    raw = json.loads(json.dumps(corpus.raw))
    variant = next(item for item in raw["variants"] if item["id"] == f"{target}.fp32")
    variant["files"] = [dataclasses.asdict(colours.entry(name, content)) for name, content in contents.items()]
    (manifest,) = sealed([with_room_for_seal(json.dumps(raw)).encode()])
    alone, verify = bool(rng.integers(4) == 0), bool(rng.integers(2))

    def act() -> Prediction:
        folder = corpus.folder({**contents, "manifest.json": manifest, "secret": SECRET * 8})
        path = folder / MODELS[target] if alone else folder
        # Alone it has its old seal.
        with load(path, variant=f"{target}.fp32", threads=1, verify=verify and not alone) as classifier:
            return classifier.predict(corpus.photo)

    # It is another model: any label may come out, but no photo has none.
    return Case(act, lambda found: None if found.scores else "no label", "either", dict(contents))


def tflite_fields(corpus: Corpus, rng: Generator) -> Case:
    """A flatbuffer with a few numbers in front of its manifest replaced by others that stand in it, or odd ones."""
    path = MODELS["tflite"]
    content = bytearray(corpus.files[path])
    found = SEALED_TEXT.search(content)
    end = len(content)
    spared = range(found.start(), found.end()) if found else range(0)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        width, code = ((4, "<i"), (4, "<i"), (2, "<h"), (1, "<b"))[int(rng.integers(4))]
        place = int(rng.integers(8, end - width)) // width * width
        while place in spared or place + width in spared:
            place = int(rng.integers(8, end - width)) // width * width
        old = struct.unpack_from(code, content, place)[0]
        near = [old + 1, old - 1, old + 4, old - 4, old * 2, -old, int(rng.integers(0, 40))]
        value = int([*near, *ODD_NUMBERS][int(rng.integers(len(near) + len(ODD_NUMBERS)))])
        bits = 8 * width
        value = (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        struct.pack_into(code, content, place, value)
    return resealed(corpus, "tflite", {path: bytes(content)}, rng)


def tflite_tables(corpus: Corpus, rng: Generator) -> Case:
    """A whole flatbuffer whose numbers make no sense: indices, shapes, codes, options."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    path = MODELS["tflite"]
    model: Any = schema.ModelT.InitFromPackedBuf(corpus.files[path])
    graph = model.subgraphs[0]
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        operator = graph.operators[int(rng.integers(len(graph.operators)))] if graph.operators else None
        tensor = graph.tensors[int(rng.integers(len(graph.tensors)))] if graph.tensors else None
        number = int(rng.choice([*ODD_NUMBERS, *range(8)]))
        match int(rng.integers(0, 12)):
            case 0 if operator is not None:
                operator.inputs = [number if rng.integers(2) else int(value) for value in operator.inputs]
            case 1 if operator is not None:
                operator.outputs = [number]
            case 2 if operator is not None:
                operator.opcodeIndex = abs(number) % 2**31
            case 3 if operator is not None:
                operator.inputs = list(operator.inputs)[: int(rng.integers(0, 3))]
            case 4 if tensor is not None:
                tensor.buffer = abs(number) % 2**31
            case 5 if tensor is not None:
                tensor.shape = [int(rng.choice([number, 1, 3, 4, 24])) for _ in range(int(rng.integers(0, 6)))]
            case 6 if tensor is not None:
                tensor.type = abs(number) % 20
            case 7:
                graph.inputs = [number]
            case 8:
                graph.outputs = [number] * int(rng.integers(0, 3))
            case 9 if graph.operators:
                del graph.operators[int(rng.integers(len(graph.operators)))]
            case 10 if graph.tensors:
                del graph.tensors[int(rng.integers(len(graph.tensors)))]
            case _:
                code = model.operatorCodes[int(rng.integers(len(model.operatorCodes)))]
                code.builtinCode = code.deprecatedBuiltinCode = int(rng.integers(0, 127))
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return resealed(corpus, "tflite", {path: bytes(builder.Output())}, rng)


def onnx_external(corpus: Corpus, rng: Generator) -> Case:
    """External data somewhere in an ONNX file: refused, whatever it points to."""
    import onnx

    path = MODELS["onnx"]
    model = onnx.ModelProto.FromString(corpus.files[path])
    tensor = onnx.numpy_helper.from_array(np.zeros(int(rng.integers(1, 3000)), np.float32), "elsewhere")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = ["secret", "../secret", "../../../../etc/passwd", "/etc/passwd", "model.fp32.onnx", "/dev/zero"]
    places += [f"../../{place}" for place in PLACES]
    tensor.external_data.add(key="location", value=str(rng.choice(places)))
    if rng.integers(2):
        tensor.ClearField("raw_data")
        tensor.external_data.add(key="offset", value=str(int(rng.choice([0, 4096, -1, 2**40]))))
    graph = model.graph
    for _ in range(int(rng.integers(0, 3))):  # deeper and deeper
        inner = onnx.helper.make_graph([], "inner", [], [])
        graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner))
        graph = graph.node[-1].attribute[0].g
    match int(rng.integers(0, 5)):
        case 0:
            graph.initializer.append(tensor)
        case 1:
            graph.node.append(onnx.helper.make_node("Constant", [], ["e"], value=tensor))
        case 2:
            graph.sparse_initializer.add().values.CopyFrom(tensor)
        case 3:
            graph.sparse_initializer.add().indices.CopyFrom(tensor)
        case _:
            node = onnx.helper.make_node("Constant", [], ["e"], value=tensor)
            model.functions.append(onnx.helper.make_function("own", "f", [], ["e"], [node], []))
    case = resealed(corpus, "onnx", {path: model.SerializeToString()}, rng)
    return dataclasses.replace(case, must="error")


def onnx_bytes(corpus: Corpus, rng: Generator) -> Case:
    """An ONNX file with bytes changed outside of its manifest."""
    path = MODELS["onnx"]
    content = bytearray(corpus.files[path])
    found = SEALED_TEXT.search(content)
    for _ in range(int(rng.choice([1, 1, 2, 8]))):
        place = int(rng.integers(0, found.start() if found else len(content)))
        content[place] = int(rng.choice([content[place] ^ (1 << int(rng.integers(8))), rng.integers(256), 0, 255]))
    return resealed(corpus, "onnx", {path: bytes(content)}, rng)


def openvino_offsets(corpus: Corpus, rng: Generator) -> Case:
    """An IR whose weights lie elsewhere, or whose attributes are others."""
    path = MODELS["openvino"]
    weights = path.replace(".xml", ".bin")
    text = corpus.files[path]
    pattern = rb'(?:offset|size)="(\d+)"' if rng.integers(2) else rb'"(-?\d+)"'
    places = list(re.finditer(pattern, text))
    for _ in range(int(rng.choice([1, 1, 2]))):
        place = places[int(rng.integers(len(places)))]
        old = int(place[1])
        values = [old + 1, old - 1, old + 4, 2 * old, 0, -1, 2**31, 2**32, 2**63, 2**64 - 8, 2**64, 10**30]
        value = str(values[int(rng.integers(len(values)))]).encode()
        text = text[: place.start(1)] + value + text[place.end(1) :]
        places = list(re.finditer(pattern, text))
    if rng.integers(6) == 0:
        entity = f'<!DOCTYPE net [<!ENTITY e SYSTEM "{rng.choice(PLACES)}">]>'
        text = re.sub(rb'name="[^"&]*"', b'name="&e;"', text, count=int(rng.integers(1, 4)))
        text = text.replace(b"<net", entity.encode() + b"<net", 1)
    content = corpus.files[weights]
    if rng.integers(3) == 0:
        content = content[: int(rng.integers(len(content)))]
    return resealed(corpus, "openvino", {path: text, weights: content}, rng)


KINDS: dict[str, Kind] = {
    f"resealed/{kind.__name__}": kind
    for kind in (tflite_fields, tflite_tables, onnx_external, onnx_bytes, openvino_offsets)
}
