"""What a model file may make its engine do is checked before the engine sees it, wherever the file comes from."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl_export.sealing import sealed, with_room_for_seal
from edgetl_runtime import BundleError, EngineError, load, open_bundle
from edgetl_runtime.modelcheck import check_model
from tests.conftest import CROP, FILES, base_manifest, colour_weights, entry, onnx_model, reference_logits

ONNX = FILES["onnx"]


def replace_model(folder: Path, content: bytes, path: str = ONNX) -> None:
    """Put `content` into a bundle folder and seal all anew, as one who means harm does."""
    raw = json.loads((folder / "manifest.json").read_text())
    for variant in raw["variants"]:
        for place, file in enumerate(variant["files"]):
            if file["path"] == path:
                variant["files"][place] = dataclasses.asdict(entry(path, content))
    raw = {key: value for key, value in raw.items() if key not in ("sealed", "seal")}
    (folder / path).write_bytes(content)
    (text,) = sealed([with_room_for_seal(json.dumps(raw, indent=1)).encode()])
    (folder / "manifest.json").write_bytes(text)


def sealed_onnx(change: Callable[[Any], None]) -> bytes:
    """The colours' ONNX file after `change`, sealed."""
    onnx = pytest.importorskip("onnx")
    text = with_room_for_seal(base_manifest().embedded("onnx.fp32").to_json(compact=True))
    model = onnx.ModelProto.FromString(onnx_model(text))
    change(model)
    (content,) = sealed([model.SerializeToString()])
    return content


def external(tensor: Any, place: str = "../../secret") -> None:
    """Make `tensor` refer to another file."""
    onnx = pytest.importorskip("onnx")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)


def float_tensor(name: str = "elsewhere") -> Any:
    onnx = pytest.importorskip("onnx")
    return onnx.numpy_helper.from_array(np.zeros(4, np.float32), name)


def external_tensor(name: str = "elsewhere") -> Any:
    tensor = float_tensor(name)
    external(tensor)
    return tensor


def in_initializer(model: Any) -> None:
    external(model.graph.initializer[1])


def in_large_initializer(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros(5000, np.float32), "large")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    model.graph.initializer.append(tensor)


def in_attribute(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=external_tensor()))


