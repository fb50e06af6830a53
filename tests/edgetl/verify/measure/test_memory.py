from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgetl.verify.measure.memory import measure_memory
from edgetl.verify.report import Memory
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
    found = measure_memory(bundle, "onnx.fp32", threads=1)
    assert 10_000_000 < found.peak_rss_bytes < ballast.nbytes


def test_a_cold_start_is_importing_loading_and_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = iter(
        [
            {"peak_rss_bytes": 7, "import_ms": 100.0, "load_ms": 20.0, "first_ms": 3.0, "waited_ms": 61.8},
            {"peak_rss_bytes": 9, "import_ms": 900.0, "load_ms": 10.0, "first_ms": 1.0, "waited_ms": 61.8},
            {"peak_rss_bytes": 8, "import_ms": 110.0, "load_ms": 90.0, "first_ms": 2.0, "waited_ms": 61.8},
        ]
    )

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout=f"welcome\n{json.dumps(next(said))}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert measure_memory(tmp_path, "a.fp32", threads=1) == Memory(9, 20.0, 2.0, 110.0, 202.0, waited=0.15)


def test_each_clock_of_a_cold_start_runs(bundle: Path) -> None:
    found = measure_memory(bundle, "onnx.fp32", threads=1, processes=1)
    parts = (found.import_ms, found.load_ms, found.first_ms)
    assert all(part is not None and part > 0 for part in parts)
    assert found.cold_start_ms == pytest.approx(sum(part or 0.0 for part in parts))


def test_a_probe_that_fails_says_why(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"onnx\.fp32: the memory measurement failed: .*model\.onnx"):
        measure_memory(bundle, "onnx.fp32", threads=1)
