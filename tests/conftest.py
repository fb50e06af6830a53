"""A bundle small enough to write by hand: a colour classifier in three formats, with golden samples.

The model is a nearest-colour classifier in closed form: for the mean colour x of the image and the colour c of a
label, the logit is 2 c.x - |c|^2, which is -|c - x|^2 up to a term that all labels share.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgetl_runtime.engines import its_environment
from edgetl_runtime.manifest import (
    METADATA_KEY,
    FileEntry,
    Golden,
    Label,
    Manifest,
    Normalize,
    Preprocess,
    Requires,
    TensorSpec,
    Variant,
)
from edgetl_runtime.preprocess import preprocess

COLOURS = {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.7, 0.2), "blue": (0.2, 0.2, 0.8), "grey": (0.5, 0.5, 0.5)}
CROP = (24, 32)
SCALE = 10.0
ENGINES = {"onnx": "onnxruntime", "tflite": "litert", "openvino": "openvino"}
FILES = {"onnx": "onnx/model.fp32.onnx", "tflite": "tflite/model.fp32.tflite", "openvino": "openvino/model.fp32.xml"}


def colour_weights() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights (labels, 3) for mean pixels of 0..255, bias (labels,)."""
    colours = np.array(list(COLOURS.values()))
    return (SCALE * 2 * colours / 255).astype(np.float32), (-SCALE * (colours**2).sum(axis=1)).astype(np.float32)


