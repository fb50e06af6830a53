from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edgetl.verify.memory import measure_memory
from edgetl_runtime.errors import EngineError
from edgetl_runtime.manifest import FileEntry, Label, Manifest, Normalize, Preprocess, Requires, TensorSpec, Variant

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One ONNX file that adds up each colour of a 4x4 image."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=kinds.FLOAT),
            helper.make_node("ReduceSum", ["pixels", "axes"], ["logits"], keepdims=0),
        ],
        "colours",
        [helper.make_tensor_value_info("image", kinds.UINT8, [1, 4, 4, 3])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    entry = FileEntry("model.onnx", hashlib.sha256(content).hexdigest(), len(content))
    manifest = Manifest(
        name="colours",
        task="classification",
        labels=tuple(Label(name, name) for name in ("red", "green", "blue")),
        input=TensorSpec("image", "uint8", (1, 4, 4, 3), "NHWC"),
        preprocess=Preprocess(resize=4, crop=(4, 4)),
        normalize=Normalize((0.0,) * 3, (1.0,) * 3),
        output=TensorSpec("logits", "float32", (1, 3)),
        variants=(Variant("onnx.fp32", "onnx", "fp32", (entry,), Requires("onnxruntime")),),
    )
    (tmp_path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return tmp_path


def test_the_peak_is_that_of_a_process_of_its_own(bundle: Path) -> None:
    ballast = np.ones(30_000_000, dtype=np.float64)  # 240 MB here must not show up there
    peak = measure_memory(bundle, "onnx.fp32", threads=1).peak_rss_bytes
    assert 10_000_000 < peak < ballast.nbytes


def test_a_probe_that_fails_says_why(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"onnx\.fp32: the memory measurement failed: .+"):
        measure_memory(bundle, "onnx.fp32", threads=1)
