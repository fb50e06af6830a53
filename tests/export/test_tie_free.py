"""Scales whose ratios are odd fractions, and the integers that all engines come to alike for it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgetl_export.quantize.layers import SUMS, exact, layers, rounded
from edgetl_export.quantize.quantization import PIXELS, Grid, Quantized
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.tie_free import LARGEST, odd_fraction, tie_free
from edgetl_export.targets import openvino_fake_quantize, tflite_flatbuffer
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.engines.signal_stack import kept_signal_stack
from edgetl_runtime.machine import cpu_features
from tests.zoo import Inverted

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from edgetl_export.artifact import Artifact
    from tests.export.conftest import Int8

SAME_DB = 100.0
"""What comes from the same integers differs by float rounding alone; one level that differs costs far more."""


def is_odd_fraction(ratio: float) -> bool:
    found = Fraction(ratio).limit_denominator(LARGEST)
    return found.denominator % 2 == 1 and math.isclose(float(found), ratio, rel_tol=1e-6)


@pytest.fixture(params=["inverted", "pooling"])
def small(request: pytest.FixtureRequest) -> Int8:
    found: Int8 = request.getfixturevalue(request.param)
    return found


def test_a_fraction_is_odd_and_hardly_larger() -> None:
    ratios = np.exp(np.random.default_rng(0).uniform(np.log(1e-6), np.log(8), 2000))
    fractions = odd_fraction(ratios)
    assert (fractions >= ratios * (1 - 2e-6)).all()
    assert (fractions <= ratios * (1 + 4 / LARGEST)).all()
    # With one of a thousand denominators nearly every ratio is hit far closer than a step of the largest.
    assert np.median(fractions / ratios - 1) < 1e-4
    for fraction in fractions[:200]:
        if fraction >= 1 / LARGEST:
            assert is_odd_fraction(float(fraction))
        else:
            assert round(1 / fraction) % 2 == 1


def test_no_sum_of_integers_comes_near_a_half() -> None:
    sums = np.arange(-100_000, 100_000)
    for ratio in odd_fraction(np.array([0.0021, 0.0173, 0.31, 1.7])):
        to_half = np.abs((sums * ratio) % 1 - 0.5)
        assert to_half.min() >= 1 / (2 * LARGEST) - 1e-9


def test_a_fraction_stays_what_it_is() -> None:
    once = odd_fraction(np.random.default_rng(1).uniform(1e-4, 2, 500))
    np.testing.assert_allclose(odd_fraction(once), once, rtol=1e-6)


def test_every_ratio_of_a_network_is_an_odd_fraction(small: Int8) -> None:
    quantization, graph = small.quantized.quantization, small.pixels.batched.graph
    grids, inside = quantization.activations, set(rounded(graph))
    checked = 0
    for layer in layers(graph):
        if layer.output not in inside:
            continue
        ratios = np.array(quantization.weights[layer.weight]) * grids[layer.input].scale / grids[layer.output].scale
        larger = [ratio for ratio in ratios if ratio >= 1 / LARGEST]
        assert larger
        assert all(is_odd_fraction(ratio) for ratio in larger), layer.name
        checked += 1
    assert checked >= 3
    sums = [node for node in graph.nodes if node.target in SUMS]
    for node in sums:
        behind = next(iter(node.users)) if node.name not in inside else node
        for source in node.all_input_nodes:
            assert is_odd_fraction(grids[source.name].scale / grids[behind.name].scale), node.name
    assert sums


def test_scales_hardly_move(small: Int8) -> None:
    before, after = small.quantized.quantization, tie_free(_moved(small.quantized)).quantization
    for name, grid in after.activations.items():
        assert grid.zero_point == before.activations[name].zero_point
        assert grid.scale == pytest.approx(before.activations[name].scale, rel=0.01), name
    for name, scales in after.weights.items():
        np.testing.assert_allclose(scales, before.weights[name], rtol=0.02, err_msg=name)


def test_what_is_added_stays_where_scales_are_far_apart(inverted: Int8) -> None:
    old = inverted.quantized.quantization
    first = next(node for node in inverted.pixels.batched.graph.nodes if node.target in SUMS)
    part = first.all_input_nodes[0].name
    grids = {**old.activations, part: Grid(old.activations[part].scale / 100, old.activations[part].zero_point)}
    found = tie_free(replace(inverted.quantized, quantization=replace(old, activations=grids))).quantization
    assert found.activations[part] == grids[part]
    assert found.activations[first.name] == grids[first.name]


def test_grey_levels_stay(small: Int8) -> None:
    assert small.quantized.captured.takes_pixels
    assert small.quantized.quantization.activations[layers(small.pixels.batched.graph)[0].input] == PIXELS


def test_done_twice_it_changes_nothing(small: Int8) -> None:
    again = tie_free(small.quantized).quantization
    for name, grid in small.quantized.quantization.activations.items():
        assert again.activations[name].scale == pytest.approx(grid.scale, rel=1e-6)
    for name, scales in small.quantized.quantization.weights.items():
        np.testing.assert_allclose(again.weights[name], scales, rtol=1e-6)


def test_all_engines_come_to_the_same_integers(small: Int8) -> None:
    found = {target: read_by_last_layer(target, artifact, small) for target, artifact in small.files.items()}
    assert _differing(found["tflite"], found["onnx"]) == 0.0
    assert _differing(found["openvino"], found["onnx"]) == 0.0


def test_and_to_the_same_logits(small: Int8) -> None:
    onnx, tflite = small.logits("onnx"), small.logits("tflite")
    assert sqnr_db(onnx, small.logits("openvino")) > SAME_DB
    # TFLite rounds what a last matrix product reads anew for each image.
    linear = isinstance(small.trained.source.module, Inverted)
    assert sqnr_db(onnx, tflite) > (40 if linear else SAME_DB)


def test_so_does_the_simulation(small: Int8) -> None:
    simulated = Simulation(small.quantized.captured, small.quantized.quantization).outputs(small.trained.tensors)[
        "logits"
    ]
    each = [sqnr_db(wanted, given) for wanted, given in zip(small.logits("onnx"), simulated, strict=True)]
    # It adds in float32: a sum in a thousand images may still land on the other side.
    assert np.mean(np.array(each) > (55 if cpu_features().adds_in_16_bits else SAME_DB)) > 0.95


def test_where_sums_tie_tflite_does_not(inverted: Int8) -> None:
    tied = _with_ties(inverted.quantized)
    written = {name: inverted.targets[name].quantize(tied) for name in ("onnx", "tflite")}
    assert _differing(*(read_by_last_layer(name, file, inverted) for name, file in written.items())) > 1e-3


def test_where_a_rounding_is_left_out_openvino_does_not(inverted: Int8, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_fake_quantize._Constants, "rounded_behind", lambda _, output: output)
    written = {"onnx": inverted.files["onnx"], "openvino": inverted.targets["openvino"].quantize(inverted.quantized)}
    assert _differing(*(read_by_last_layer(name, file, inverted) for name, file in written.items())) > 1e-2


def test_a_network_with_a_sigmoid_is_not_exact(int8: Int8, inverted: Int8) -> None:
    assert exact(inverted.pixels.batched.graph)
    assert not exact(int8.pixels.batched.graph)


def _moved(quantized: Quantized) -> Quantized:
    """Each scale somewhere near, as a calibration might have found it."""
    rng = np.random.default_rng(3)
    old = quantized.quantization
    grids = {
        name: grid if grid == PIXELS else Grid(grid.scale * (1 + 1e-3 * float(rng.random())), grid.zero_point)
        for name, grid in old.activations.items()
    }
    weights = {
        name: tuple(scale * (1 + 1e-3 * float(rng.random())) for scale in scales)
        for name, scales in old.weights.items()
    }
    return replace(quantized, quantization=replace(old, activations=grids, weights=weights))


def _differing(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """The share of values that are not the same level."""
    return float(np.mean(~np.isclose(some, others, rtol=1e-5, atol=1e-6)))


def _with_ties(quantized: Quantized) -> Quantized:
    """Each residual sum is halved: every other one lies in the middle between two levels. And weights as they came."""
    old = _moved(quantized).quantization
    grids = dict(old.activations)
    for node in quantized.captured.batched.graph.nodes:
        if node.target in SUMS:
            for source in node.all_input_nodes:
                grids[source.name] = Grid(0.03125, grids[source.name].zero_point)
            grids[node.name] = Grid(0.0625, grids[node.name].zero_point)
    return replace(quantized, quantization=replace(old, activations=grids))


def read_by_last_layer(target: str, artifact: Artifact, small: Int8) -> npt.NDArray[np.float32]:
    """What the last layer with weights reads for each image: the integers behind all others, times their scale."""
    images = small.trained.tensors[:50]
    if target == "onnx":
        model = onnx.load_from_string(artifact.files[".onnx"])
        last = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")][-1]
        model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run([last.input[0]], {"image": image[None]})[0] for image in images])
    if target == "openvino":
        read = openvino.Core().read_model(artifact.files[".xml"], artifact.files[".bin"])
        layer = [node for node in read.get_ordered_ops() if node.get_type_name() in ("Convolution", "MatMul")][-1]
        read.add_outputs([layer.input_value(0)])
        with kept_signal_stack():
            compiled = openvino.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([np.array(compiled([image[None]])[1]) for image in images])
    opened = tflite_flatbuffer.opened(artifact.files[".tflite"])
    graph = opened.subgraphs[0]
    kinds = ("CONV_2D", "FULLY_CONNECTED")
    source = int([item for item in graph.operators if tflite_flatbuffer.kind(opened, item) in kinds][-1].inputs[0])
    graph.outputs, opened.signatureDefs = np.append(graph.outputs, source).astype(np.int32), None
    interpreter = Interpreter(model_content=tflite_flatbuffer.packed(opened))
    interpreter.allocate_tensors()
    image_index, detail = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[1]
    scale, zero_point = detail["quantization"]
    rows = []
    for image in images:
        interpreter.set_tensor(image_index, image[None])
        interpreter.invoke()
        found = interpreter.get_tensor(detail["index"]).astype(np.float32)
        rows.append((found - zero_point) * scale if scale else found)
    values: npt.NDArray[np.float32] = np.concatenate(rows)
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
