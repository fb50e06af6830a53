from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from runtime_models import HandMade
from runtime_peers import PEERS, main, result_of
from runtime_processes import Start

LABELS = ["tench", "goldfish"]


@pytest.fixture
def by_hand(tmp_path: Path) -> HandMade:
    """A model of two labels for float NCHW: the means of the first two channels."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
            onnx.helper.make_node("Slice", ["m", "zero", "two", "one"], ["y"]),
        ],
        "tiny",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 224, 224])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        [
            onnx.numpy_helper.from_array(np.array(values, np.int64), name)
            for name, values in (("axes", [2, 3]), ("zero", [0]), ("two", [2]), ("one", [1]))
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "labels.json").write_text(json.dumps([{"id": name, "name": name} for name in LABELS]))
    return HandMade({"onnxruntime": tmp_path / "model.onnx"}, tmp_path / "labels.json")


def run(path: Path, feeds: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [output.name for output in session.get_outputs()], session.run(None, feeds)[0]


def test_the_hub_s_folder_has_the_same_model_by_the_names_that_optimum_wants(by_hand: HandMade, tmp_path: Path) -> None:
    from runtime_peer_models import hugging_face_folder

    folder = hugging_face_folder(by_hand, tmp_path / "hub")
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    names, logits = run(folder / "model.onnx", {"pixel_values": image})
    assert names == ["logits"]
    np.testing.assert_allclose(logits, run(by_hand.models["onnxruntime"], {"x": image})[1])
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "tench", "1": "goldfish"}


def test_ultralytics_file_normalises_and_gives_probabilities(by_hand: HandMade, tmp_path: Path) -> None:
    from runtime_peer_models import MEAN, STD, ultralytics_file

    path = ultralytics_file(by_hand, tmp_path / "u.onnx")
    pixels = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    shaped = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    mean, std = shaped
    logits = run(by_hand.models["onnxruntime"], {"x": (pixels - mean) / std})[1]
    names, found = run(path, {"images": pixels})
    assert names == ["output0"]
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)


def test_the_line_of_a_peer_has_medians_and_the_largest_peak() -> None:
    found = [Start("a", ms, 1.0, peak, frozenset(), {"p50_ms": p}) for ms, peak, p in ((9, 7, 1), (5, 9, 2), (7, 8, 9))]
    row = result_of(PEERS["mediapipe"], found, {"mediapipe": "1.2.2", "numpy": "2"}, 484_000_000)
    assert (row.first_ms, row.p50_ms, row.peak_mb) == (7, 2, 9e-6)
    assert (row.installed_mb, row.packages, row.versions) == (484, 2, "mediapipe 1.2.2")


def test_an_unknown_peer_is_refused_before_anything_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "--photos", "p", "--work", str(tmp_path), "--peers", "media"]) == 2
    assert "mediapipe" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