def reference_logits(tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The original model, in float64: (n, H, W, 3) uint8 to (n, labels)."""
    weights, bias = colour_weights()
    return (tensors.mean(axis=(1, 2), dtype=np.float64) @ weights.T.astype(np.float64) + bias).astype(np.float32)


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `edgetl` sets it, before anything imports torch
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Processes beside each other, each with a thread for every core, take longer than with one thread each.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the order of `pytest_collection_modifyitems`


def pytest_collection_finish() -> None:
    """What the tests import stays: looking through millions of objects for cycles took a fifth of an export's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first: no process is left with one when the others have done all."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file in one process, those of the networks that `tests/export/conftest.py` trains all in one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "tests/export" if path.startswith("tests/export/") else path

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        torch = pytest.importorskip("torch", reason="GPU tests need torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def photo(colour: tuple[float, ...], *, seed: int, size: tuple[int, int] = (60, 48)) -> bytes:
    """A noisy picture of one colour as a PNG; `size` is (width, height)."""
    noise = np.random.default_rng(seed).normal(np.array(colour), 0.2, (size[1], size[0], 3))
    content = io.BytesIO()
    Image.fromarray((noise.clip(0, 1) * 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(path, hashlib.sha256(content).hexdigest(), len(content))


def onnx_model(manifest_json: str | None) -> bytes:
    """Cast -> ReduceMean -> Gemm."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    weights, bias = colour_weights()
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=kind.FLOAT),
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
            helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"], transB=1),
        ],
        "colours",
        [helper.make_tensor_value_info("image", kind.UINT8, [1, *CROP, 3])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, [1, len(COLOURS)])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if manifest_json is not None:
        helper.set_model_props(model, {"other": "x", METADATA_KEY: manifest_json})
    return bytes(model.SerializeToString())


def openvino_model(manifest_json: str | None, folder: Path) -> tuple[bytes, bytes]:
    """The ONNX model as IR: .xml and .bin."""
    openvino = pytest.importorskip("openvino")
    source = folder / "source.onnx"
    source.write_bytes(onnx_model(None))
    with its_environment("openvino"):  # or it is reported
        model = openvino.convert_model(source)
    if manifest_json is not None:
        model.set_rt_info(manifest_json, METADATA_KEY)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return (folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes()


def tflite_model(manifest_json: str | None) -> bytes:
    """CAST -> MEAN -> FULLY_CONNECTED, written with the schema's own classes."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    weights, bias = colour_weights()
    model = schema.ModelT()
    model.version, model.description, model.buffers = 3, "colours", [schema.BufferT()]

    def tensor(name: bytes, shape: tuple[int, ...], kind: int, data: npt.NDArray[np.generic] | None = None) -> int:
        item = schema.TensorT()
        item.name, item.shape, item.type, item.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            item.buffer = len(model.buffers) - 1
        graph.tensors.append(item)
        return len(graph.tensors) - 1

    def operator(builtin: int, inputs: list[int], output: int, options: tuple[int, object]) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 1
        model.operatorCodes.append(code)
        item = schema.OperatorT()
        item.opcodeIndex, item.inputs, item.outputs = len(model.operatorCodes) - 1, inputs, [output]
        item.builtinOptionsType, item.builtinOptions = options
        graph.operators.append(item)

    graph = schema.SubGraphT()
    graph.tensors, graph.operators, model.subgraphs, model.operatorCodes = [], [], [graph], []
    kinds, builtins, options = schema.TensorType, schema.BuiltinOperator, schema.BuiltinOptions
    image = tensor(b"serving_default_args_0:0", (1, *CROP, 3), kinds.UINT8)
    pixels = tensor(b"pixels", (1, *CROP, 3), kinds.FLOAT32)
    axes = tensor(b"axes", (2,), kinds.INT32, np.array([1, 2], np.int32))
    means = tensor(b"means", (1, 3), kinds.FLOAT32)
    weight = tensor(b"weights", weights.shape, kinds.FLOAT32, weights)
    biases = tensor(b"bias", bias.shape, kinds.FLOAT32, bias)
    logits = tensor(b"StatefulPartitionedCall:0", (1, len(COLOURS)), kinds.FLOAT32)
    operator(builtins.CAST, [image], pixels, (options.CastOptions, schema.CastOptionsT()))
    operator(builtins.MEAN, [pixels, axes], means, (options.ReducerOptions, schema.ReducerOptionsT()))
    dense = schema.FullyConnectedOptionsT()
    operator(builtins.FULLY_CONNECTED, [means, weight, biases], logits, (options.FullyConnectedOptions, dense))
    graph.inputs, graph.outputs = [image], [logits]
    if manifest_json is not None:
        for name, text in (("min_runtime_version", b"1.5.0"), (METADATA_KEY, manifest_json.encode())):
            buffer, metadata = schema.BufferT(), schema.MetadataT()
            buffer.data = np.frombuffer(text, np.uint8)
            model.buffers.append(buffer)
            metadata.name, metadata.buffer = name, len(model.buffers) - 1
            model.metadata = [*(model.metadata or []), metadata]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def killing(content: bytes) -> bytes:
    """A TFLite file that ends the process that loads it: besides what it does it adds integers whose scale is a million
    times that of their sum, at which TFLite's kernel aborts."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(content)
    graph, buffer = model.subgraphs[0], schema.BufferT()
    buffer.data = np.zeros(4, np.uint8)
    model.buffers.append(buffer)
    for name, scale, at in ((b"coarse", 1e4, len(model.buffers) - 1), (b"fine", 1e-2, 0)):
        tensor, grid = schema.TensorT(), schema.QuantizationParametersT()
        grid.scale, grid.zeroPoint = np.array([scale], np.float32), np.zeros(1, np.int64)
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 4], schema.TensorType.INT8, at
        tensor.quantization = grid
        graph.tensors.append(tensor)
    coarse, fine = len(graph.tensors) - 2, len(graph.tensors) - 1
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 2
    model.operatorCodes.append(code)
    operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes) - 1, [coarse, coarse], [fine]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.operators.append(operator)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def put_killer(folder: Path) -> None:
    """Let the TFLite variant of a bundle folder end the process that loads it."""
    path = folder / FILES["tflite"]
    path.write_bytes(killing(path.read_bytes()))
    raw = json.loads((folder / "manifest.json").read_text())
    for variant in raw["variants"]:
        if variant["id"] == "tflite.fp32":
            variant["files"] = [dataclasses.asdict(entry(FILES["tflite"], path.read_bytes()))]
    (folder / "manifest.json").write_text(json.dumps(raw))


@pytest.fixture
def killing_bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A bundle folder of which tflite.fp32 ends the process that loads it."""
    folder = Path(shutil.copytree(pristine_bundle, tmp_path / "killing.edgetl"))
    put_killer(folder)
    return folder


def base_manifest() -> Manifest:
    """A manifest of the three fp32 variants, without hashes."""
    return Manifest(
        name="colours",
        task="classification",
        labels=tuple(Label(id=name, name=name.title()) for name in COLOURS),
        input=TensorSpec("image", "uint8", (1, *CROP, 3), "NHWC"),
        preprocess=Preprocess(resize=28, crop=CROP),
        normalize=Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        output=TensorSpec("logits", "float32", (1, len(COLOURS))),
        variants=tuple(
            Variant(f"{target}.fp32", target, "fp32", (), Requires(engine)) for target, engine in ENGINES.items()
        ),
        provenance={"edgetl": "0.1.0"},
    )


def write_bundle(folder: Path) -> None:
    """Variants onnx.fp32, tflite.fp32, openvino.fp32, and onnx.int8, a copy of the first under another name."""
    manifest = base_manifest()
    contents: dict[str, dict[str, bytes]] = {}
    for target, path in FILES.items():
        text = manifest.embedded(f"{target}.fp32").to_json()
        if target == "openvino":
            xml, weights = openvino_model(text, folder)
            contents[target] = {path: xml, path.replace(".xml", ".bin"): weights}
        else:
            contents[target] = {path: onnx_model(text) if target == "onnx" else tflite_model(text)}
    images = [photo(colour, seed=seed) for seed in range(4) for colour in COLOURS.values()]
    tensors = np.stack([preprocess(image, manifest.preprocess) for image in images])
    expected = io.BytesIO()
    np.savez(expected, tensors=tensors, logits=reference_logits(tensors))
    golden = {f"golden/{i:02}.png": image for i, image in enumerate(images)}
    variants = [
        dataclasses.replace(variant, files=tuple(entry(*item) for item in contents[variant.target].items()))
        for variant in manifest.variants
    ]
    int8 = {"onnx/model.int8.onnx": contents["onnx"][FILES["onnx"]]}
    files = tuple(entry(*item) for item in int8.items())
    variants.append(Variant("onnx.int8", "onnx", "int8", files, Requires("onnxruntime")))
    manifest = dataclasses.replace(
        manifest,
        variants=tuple(variants),
        golden=Golden(
            len(images),
            tuple(entry(*item) for item in golden.items()),
            entry("golden/expected.npz", expected.getvalue()),
        ),
    )
    everything = {**int8, **golden, "golden/expected.npz": expected.getvalue()}
    for files_of_target in contents.values():
        everything |= files_of_target
    everything["manifest.json"] = manifest.to_json().encode()
    for path, content in everything.items():
        (folder / "bundle" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "bundle" / path).write_bytes(content)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache: a result from there would hide what a change broke."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_latencies() -> Iterator[None]:
    """Where a test says nothing of time, its variants are timed for as long as it takes to time them at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgetl.verify.options._LATENCY_SECONDS", 0.05)
        yield


@pytest.fixture(scope="session")
def pristine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle folder, written once; tests must not change it."""
    folder = tmp_path_factory.mktemp("colours")
    write_bundle(folder)
    return folder / "bundle"


def give_colours(folder: Path, *, wrong: float = 1.0) -> None:
    """Of a bundle folder leave onnx.fp32, which then gives the mean colour besides, as ``pooled``, times `wrong`."""
    onnx = pytest.importorskip("onnx")
    manifest = Manifest.from_json((folder / "manifest.json").read_bytes(), where=str(folder))
    features = (TensorSpec("pooled", "float32", (1, 3)),)
    manifest = dataclasses.replace(manifest, features=features, variants=manifest.variants[:1])
    model = onnx.ModelProto.FromString(onnx_model(manifest.embedded("onnx.fp32").to_json()))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(wrong), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["means", "factor"], ["pooled"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, [1, 3]))
    with np.load(folder / "golden/expected.npz") as expected:
        tensors, logits = expected["tensors"], expected["logits"]
    content = io.BytesIO()
    np.savez(content, tensors=tensors, logits=logits, pooled=mean_colours(tensors))
    contents = {FILES["onnx"]: model.SerializeToString(), "golden/expected.npz": content.getvalue()}
    for path, data in contents.items():
        (folder / path).write_bytes(data)
    assert manifest.golden is not None
    files, expected_file = (entry(path, contents[path]) for path in contents)
    manifest = dataclasses.replace(
        manifest,
        variants=(dataclasses.replace(manifest.variants[0], files=(files,)),),
        golden=dataclasses.replace(manifest.golden, expected=expected_file),
    )
    (folder / "manifest.json").write_text(manifest.to_json())


def mean_colours(tensors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(n, H, W, 3) to (n, 3)."""
    return tensors.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


@pytest.fixture
def colours_bundle(pristine_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """``colours_bundle(wrong=1.0)``: a bundle folder with onnx.fp32 alone, which gives features too."""

    def make(*, wrong: float = 1.0) -> Path:
        folder = Path(shutil.copytree(pristine_bundle, tmp_path / "features.edgetl"))
        give_colours(folder, wrong=wrong)
        return folder

    return make


@pytest.fixture
def red_photo() -> bytes:
    """A PNG file of a mostly red picture, 60x48 pixels."""
    return photo(COLOURS["red"], seed=99)


@pytest.fixture
def original() -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """The model that the variants came from: tensors (n, H, W, 3) to logits (n, labels)."""
    return reference_logits