def in_list_of_tensors(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Custom", [], ["c"])
    node.attribute.append(onnx.helper.make_attribute("many", [float_tensor(), external_tensor()]))
    model.graph.node.append(node)


def in_sub_graph(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    inner = onnx.helper.make_graph([], "inner", [], [], [external_tensor()])
    outer = onnx.helper.make_graph(
        [onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "o", [], []
    )
    node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=outer)
    model.graph.node.append(node)


def in_list_of_graphs(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Custom", [], ["c"])
    inner = onnx.helper.make_graph([], "inner", [], [], [external_tensor()])
    node.attribute.append(onnx.helper.make_attribute("many", [inner]))
    model.graph.node.append(node)


def in_function(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Constant", [], ["c"], value=external_tensor())
    model.functions.append(onnx.helper.make_function("own", "f", [], ["c"], [node], []))


def in_default_of_function(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    function = onnx.helper.make_function("own", "f", [], [], [], [])
    function.attribute_proto.append(onnx.helper.make_attribute("value", external_tensor()))
    model.functions.append(function)


def in_sparse_values(model: Any) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(external_tensor())


def in_sparse_indices(model: Any) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(float_tensor())
    sparse.indices.CopyFrom(external_tensor("indices"))


def in_sparse_attribute(model: Any) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(external_tensor())
    model.graph.node.append(node)


def in_training_info(model: Any) -> None:
    model.training_info.add().initialization.initializer.append(external_tensor())


def in_training_algorithm(model: Any) -> None:
    model.training_info.add().algorithm.initializer.append(external_tensor())


def in_compiled_part(model: Any) -> None:
    """Providers read the file that such a node names."""
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("EPContext", [], ["c"], domain="com.microsoft", ep_cache_context="../../secret")
    model.graph.node.append(node)


PLACES = [value for name, value in list(globals().items()) if name.startswith("in_")]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("kind", ["folder", "zip", "file"])
def test_onnx_that_reads_another_file_is_refused(
    place: Callable[[Any], None], kind: str, bundle_path: Path, zip_bundle: Callable[..., Path]
) -> None:
    replace_model(bundle_path, sealed_onnx(place))
    path = {"folder": bundle_path, "zip": None, "file": bundle_path / ONNX}[kind] or zip_bundle(bundle_path)
    for verify in (True, False):
        with pytest.raises(BundleError, match=r"model\.fp32\.onnx would read another file") as raised:
            load(path, variant="onnx.fp32", verify=verify)
        assert raised.value.fix
    with pytest.raises(BundleError, match="would read another file"):
        open_bundle(path).check()


def test_the_error_names_tensor_and_file(bundle_path: Path) -> None:
    replace_model(bundle_path, sealed_onnx(in_initializer))
    with pytest.raises(BundleError, match=r"tensor 'bias' is external data in '\.\./\.\./secret'"):
        load(bundle_path, variant="onnx.fp32")


def test_other_spellings_of_external_data_are_refused() -> None:
    """Numbers of protobuf may be longer than they have to be, and a field may come twice: the last one counts."""
    onnx = pytest.importorskip("onnx")
    tensor = external_tensor()
    tensor.ClearField("data_location")
    body = tensor.SerializeToString()
    spellings = [b"\x70\x01", b"\xf0\x00\x01", b"\x70\x81\x80\x00", b"\x70\x00\x70\x01", b"\x70\x01\x70\x00"]
    for spelling in spellings:
        graph = b"\x2a" + _length(len(body + spelling)) + body + spelling
        # Twice: readers join the two graphs.
        model = b"\x3a\x00\x3a" + _length(len(graph)) + graph
        assert len(onnx.ModelProto.FromString(model).graph.initializer) == 1
        with pytest.raises(BundleError, match="would read another file"):
            check_model("onnxruntime", model, None, where="here")
    # Field 14 for readers that keep 32 bits of a tag.
    body += b"\xf0\x80\x80\x80\x10\x01"
    graph = b"\x2a" + _length(len(body)) + body
    with pytest.raises(EngineError, match=r"here is damaged|would read another file"):
        check_model("onnxruntime", b"\x3a" + _length(len(graph)) + graph, None, where="here")


def _length(size: int) -> bytes:
    assert size < 2**14
    return bytes([size & 0x7F | 0x80, size >> 7])


def test_the_word_location_alone_is_no_external_data() -> None:

    def change(model: Any) -> None:
        model.graph.node[0].name = "location/EPContext"
        model.graph.initializer[0].doc_string = "location"
        model.metadata_props.add(key="location", value="here")

    check_model("onnxruntime", sealed_onnx(change), None, where="here")


def test_large_networks_are_read_quickly() -> None:
    """200,000 nodes, as many tensors, and attributes with long lists are no damage."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    numbers = helper.make_node("Constant", [], ["numbers"], value_ints=list(range(300_000)))
    names = helper.make_tensor("names", onnx.TensorProto.STRING, [150_000], [b"location"] * 150_000)
    part = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], name="features.1.conv")]
    graph = helper.make_graph(part * 200_000, "large", [], [], [float_tensor()] * 200_000)
    graph.node.append(numbers)
    graph.initializer.append(names)
    content = helper.make_model(graph).SerializeToString()
    start = time.perf_counter()
    check_model("onnxruntime", content, None, where="here")
    assert time.perf_counter() - start < 10.0  # half a second alone


def test_fields_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetl_runtime.modelcheck._MOST_FIELDS", 100_000)
    graph = b"\x0a\x00" * 120_000
    with pytest.raises(EngineError, match="more than 100000 fields"):
        check_model("onnxruntime", b"\x3a" + _long(len(graph)) + graph, None, where="here")


def _long(value: int) -> bytes:
    """`value` as protobuf writes it, in five bytes."""
    return bytes([*(value >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21)), value >> 28])


SWAPPED = {"onnx": ONNX, "tflite": FILES["tflite"], "openvino": FILES["openvino"].replace(".xml", ".bin")}


def swapped(content: bytes) -> bytes:
    """A model file of the colours with the numbers of another network in it, as long as it was."""
    _, bias = colour_weights()
    other = content.replace(bias.tobytes(), bias[::-1].tobytes())
    assert other != content
    return other


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("target", SWAPPED)
def test_what_is_loaded_is_what_was_read(
    target: str, verify: bool, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is exchanged as soon as it was opened once."""
    path = bundle_path / SWAPPED[target]
    other, real = swapped(path.read_bytes()), open
    tensor = np.random.default_rng(0).integers(0, 256, (1, *CROP, 3), np.uint8)
    opened: list[str] = []

    def open_and_swap(file: Any, *args: Any, **options: Any) -> Any:
        handle = real(file, *args, **options)
        if str(file) == str(path):
            opened.append(str(file))
            path.unlink()
            path.write_bytes(other)
        return handle

    monkeypatch.setattr("builtins.open", open_and_swap)
    with load(bundle_path, variant=f"{target}.fp32", verify=verify) as classifier:
        np.testing.assert_allclose(classifier.run({"image": tensor})["logits"], reference_logits(tensor), rtol=1e-4)
    assert len(opened) == 1
    with pytest.raises(BundleError, match="is not the file that was exported"):
        load(bundle_path, variant=f"{target}.fp32")


@pytest.mark.parametrize("target", SWAPPED)
def test_while_a_file_is_rewritten_nothing_else_runs(target: str, bundle_path: Path) -> None:
    """Another thread writes the one and the other content into the file, over and over."""
    path = bundle_path / SWAPPED[target]
    contents = [path.read_bytes(), swapped(path.read_bytes())]
    tensor = np.random.default_rng(0).integers(0, 256, (1, *CROP, 3), np.uint8)
    done = threading.Event()

    def rewrite() -> None:
        while not done.is_set():
            for content in contents:
                with path.open("r+b") as file:
                    file.write(content)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(40):
            with suppress(BundleError), load(bundle_path, variant=f"{target}.fp32", threads=1) as classifier:
                logits = classifier.run({"image": tensor})["logits"]
                np.testing.assert_allclose(logits, reference_logits(tensor), rtol=1e-4)
    finally:
        done.set()
        writer.join()
    path.write_bytes(contents[0])
    load(bundle_path, variant=f"{target}.fp32").close()


@pytest.mark.parametrize(
    "number", ["0x10", "0xfffffffffffffff8", "1e3", "16.0", "+16", "-8", " 16", "1_6", "\uff11\uff16", "16x", ""]
)
@pytest.mark.parametrize("which", ["offset", "size"])
def test_weights_of_openvino_lie_at_plain_numbers(number: str, which: str) -> None:
    """Another reader may take it for another number than Python does."""
    numbers = {"offset": "16", "size": "16"}
    text = '<?xml version="1.0" encoding="utf-8"?><net><data offset="{offset}" size="{size}"/></net>'
    check_model("openvino", text.format(**numbers).encode(), bytes(32), where="x")
    with pytest.raises(EngineError, match="weights at"):
        check_model("openvino", text.format(**numbers | {which: number}).encode(), bytes(32), where="x")
