from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from int8_peers import main, parse, settings
from peers import PEERS, _Reader, quantize_in_a_process
from workloads import with_crops

from edgetl_runtime.engines import Execution, ModelBytes, Signature, open_session
from edgetl_runtime.errors import ExportError, UsageError
from edgetl_runtime.machine import cpu_features
from edgetl_runtime.manifest import TensorSpec


def test_settings_are_toml_values_or_else_strings() -> None:
    pairs = ["quantize=ptq", "max_drop=0.01", "cache=false", "layers=['a', 'b']", "note=a=b"]
    assert settings(pairs) == {
        "quantize": "ptq",
        "max_drop": 0.01,
        "cache": False,
        "layers": ["a", "b"],
        "note": "a=b",
    }


@pytest.mark.parametrize(
    ("pair", "message"), [("ptq", "has no value"), ("precisions=['int8']", "the benchmark sets precisions itself")]
)
def test_settings_that_make_no_sense_are_refused(pair: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings([pair])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "ort,nccf"], "unknown peer 'nccf'"),
        (["--peers", "none", "--limit", "3"], "--limit 3 images are too few"),
        (["--peers", "none", "--edgetl-set", "precison=fp16"], "unknown key 'precison'"),
        (["--peers", "none", "--json", "nowhere/result.json"], "cannot write nowhere/result.json"),
    ],
)
def test_a_command_line_that_cannot_be_run_ends_with_2_before_anything_else(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--peers", "none", "--data", str(tmp_path / "missing")]) == 2
    assert "missing with weights and photos" in capsys.readouterr().err


def test_the_command_line_is_read(tmp_path: Path) -> None:
    given = parse(["--data", str(tmp_path), "--peers", "none", "--limit", "16", "--speed-only"])
    assert (given.peers, given.limit, given.crops, given.speed_only, given.section) == ((), 16, 0, True, {})
    assert given.data == tmp_path


def test_crops_are_parts_of_their_photos() -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (3, 100, 100, 3))
    found = with_crops(ramp, 2)
    assert found.shape == (9, 100, 100, 3)
    np.testing.assert_array_equal(found[:3], ramp)
    for crop, mirrored in ((found[3], False), (found[6], True)):
        row = crop[50, :: -1 if mirrored else 1, 0].astype(int)
        assert 70 <= row[-1] - row[0] <= 99
        assert (np.diff(row) >= 0).all()
    assert len({image.tobytes() for image in found[3:6]}) == 3


def test_the_reader_gives_every_image_of_a_range_once() -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    reader = _Reader(images, "image")
    read = []
    for start, end in ((0, 2), (2, 5)):
        reader.set_range(start, end)
        while (feeds := reader.get_next()) is not None:
            assert feeds["image"].shape == (1, 1, 1, 1)
            read.append(int(feeds["image"].ravel()[0]))
    assert read == [0, 1, 2, 3, 4]


def small_network(path: Path) -> None:
    """The input contract around one convolution: (1, 8, 8, 3) uint8 to 4 logits."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    rng = np.random.default_rng(0)
    constants = {
        "scale": np.full(3, 1 / 58, np.float32),
        "shift": np.full(3, -2.1, np.float32),
        "weights": rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=kind.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"], "mul"),
        helper.make_node("Add", ["scaled", "shift"], ["normal"], "add"),
        helper.make_node("Transpose", ["normal"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["features"], "conv"),
        helper.make_node("ReduceMean", ["features"], ["logits"], "mean", axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", kind.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, [1, 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_peer_quantises_all_but_the_normalisation_in_a_process_of_its_own(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    small_network(tmp_path / "small.onnx")
    images = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    made, _ = quantize_in_a_process("ort", tmp_path / "small.onnx", tmp_path / "images.npy", tmp_path / "out")
    nodes = {node.name: node for node in onnx.load(made).graph.node}
    assert list(nodes["mul"].input) == ["pixels", "scale"]
    assert list(nodes["add"].input) == ["scaled", "shift"]
    assert {node.op_type for node in nodes.values() if node.output[0] in nodes["conv"].input} == {"DequantizeLinear"}
    signature = Signature(
        (TensorSpec("image", "uint8", (1, 8, 8, 3), "NHWC"),), (TensorSpec("logits", "float32", (1, 4)),)
    )
    wanted, found = (
        _first_logits(ModelBytes(path.read_bytes(), name=path.name), signature, images[:1])
        for path in (tmp_path / "small.onnx", made)
    )
    np.testing.assert_allclose(
        found, wanted, atol=(0.1 if cpu_features().adds_in_16_bits else 0.05) * np.abs(wanted).max()
    )
    assert (found != wanted).any()


def _first_logits(model: ModelBytes, signature: Signature, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with open_session("onnxruntime", model, signature, Execution(threads=1)) as session:
        logits: npt.NDArray[np.float32] = session.run({"image": image})["logits"]
    return logits


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((8, 4, 4, 3), np.uint8))
    with pytest.raises(ExportError, match=r"ort ended with code 1: .*missing\.onnx"):
        quantize_in_a_process("ort", tmp_path / "missing.onnx", tmp_path / "images.npy", tmp_path / "out")


def test_every_peer_starts_from_a_format_that_edgetl_writes() -> None:
    assert {peer.target for peer in PEERS.values()} == {"onnx", "tflite", "openvino"}
