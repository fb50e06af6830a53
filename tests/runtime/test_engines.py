"""Every engine behind the one border: the same numbers, independent results, and failures that say what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgetl_runtime import EngineError, MissingDependency, TensorSpec, UsageError, open_bundle
from edgetl_runtime.engines import ENGINES, Execution, ModelBytes, Signature, installed, open_session
from edgetl_runtime.engines.binding import bind
from edgetl_runtime.engines.ov import OpenVinoSession
from tests.conftest import onnx_model, tflite_model

VARIANTS = ("onnx.fp32", "tflite.fp32", "openvino.fp32")
Original = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@pytest.fixture
def tensors() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (24, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_session_computes_the_model(
    variant: str, threads: int | None, pristine_bundle: Path, tensors: npt.NDArray[np.uint8], original: Original
) -> None:
    with open_bundle(pristine_bundle).session(variant, threads=threads) as session:
        results = [session.run({"image": tensor[None]})["logits"] for tensor in tensors]
    # Compared only now: a result that the next run overwrites would differ.
    np.testing.assert_allclose(np.concatenate(results), original(tensors), rtol=1e-5, atol=1e-5)
    assert results[0].dtype == np.float32
    assert results[0].flags.writeable


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_may_share_a_session(
    variant: str, pristine_bundle: Path, tensors: npt.NDArray[np.uint8], original: Original
) -> None:
    with open_bundle(pristine_bundle).session(variant, threads=1) as session, ThreadPoolExecutor(4) as pool:
        many = np.concatenate([tensors] * 10)
        results = list(pool.map(lambda tensor: session.run({"image": tensor[None]})["logits"], many))
    np.testing.assert_allclose(np.concatenate(results), original(many), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_views_that_are_not_contiguous_run(
    variant: str, pristine_bundle: Path, tensors: npt.NDArray[np.uint8], original: Original
) -> None:
    flipped = tensors[:1, ::-1, ::-1, ::-1]
    with open_bundle(pristine_bundle).session(variant) as session:
        np.testing.assert_allclose(session.run({"image": flipped})["logits"], original(flipped), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_session_describes_itself(variant: str, pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    with bundle.session(variant) as session:
        assert session.engine == bundle.manifest.variant(variant).requires.engine
        assert session.engine_version == installed(session.engine)
        assert (session.inputs, session.outputs) == ((bundle.manifest.input,), (bundle.manifest.output,))


@pytest.mark.parametrize("variant", VARIANTS)
def test_closing_twice_is_fine_and_running_then_is_an_error(variant: str, pristine_bundle: Path) -> None:
    session = open_bundle(pristine_bundle).session(variant)
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run({"image": np.zeros((1, 24, 32, 3), np.uint8)})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"picture": np.zeros((1, 24, 32, 3), np.uint8)},
        {"image": np.zeros((1, 24, 32, 3), np.float32)},
        {"image": np.zeros((1, 32, 24, 3), np.uint8)},
        {"image": np.zeros((24, 32, 3), np.uint8)},
    ],
)
def test_wrong_inputs_are_named(variant: str, feeds: dict[str, npt.NDArray[np.generic]], pristine_bundle: Path) -> None:
    with open_bundle(pristine_bundle).session(variant) as session, pytest.raises(EngineError, match="image"):
        session.run(feeds)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("damage", ["noise", "cut", "empty"])
def test_damaged_model_names_engine_and_version(variant: str, damage: str, pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    model = bundle.model(variant)
    main = {"noise": b"\x07noise" * 99, "cut": model.main[: len(model.main) // 2], "empty": b""}[damage]
    engine = bundle.manifest.variant(variant).requires.engine
    signature = Signature((bundle.manifest.input,), (bundle.manifest.output,))
    with pytest.raises(EngineError, match=f"{engine}.*{installed(engine)}") as raised:
        open_session(engine, dataclasses.replace(model, main=main), signature)
    assert raised.value.fix == "copy the bundle again, or export it again"


def _newer_onnx() -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.ModelProto.FromString(onnx_model(None))
    model.ir_version = 99
    return bytes(model.SerializeToString())


def _unknown_onnx() -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.ModelProto.FromString(onnx_model(None))
    model.graph.node[0].op_type = "Futuristic"
    return bytes(model.SerializeToString())


def _newer_opset() -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.ModelProto.FromString(onnx_model(None))
    model.opset_import[0].version = 999
    return bytes(model.SerializeToString())


def _newer_tflite() -> bytes:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(tflite_model(None))
    model.operatorCodes[2].version = 99
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("engine", "make"),
    [
        ("onnxruntime", _newer_onnx),
        ("onnxruntime", _unknown_onnx),
        ("onnxruntime", _newer_opset),
        ("litert", _newer_tflite),
    ],
)
def test_a_newer_engine_is_the_advice_where_one_helps(
    engine: str, make: Callable[[], bytes], pristine_bundle: Path
) -> None:
    manifest = open_bundle(pristine_bundle).manifest
    with pytest.raises(EngineError) as raised:
        open_session(engine, ModelBytes(make(), name="x"), Signature((manifest.input,), (manifest.output,)))
    assert "pip install --upgrade" in str(raised.value.fix)


def test_openvino_that_is_too_old_for_a_layer_is_told_so(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    model = bundle.model("openvino.fp32")
    model = dataclasses.replace(model, main=model.main.replace(b'type="ReduceMean"', b'type="Futuristic"'))
    with pytest.raises(EngineError) as raised:
        open_session("openvino", model, Signature((bundle.manifest.input,), (bundle.manifest.output,)))
    assert raised.value.fix == "pip install --upgrade openvino"


@pytest.mark.parametrize(("options", "pinned"), [({}, False), ({"ENABLE_CPU_PINNING": "YES"}, True)])
def test_openvino_is_not_pinned_to_the_first_cores(
    options: dict[str, str], pinned: bool, pristine_bundle: Path
) -> None:
    """Where every session is, two of them share a core while others are idle."""
    with open_bundle(pristine_bundle).session("openvino.fp32", threads=1, device_options=options) as session:
        assert isinstance(session, OpenVinoSession)
        assert session._compiled.get_property("ENABLE_CPU_PINNING") is pinned


def test_openvino_without_its_weights_is_an_error(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    model = dataclasses.replace(bundle.model("openvino.fp32"), weights=None)
    with pytest.raises(EngineError, match="cannot load"):
        open_session("openvino", model, Signature((bundle.manifest.input,), (bundle.manifest.output,)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_manifest_of_another_model_is_refused(variant: str, pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    output = dataclasses.replace(bundle.manifest.output, shape=(1, 1000))
    with pytest.raises(EngineError, match=r"\[1, 4\].*\[1, 1000\]"):
        open_session(
            bundle.manifest.variant(variant).requires.engine,
            bundle.model(variant),
            Signature((bundle.manifest.input,), (output,)),
        )


def test_bind_prefers_names_to_positions() -> None:
    first, second = TensorSpec("a", "uint8", (1,)), TensorSpec("b", "uint8", (2,))
    assert bind((first, second), [second, first], what="input", where="file") == (1, 0)
    renamed = [TensorSpec("x", "uint8", (-1,)), TensorSpec("y", "uint8", (2,))]
    assert bind((first, second), renamed, what="input", where="file") == (0, 1)
    with pytest.raises(EngineError, match="file has inputs x, y"):
        bind((first,), renamed, what="input", where="file")


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_library_is_one_line_with_the_command(engine: str, no_engines: Callable[..., None]) -> None:
    no_engines()
    assert installed(engine) is None
    with pytest.raises(MissingDependency, match=rf'pip install "edgetl\[{ENGINES[engine].extra}\]"') as caught:
        open_session(engine, ModelBytes(b"", name="x"), Signature((), ()))
    assert "\n" not in str(caught.value)


def test_folder_with_a_librarys_name_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_engines: Callable[..., None]
) -> None:
    """A bundle has a folder called openvino; who works inside it must not seem to have the library."""
    (tmp_path / "tflite_runtime").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    no_engines("ai_edge_litert", "tensorflow")
    assert installed("litert") is None


def test_unknown_engine_and_threads_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        installed("openvin")
    with pytest.raises(UsageError, match="threads"):
        open_session("litert", ModelBytes(b"", name="x"), Signature((), ()), Execution(threads=0))


def test_importing_the_runtime_imports_no_engine() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime", "tensorflow"}
    code = f"import sys, edgetl_runtime.cli; print(sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_onnxruntime_reads_a_file_that_nobody_else_has(
    pristine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes would lie in memory beside its own copy while it loads; the bundle's file may change meanwhile."""
    from edgetl_runtime.engines import ort

    given: list[object] = []
    real = ort.onnxruntime.InferenceSession

    def opened(source: str | bytes, *args: object, **options: object) -> object:
        given.append(Path(source).read_bytes() if isinstance(source, str) else source)
        assert isinstance(source, str) == hasattr(os, "memfd_create")
        return real(source, *args, **options)

    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", opened)
    zipped = Path(shutil.make_archive(str(tmp_path / "colours"), "zip", pristine_bundle))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else None
    for path in (pristine_bundle, pristine_bundle / "onnx/model.fp32.onnx"):
        for verify in (True, False):
            open_bundle(path).session("onnx.fp32", verify=verify).close()
    if before is not None:
        assert len(list(descriptors.iterdir())) == before  # nothing stays open
    open_bundle(zipped).session("onnx.fp32").close()
    monkeypatch.delattr(os, "memfd_create", raising=False)
    open_bundle(pristine_bundle).session("onnx.fp32").close()
    assert given == [(pristine_bundle / "onnx/model.fp32.onnx").read_bytes()] * 6


def test_a_label_is_there_before_anything_slow_is_imported(pristine_bundle: Path) -> None:
    """With LiteRT, which imports none of these itself."""
    program = (
        "import json, sys, numpy, PIL.Image\n"
        "before = set(sys.modules)\n"
        "import edgetl_runtime\n"
        f"with edgetl_runtime.load({str(pristine_bundle)!r}, variant='tflite.fp32') as classifier:\n"
        f"    classifier.predict({str(pristine_bundle / 'golden' / '00.png')!r})\n"
        "slow = {'pathlib', 'urllib.parse', 'importlib.metadata', 'zipfile', 'concurrent.futures'}\n"
        "print(json.dumps(sorted(slow & (set(sys.modules) - before))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == []
